//! Names of a function body: registers, variables and labels by nested block.

use super::ParseError;
use super::ast::{Function, Label, LabelId, RegId, Register, Type};
use std::collections::HashMap;

/// Blocks may nest this deep; a look-up walks all of them.
const MAX_DEPTH: usize = 256;

/// What a name inside a function means.
#[derive(Debug, Clone)]
pub enum Symbol {
    /// A register.
    Register(RegId),
    /// A vector register, by its elements.
    Vector(Vec<RegId>),
    /// Index into the function's variables.
    Variable(u32),
    /// Index into the function's parameters.
    Param(u32),
    /// Index into the function's return parameters.
    Return(u32),
    /// Index into the function's branch tables.
    BranchTable(u32),
    /// A `.callprototype` or `.calltargets`.
    Prototype,
}

/// One `{ }`.
#[derive(Default)]
struct Scope<'a> {
    symbols: HashMap<&'a str, Symbol>,
    /// `%r<n>`: count and type by prefix. A register exists from its first use on.
    ranges: HashMap<&'a str, (u32, Type)>,
    /// Labels that stand in this block, by instruction.
    labels: HashMap<&'a str, usize>,
    /// Uses of labels that no inner block has: name, id, line.
    uses: Vec<(&'a str, LabelId, u32)>,
}

/// The open blocks of a function, outermost first.
#[derive(Default)]
pub struct Scopes<'a> {
    stack: Vec<Scope<'a>>,
}

/// Splits `%r12` into `%r` and 12; a number with a leading zero does not name a register of a range.
fn split_range(name: &str) -> Option<(&str, u32)> {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[prefix.len()..];
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((prefix, digits.parse().ok()?))
}

impl<'a> Scopes<'a> {
    /// Number of open blocks.
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Opens a block.
    pub fn open(&mut self, line: u32) -> Result<(), ParseError> {
        if self.stack.len() == MAX_DEPTH {
            return Err(ParseError {
                line,
                message: format!("blocks nest deeper than {MAX_DEPTH}"),
            });
        }
        self.stack.push(Scope::default());
        Ok(())
    }

    /// Closes the innermost block: its labels meet their uses, and the other uses move outwards.
    pub fn close(&mut self, function: &mut Function) -> Result<(), ParseError> {
        let Some(scope) = self.stack.pop() else {
            return Ok(());
        };
        for (name, id, line) in scope.uses {
            if let Some(&target) = scope.labels.get(name) {
                function.labels[id.0 as usize].target = target;
            } else if let Some(outer) = self.stack.last_mut() {
                outer.uses.push((name, id, line));
            } else {
                return Err(ParseError {
                    line,
                    message: format!("undeclared name `{name}`"),
                });
            }
        }
        Ok(())
    }

    /// Declares a name in the innermost block.
    pub fn declare(&mut self, name: &'a str, symbol: Symbol, line: u32) -> Result<(), ParseError> {
        let Some(scope) = self.stack.last_mut() else {
            return Ok(());
        };
        if scope.symbols.insert(name, symbol).is_some() {
            return Err(ParseError {
                line,
                message: format!("`{name}` is declared twice"),
            });
        }
        Ok(())
    }

    /// Declares `prefix<count>` in the innermost block.
    pub fn declare_range(
        &mut self,
        prefix: &'a str,
        count: u32,
        ty: Type,
        line: u32,
    ) -> Result<(), ParseError> {
        let Some(scope) = self.stack.last_mut() else {
            return Ok(());
        };
        if scope.ranges.insert(prefix, (count, ty)).is_some() {
            return Err(ParseError {
                line,
                message: format!("`{prefix}<..>` is declared twice"),
            });
        }
        Ok(())
    }

    /// Places a label before instruction `target`.
    pub fn place_label(
        &mut self,
        name: &'a str,
        target: usize,
        line: u32,
    ) -> Result<(), ParseError> {
        let Some(scope) = self.stack.last_mut() else {
            return Ok(());
        };
        if scope.labels.insert(name, target).is_some() {
            return Err(ParseError {
                line,
                message: format!("label `{name}` stands twice"),
            });
        }
        Ok(())
    }

    /// A use of a label, wherever it will stand.
    pub fn use_label(&mut self, name: &'a str, line: u32, function: &mut Function) -> LabelId {
        let id = LabelId(function.labels.len() as u32);
        function.labels.push(Label {
            name: name.to_owned(),
            target: 0,
        });
        if let Some(scope) = self.stack.last_mut() {
            scope.uses.push((name, id, line));
        }
        id
    }

    /// The meaning of a name, innermost block first. Labels are not looked for.
    pub fn find(&mut self, name: &'a str, function: &mut Function) -> Option<Symbol> {
        let range = split_range(name);
        for scope in self.stack.iter_mut().rev() {
            if let Some(symbol) = scope.symbols.get(name) {
                return Some(symbol.clone());
            }
            let Some((prefix, number)) = range else {
                continue;
            };
            if let Some(&(count, ty)) = scope.ranges.get(prefix)
                && number < count
            {
                let symbol = Symbol::Register(new_register(function, name, ty));
                scope.symbols.insert(name, symbol.clone());
                return Some(symbol);
            }
        }
        None
    }
}

/// Appends a register to the function.
pub fn new_register(function: &mut Function, name: &str, ty: Type) -> RegId {
    let id = RegId(function.registers.len() as u32);
    function.registers.push(Register {
        name: name.to_owned(),
        ty,
    });
    id
}
