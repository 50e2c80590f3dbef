//! Declarations of variables and parameters.

use super::ParseError;
use super::ast::{Space, Type, Variable};
use super::expression;
use super::initializer;
use super::lexer::{Lexer, Token, describe};

/// Nested arrays may have this many dimensions; it bounds the recursion of initial values.
const MAX_DIMENSIONS: usize = 16;

/// What stands before the names of a declaration: `.align 8 .v2 .f32`.
pub struct VariablePrefix {
    space: Space,
    align: Option<u32>,
    /// Elements of a vector type, else 1.
    elements: u32,
    ty: Type,
}

impl VariablePrefix {
    /// Parses the part after the state space.
    pub fn parse(lexer: &mut Lexer<'_>, space: Space) -> Result<Self, ParseError> {
        let mut prefix = VariablePrefix {
            space,
            align: None,
            elements: 1,
            ty: Type::B8,
        };
        loop {
            let Token::Dot(directive) = lexer.peek() else {
                return lexer.error(format!("expected a type, found {}", describe(lexer.peek())));
            };
            match directive {
                ".align" => {
                    lexer.next()?;
                    prefix.align = Some(alignment(lexer)?);
                }
                ".v2" | ".v4" => {
                    lexer.next()?;
                    prefix.elements = if directive == ".v2" { 2 } else { 4 };
                }
                ".attribute" => attribute(lexer)?,
                _ => break,
            }
        }
        prefix.ty = fundamental_type(lexer)?;
        Ok(prefix)
    }

    /// One name with its array dimensions and initial value.
    pub fn declarator<'a>(&self, lexer: &mut Lexer<'a>) -> Result<(&'a str, Variable), ParseError> {
        let mut align = self.align;
        while let Token::Dot(directive) = lexer.peek() {
            lexer.next()?;
            match directive {
                // What a pointer parameter points to; execution looks at the address instead.
                ".ptr" | ".global" | ".shared" | ".local" | ".const" => {}
                ".align" if self.space == Space::Param => {
                    alignment(lexer)?;
                }
                other => return lexer.error(format!("unexpected `{other}` in a declaration")),
            }
        }
        let name = lexer.expect_name()?;
        let mut dimensions = dimensions(lexer)?;
        if self.elements > 1 {
            dimensions.push(u64::from(self.elements));
        }
        let init = if lexer.accept("=")? {
            initializer::parse(lexer, self.ty, &dimensions)?
        } else {
            initializer::Initializer::default()
        };
        let declared = dimensions
            .iter()
            .try_fold(u64::from(self.ty.size()), |product, &d| {
                product.checked_mul(d)
            });
        let Some(declared) = declared else {
            return lexer.error(format!("the size of `{name}` overflows 64 bits"));
        };
        let natural = self.ty.size() * self.elements;
        let variable = Variable {
            name: name.to_owned(),
            space: self.space,
            ty: self.ty,
            align: *align.get_or_insert(natural),
            size: declared.max(init.bytes.len() as u64),
            external: false,
            init: init.bytes,
            init_symbols: init.symbols,
        };
        Ok((name, variable))
    }
}

fn alignment(lexer: &mut Lexer<'_>) -> Result<u32, ParseError> {
    let align = lexer.expect_u32()?;
    if align.is_power_of_two() && align <= 1 << 16 {
        return Ok(align);
    }
    lexer.error(format!(
        "alignment {align} is not a power of two up to 65536"
    ))
}

/// `.attribute(.unified(..))` and its like. Managed memory needs a host mapping of module
/// variables, which the simulator has not.
fn attribute(lexer: &mut Lexer<'_>) -> Result<(), ParseError> {
    lexer.next()?;
    lexer.expect("(")?;
    let mut depth = 1;
    while depth > 0 {
        match lexer.next()? {
            Token::Punct("(") => depth += 1,
            Token::Punct(")") => depth -= 1,
            Token::Dot(".managed") => return lexer.error("managed variables are not supported"),
            Token::End => return lexer.error("expected `)`, found the end of the text"),
            _ => {}
        }
    }
    Ok(())
}

/// `[3][4]`; an open first dimension counts 0.
fn dimensions(lexer: &mut Lexer<'_>) -> Result<Vec<u64>, ParseError> {
    let mut dimensions = Vec::new();
    while lexer.accept("[")? {
        if dimensions.len() == MAX_DIMENSIONS {
            return lexer.error(format!("more than {MAX_DIMENSIONS} dimensions"));
        }
        if lexer.accept("]")? {
            dimensions.push(0);
            continue;
        }
        match u64::try_from(expression::integer(lexer)?) {
            Ok(length) => dimensions.push(length),
            Err(_) => return lexer.error("negative array dimension"),
        }
        lexer.expect("]")?;
    }
    Ok(dimensions)
}

/// Takes a type directive.
pub fn fundamental_type(lexer: &mut Lexer<'_>) -> Result<Type, ParseError> {
    if let Token::Dot(directive) = lexer.peek()
        && let Some(ty) = from_directive(directive)
    {
        lexer.next()?;
        return Ok(ty);
    }
    lexer.error(format!(
        "expected a fundamental type, found {}",
        describe(lexer.peek())
    ))
}

fn from_directive(directive: &str) -> Option<Type> {
    Some(match directive {
        ".pred" => Type::Pred,
        ".b8" => Type::B8,
        ".b16" => Type::B16,
        ".b32" => Type::B32,
        ".b64" => Type::B64,
        ".b128" => Type::B128,
        ".u8" => Type::U8,
        ".u16" => Type::U16,
        ".u32" => Type::U32,
        ".u64" => Type::U64,
        ".s8" => Type::S8,
        ".s16" => Type::S16,
        ".s32" => Type::S32,
        ".s64" => Type::S64,
        ".f16" => Type::F16,
        ".f16x2" => Type::F16x2,
        ".bf16" => Type::BF16,
        ".bf16x2" => Type::BF16x2,
        ".f32" => Type::F32,
        ".f64" => Type::F64,
        _ => return None,
    })
}
