//! Instructions and their operands.

use super::ParseError;
use super::ast::{AddressBase, Function, Guard, Instruction, Operand, RegId, VariableRef};
use super::expression::{self, Constant};
use super::lexer::{Lexer, Token, describe};
use super::scope::{Scopes, Symbol};
use std::collections::HashMap;

/// Vectors and lists may nest this deep; it bounds the recursion.
const MAX_DEPTH: u32 = 8;

/// Special registers, without `%` and element.
const SPECIAL: [&str; 49] = [
    "tid",
    "ntid",
    "laneid",
    "warpid",
    "nwarpid",
    "ctaid",
    "nctaid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "clusterid",
    "nclusterid",
    "cluster_ctaid",
    "cluster_nctaid",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "reserved_smem_offset_0",
    "reserved_smem_offset_1",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
    "pm0",
    "pm1",
    "pm2",
    "pm3",
    "pm4",
    "pm5",
    "pm6",
    "pm7",
    "envreg0",
    "envreg1",
    "envreg2",
    "envreg3",
];

/// What a name at module scope means.
#[derive(Debug, Clone, Copy)]
pub enum ModuleSymbol {
    /// Index into the module's variables.
    Variable(u32),
    /// Index into the module's functions.
    Function(u32),
}

/// Parses the instructions of one function.
pub struct InstructionParser<'p, 'a> {
    /// Tokens.
    pub lexer: &'p mut Lexer<'a>,
    /// Open blocks.
    pub scopes: &'p mut Scopes<'a>,
    /// What is being built.
    pub function: &'p mut Function,
    /// Names outside the function.
    pub module: &'p HashMap<&'a str, ModuleSymbol>,
}

