//! PTX text to a syntax tree: names are resolved, nothing is interpreted.

pub mod ast;
mod expression;
mod function;
mod initializer;
mod instruction;
mod lexer;
mod module;
mod scope;
mod variable;

use std::fmt;

/// Why a text is not PTX, or not PTX that the simulator can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Parses a translation unit in PTX ISA 9.0 or older.
///
/// Memory and time are linear in the length of the text: a register range such as `%r<1000000>`
/// costs nothing until its registers are used. Opcodes are not looked at, so an unknown one is the
/// decoder's to refuse.
///
/// # Errors
///
/// Bad syntax, undeclared or doubly declared names, and the few declarations that the simulator
/// has no meaning for (textures, managed variables, register parameters).
pub fn parse(text: &str) -> Result<ast::Module, ParseError> {
    module::ModuleParser::new(text)?.parse()
}
