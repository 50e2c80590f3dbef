//! Function bodies: blocks, declarations, labels and line information.

use super::ParseError;
use super::ast::{Function, Space, VariableRef};
use super::instruction::{InstructionParser, ModuleSymbol};
use super::lexer::{Lexer, Token, describe};
use super::scope::{Scopes, Symbol, new_register};
use super::variable::{VariablePrefix, fundamental_type};
use std::collections::HashMap;

/// Parses the body of `function`, its braces included. Parameters are in `function` already.
pub fn body<'a>(
    lexer: &mut Lexer<'a>,
    module: &HashMap<&'a str, ModuleSymbol>,
    params: &[(&'a str, VariableRef)],
    function: &mut Function,
) -> Result<(), ParseError> {
    let mut scopes = Scopes::default();
    scopes.open(lexer.line())?;
    for &(name, variable) in params {
        let symbol = match variable {
            VariableRef::Return(index) => Symbol::Return(index),
            VariableRef::Param(index)
            | VariableRef::Function(index)
            | VariableRef::Module(index) => Symbol::Param(index),
        };
        scopes.declare(name, symbol, lexer.line())?;
    }
    let mut parser = BodyParser {
        lexer,
        module,
        scopes,
        function,
        source: None,
    };
    parser.lexer.expect("{")?;
    parser.scopes.open(parser.lexer.line())?;
    while parser.scopes.depth() > 1 {
        parser.statement()?;
    }
    parser.scopes.close(parser.function)
}

struct BodyParser<'p, 'a> {
    lexer: &'p mut Lexer<'a>,
    module: &'p HashMap<&'a str, ModuleSymbol>,
    scopes: Scopes<'a>,
    function: &'p mut Function,
    /// Position of the latest `.loc`.
    source: Option<(u32, u32, u32)>,
}

impl<'a> BodyParser<'_, 'a> {
    fn statement(&mut self) -> Result<(), ParseError> {
        let line = self.lexer.line();
        match self.lexer.next()? {
            Token::Punct(";") => Ok(()),
            Token::Punct("{") => self.scopes.open(line),
            Token::Punct("}") => self.scopes.close(self.function),
            Token::Punct("@") => {
                let guard = self.instructions().guard()?;
                let opcode = self.lexer.expect_name()?;
                let source = self.source;
                self.instructions()
                    .instruction(opcode, Some(guard), line, source)
            }
            Token::Name(name) if self.lexer.accept(":")? => self.label(name, line),
            Token::Name(opcode) => {
                let source = self.source;
                self.instructions().instruction(opcode, None, line, source)
            }
            Token::Dot(".reg") => self.registers(),
            Token::Dot(".loc") => {
                self.source = Some(location(self.lexer)?);
                Ok(())
            }
            Token::Dot(".pragma") => skip_pragma(self.lexer),
            Token::Dot(".local") => self.variables(Space::Local),
            Token::Dot(".shared") => self.variables(Space::Shared),
            Token::Dot(".param") => self.variables(Space::Param),
            other => Err(ParseError {
                line,
                message: format!("expected an instruction, found {}", describe(other)),
            }),
        }
    }

    fn instructions(&mut self) -> InstructionParser<'_, 'a> {
        InstructionParser {
            lexer: self.lexer,
            scopes: &mut self.scopes,
            function: self.function,
            module: self.module,
        }
    }

    /// A label, or the name of a `.branchtargets`, `.calltargets` or `.callprototype`.
    fn label(&mut self, name: &'a str, line: u32) -> Result<(), ParseError> {
        match self.lexer.peek() {
            Token::Dot(".branchtargets") => {
                self.lexer.next()?;
                let mut table = Vec::new();
                loop {
                    let target_line = self.lexer.line();
                    let target = self.lexer.expect_name()?;
                    table.push(self.scopes.use_label(target, target_line, self.function));
                    if !self.lexer.accept(",")? {
                        break;
                    }
                }
                let index = self.function.branch_tables.len() as u32;
                self.function.branch_tables.push(table);
                self.scopes
                    .declare(name, Symbol::BranchTable(index), line)?;
                self.lexer.expect(";")
            }
            Token::Dot(".calltargets" | ".callprototype") => {
                while !self.lexer.accept(";")? {
                    if self.lexer.next()? == Token::End {
                        return self.lexer.error("expected `;`, found the end of the text");
                    }
                }
                self.scopes.declare(name, Symbol::Prototype, line)
            }
            _ => self
                .scopes
                .place_label(name, self.function.body.len(), line),
        }
    }

    /// `.reg .b32 %r<10>, %x;`, with `.v2` or `.v4` before the type for vector registers.
    fn registers(&mut self) -> Result<(), ParseError> {
        let elements = match self.lexer.peek() {
            Token::Dot(".v2") => 2,
            Token::Dot(".v4") => 4,
            _ => 1,
        };
        if elements > 1 {
            self.lexer.next()?;
        }
        let ty = fundamental_type(self.lexer)?;
        loop {
            let line = self.lexer.line();
            let name = self.lexer.expect_name()?;
            if self.lexer.accept("<")? {
                let count = self.lexer.expect_u32()?;
                self.lexer.expect(">")?;
                if elements > 1 {
                    return self
                        .lexer
                        .error("ranges of vector registers are not supported");
                }
                self.scopes.declare_range(name, count, ty, line)?;
            } else if elements > 1 {
                let vector = (0..elements)
                    .map(|_| new_register(self.function, name, ty))
                    .collect();
                self.scopes.declare(name, Symbol::Vector(vector), line)?;
            } else {
                let id = new_register(self.function, name, ty);
                self.scopes.declare(name, Symbol::Register(id), line)?;
            }
            if !self.lexer.accept(",")? {
                return self.lexer.expect(";");
            }
        }
    }

    fn variables(&mut self, space: Space) -> Result<(), ParseError> {
        let prefix = VariablePrefix::parse(self.lexer, space)?;
        loop {
            let line = self.lexer.line();
            let (name, variable) = prefix.declarator(self.lexer)?;
            let index = self.function.variables.len() as u32;
            self.function.variables.push(variable);
            self.scopes.declare(name, Symbol::Variable(index), line)?;
            if !self.lexer.accept(",")? {
                return self.lexer.expect(";");
            }
        }
    }
}

/// `file line column [, function_name label [+ n], inlined_at file line column]`.
pub fn location(lexer: &mut Lexer<'_>) -> Result<(u32, u32, u32), ParseError> {
    let position = (
        lexer.expect_u32()?,
        lexer.expect_u32()?,
        lexer.expect_u32()?,
    );
    while lexer.accept(",")? {
        match lexer.expect_name()? {
            "function_name" => {
                lexer.expect_name()?;
                if lexer.accept("+")? {
                    lexer.expect_u32()?;
                }
            }
            "inlined_at" => {
                for _ in 0..3 {
                    lexer.expect_u32()?;
                }
            }
            other => return lexer.error(format!("unknown attribute `{other}` of `.loc`")),
        }
    }
    Ok(position)
}

/// `"..", ".." ;`: hints to the compiler.
pub fn skip_pragma(lexer: &mut Lexer<'_>) -> Result<(), ParseError> {
    loop {
        match lexer.next()? {
            Token::Str(_) => {}
            other => return lexer.error(format!("expected a string, found {}", describe(other))),
        }
        if !lexer.accept(",")? {
            return lexer.expect(";");
        }
    }
}