impl<'a> InstructionParser<'_, 'a> {
    /// `@p` or `@!p`; the `@` has been taken.
    pub fn guard(&mut self) -> Result<Guard, ParseError> {
        let negated = self.lexer.accept("!")?;
        let register = self.register()?;
        Ok(Guard { register, negated })
    }

    /// The rest of an instruction after the first part of its opcode, the semicolon included.
    pub fn instruction(
        &mut self,
        first: &str,
        guard: Option<Guard>,
        line: u32,
        source: Option<(u32, u32, u32)>,
    ) -> Result<(), ParseError> {
        let mut opcode = first.to_owned();
        while let Token::Dot(modifier) = self.lexer.peek() {
            opcode.push_str(modifier);
            self.lexer.next()?;
        }
        let mut operands = Vec::new();
        if !self.lexer.accept(";")? {
            let is_call = first == "call";
            loop {
                operands.push(self.operand(is_call, 0)?);
                if !self.lexer.accept(",")? {
                    break;
                }
            }
            self.lexer.expect(";")?;
        }
        self.function.body.push(Instruction {
            guard,
            opcode,
            operands,
            line,
            source,
        });
        Ok(())
    }

    fn operand(&mut self, in_call: bool, depth: u32) -> Result<Operand, ParseError> {
        if depth > MAX_DEPTH {
            return self.lexer.error("operands nest too deeply");
        }
        match self.lexer.peek() {
            Token::Punct("[") => self.address(depth),
            Token::Punct("{") => {
                self.lexer.next()?;
                Ok(Operand::Vector(self.operands_until("}", depth)?))
            }
            Token::Punct("(") if in_call => {
                self.lexer.next()?;
                Ok(Operand::List(self.operands_until(")", depth)?))
            }
            Token::Punct("!") => {
                self.lexer.next()?;
                if let Token::Name(_) = self.lexer.peek() {
                    return Ok(Operand::NotRegister(self.register()?));
                }
                let value = expression::integer(self.lexer)?;
                Ok(Operand::Int(i64::from(value == 0)))
            }
            Token::Name("WARP_SZ") => self.constant(),
            Token::Name(_) => self.named_operand(),
            _ => self.constant(),
        }
    }

    fn constant(&mut self) -> Result<Operand, ParseError> {
        Ok(match expression::constant(self.lexer)? {
            Constant::Int(value, _) => Operand::Int(value),
            Constant::F32(bits) => Operand::F32(bits),
            Constant::F64(bits) => Operand::F64(bits),
        })
    }

    fn operands_until(&mut self, end: &str, depth: u32) -> Result<Vec<Operand>, ParseError> {
        let mut operands = Vec::new();
        while !self.lexer.accept(end)? {
            operands.push(self.operand(false, depth + 1)?);
            if !self.lexer.accept(",")? {
                self.lexer.expect(end)?;
                break;
            }
        }
        Ok(operands)
    }

    /// A name, `a|b`, or `variable+offset`.
    fn named_operand(&mut self) -> Result<Operand, ParseError> {
        let first = self.name()?;
        if !matches!(first, Operand::Register(_) | Operand::Discard) || !self.lexer.accept("|")? {
            if let Operand::Variable(variable, _) = first {
                return Ok(Operand::Variable(variable, self.offset()?));
            }
            return Ok(first);
        }
        let second = self.name()?;
        if !matches!(second, Operand::Register(_) | Operand::Discard) {
            return self.lexer.error("expected a register after `|`");
        }
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    /// What a single name stands for.
    fn name(&mut self) -> Result<Operand, ParseError> {
        let line = self.lexer.line();
        let name = self.lexer.expect_name()?;
        if name == "_" {
            return Ok(Operand::Discard);
        }
        let Some(symbol) = self.scopes.find(name, self.function) else {
            return self.outer_name(name, line);
        };
        Ok(match symbol {
            Symbol::Register(id) => Operand::Register(id),
            Symbol::Vector(elements) => self.vector_register(&elements)?,
            Symbol::Variable(index) => Operand::Variable(VariableRef::Function(index), 0),
            Symbol::Param(index) => Operand::Variable(VariableRef::Param(index), 0),
            Symbol::Return(index) => Operand::Variable(VariableRef::Return(index), 0),
            Symbol::BranchTable(index) => Operand::BranchTable(index),
            Symbol::Prototype => Operand::Prototype,
        })
    }

    /// A vector register, whole or one element of it.
    fn vector_register(&mut self, elements: &[RegId]) -> Result<Operand, ParseError> {
        let Token::Dot(element) = self.lexer.peek() else {
            return Ok(Operand::Vector(
                elements.iter().map(|&id| Operand::Register(id)).collect(),
            ));
        };
        let index = match element {
            ".x" | ".r" => 0,
            ".y" | ".g" => 1,
            ".z" | ".b" => 2,
            ".w" | ".a" => 3,
            _ => elements.len(),
        };
        match elements.get(index) {
            Some(&id) => {
                self.lexer.next()?;
                Ok(Operand::Register(id))
            }
            None => self
                .lexer
                .error(format!("no element `{element}` in this vector register")),
        }
    }

    /// A name that no block declares: of the module, a special register, or a label.
    fn outer_name(&mut self, name: &'a str, line: u32) -> Result<Operand, ParseError> {
        if let Some(symbol) = self.module.get(name) {
            return Ok(match symbol {
                ModuleSymbol::Variable(index) => Operand::Variable(VariableRef::Module(*index), 0),
                ModuleSymbol::Function(_) => Operand::Function(name.to_owned()),
            });
        }
        let Some(special) = name.strip_prefix('%') else {
            return Ok(Operand::Label(self.scopes.use_label(
                name,
                line,
                self.function,
            )));
        };
        if !SPECIAL.contains(&special.trim_end_matches("_64")) {
            return Err(ParseError {
                line,
                message: format!("undeclared register `{name}`"),
            });
        }
        let mut name = name.to_owned();
        if let Token::Dot(element @ (".x" | ".y" | ".z" | ".w")) = self.lexer.peek() {
            name.push_str(element);
            self.lexer.next()?;
        }
        Ok(Operand::Special(name))
    }

    fn register(&mut self) -> Result<RegId, ParseError> {
        match self.name()? {
            Operand::Register(id) => Ok(id),
            _ => self.lexer.error("expected a register"),
        }
    }

    /// `+4`, `-4`, `+-4` or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.lexer.accept("+")? {
            return expression::term(self.lexer);
        }
        if self.lexer.accept("-")? {
            return Ok(expression::term(self.lexer)?.wrapping_neg());
        }
        Ok(0)
    }

    fn address(&mut self, depth: u32) -> Result<Operand, ParseError> {
        self.lexer.expect("[")?;
        let address = match self.lexer.peek() {
            Token::Name(name) if name != "WARP_SZ" => {
                let base = match self.name()? {
                    Operand::Register(id) => AddressBase::Register(id),
                    Operand::Variable(variable, _) => AddressBase::Variable(variable),
                    _ => return self.lexer.error(format!("`{name}` is no address")),
                };
                Operand::Address {
                    base,
                    offset: self.offset()?,
                }
            }
            Token::End => {
                return self.lexer.error(format!(
                    "expected an address, found {}",
                    describe(Token::End)
                ));
            }
            _ => Operand::Address {
                base: AddressBase::Absolute,
                offset: expression::integer(self.lexer)?,
            },
        };
        if self.lexer.accept(",")? {
            let rest = self.operands_until("]", depth)?;
            return Ok(Operand::AddressList(Box::new(address), rest));
        }
        self.lexer.expect("]")?;
        Ok(address)
    }
}
