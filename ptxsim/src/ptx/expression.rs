//! Constant expressions: C's operators over 64-bit integers, and floating-point literals.

use super::ParseError;
use super::lexer::{Lexer, Token};

/// Depth of nested parentheses and unary operators; it bounds the recursion.
const MAX_DEPTH: u32 = 64;

/// Value of a constant expression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Constant {
    /// 64 bits, and whether they count as unsigned.
    Int(i64, bool),
    /// Bits of a `0f` literal.
    F32(u32),
    /// Bits of a `0d` or decimal literal.
    F64(u64),
}

/// Binary operators by falling precedence.
const LEVELS: [&[&str]; 10] = [
    &["*", "/", "%"],
    &["+", "-"],
    &["<<", ">>"],
    &["<", "<=", ">", ">="],
    &["==", "!="],
    &["&"],
    &["^"],
    &["|"],
    &["&&"],
    &["||"],
];

/// Parses a constant expression.
pub fn constant(lexer: &mut Lexer<'_>) -> Result<Constant, ParseError> {
    conditional(lexer, 0)
}

/// Parses a constant integer expression.
pub fn integer(lexer: &mut Lexer<'_>) -> Result<i64, ParseError> {
    match constant(lexer)? {
        Constant::Int(value, _) => Ok(value),
        _ => lexer.error("expected an integer, found a floating-point number"),
    }
}

/// Parses the operand of `symbol +` or `symbol -`: one term, so that what follows stays additive.
pub fn term(lexer: &mut Lexer<'_>) -> Result<i64, ParseError> {
    match binary(lexer, 1, 0)? {
        Constant::Int(value, _) => Ok(value),
        _ => lexer.error("expected an integer, found a floating-point number"),
    }
}

fn conditional(lexer: &mut Lexer<'_>, depth: u32) -> Result<Constant, ParseError> {
    let condition = binary(lexer, LEVELS.len(), depth)?;
    if !lexer.accept("?")? {
        return Ok(condition);
    }
    if depth >= MAX_DEPTH {
        return lexer.error("constant expression nested too deeply");
    }
    let yes = conditional(lexer, depth + 1)?;
    lexer.expect(":")?;
    let no = conditional(lexer, depth + 1)?;
    match condition {
        Constant::Int(0, _) => Ok(no),
        Constant::Int(..) => Ok(yes),
        _ => lexer.error("the condition of `?` must be an integer"),
    }
}

fn binary(lexer: &mut Lexer<'_>, level: usize, depth: u32) -> Result<Constant, ParseError> {
    if level == 0 {
        return unary(lexer, depth);
    }
    let mut left = binary(lexer, level - 1, depth)?;
    loop {
        let Token::Punct(operator) = lexer.peek() else {
            return Ok(left);
        };
        if !LEVELS[level - 1].contains(&operator) {
            return Ok(left);
        }
        lexer.next()?;
        let right = binary(lexer, level - 1, depth)?;
        let (Constant::Int(a, ua), Constant::Int(b, ub)) = (left, right) else {
            return lexer.error(format!("`{operator}` in a constant needs integers"));
        };
        left = match apply(operator, a, b, ua || ub) {
            Some(value) => value,
            None => return lexer.error("division by zero in a constant"),
        };
    }
}

/// One integer operation; `None` is a division by zero. Comparisons give signed 0 or 1.
fn apply(operator: &str, a: i64, b: i64, unsigned: bool) -> Option<Constant> {
    let (ua, ub) = (a as u64, b as u64);
    let truth = |value: bool| Some(Constant::Int(i64::from(value), false));
    let shift = u32::try_from(ub).unwrap_or(u32::MAX);
    let value = match operator {
        "*" => a.wrapping_mul(b),
        "/" | "%" if b == 0 => return None,
        "/" if unsigned => (ua / ub) as i64,
        "/" => a.wrapping_div(b),
        "%" if unsigned => (ua % ub) as i64,
        "%" => a.wrapping_rem(b),
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "<<" => a.checked_shl(shift).unwrap_or(0),
        ">>" if unsigned => ua.checked_shr(shift).unwrap_or(0) as i64,
        ">>" => a >> shift.min(63),
        "<" => return truth(if unsigned { ua < ub } else { a < b }),
        "<=" => return truth(if unsigned { ua <= ub } else { a <= b }),
        ">" => return truth(if unsigned { ua > ub } else { a > b }),
        ">=" => return truth(if unsigned { ua >= ub } else { a >= b }),
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        "&&" => return truth(a != 0 && b != 0),
        "||" => return truth(a != 0 || b != 0),
        "&" => a & b,
        "^" => a ^ b,
        _ => a | b,
    };
    Some(Constant::Int(value, unsigned))
}

fn unary(lexer: &mut Lexer<'_>, depth: u32) -> Result<Constant, ParseError> {
    if depth >= MAX_DEPTH {
        return lexer.error("constant expression nested too deeply");
    }
    let line = lexer.line();
    match lexer.next()? {
        Token::Int(value, unsigned) => Ok(Constant::Int(value as i64, unsigned)),
        Token::F32(bits) => Ok(Constant::F32(bits)),
        Token::F64(bits) => Ok(Constant::F64(bits)),
        Token::Name("WARP_SZ") => Ok(Constant::Int(32, false)),
        Token::Punct("(") => parenthesis(lexer, depth + 1),
        Token::Punct("+") => unary(lexer, depth + 1),
        Token::Punct("-") => Ok(match unary(lexer, depth + 1)? {
            Constant::Int(value, unsigned) => Constant::Int(value.wrapping_neg(), unsigned),
            Constant::F32(bits) => Constant::F32(bits ^ (1 << 31)),
            Constant::F64(bits) => Constant::F64(bits ^ (1 << 63)),
        }),
        Token::Punct("!") => match unary(lexer, depth + 1)? {
            Constant::Int(value, _) => Ok(Constant::Int(i64::from(value == 0), false)),
            _ => lexer.error("`!` in a constant needs an integer"),
        },
        Token::Punct("~") => match unary(lexer, depth + 1)? {
            Constant::Int(value, unsigned) => Ok(Constant::Int(!value, unsigned)),
            _ => lexer.error("`~` in a constant needs an integer"),
        },
        other => {
            let message = format!(
                "expected a constant, found {}",
                super::lexer::describe(other)
            );
            Err(ParseError { line, message })
        }
    }
}

/// `(expression)` or a cast, `(.s64) term` and `(.u64) term`; the parenthesis is taken.
fn parenthesis(lexer: &mut Lexer<'_>, depth: u32) -> Result<Constant, ParseError> {
    let Token::Dot(ty) = lexer.peek() else {
        let value = conditional(lexer, depth)?;
        lexer.expect(")")?;
        return Ok(value);
    };
    let unsigned = match ty {
        ".s64" => false,
        ".u64" => true,
        _ => return lexer.error(format!("no cast to `{ty}` in a constant")),
    };
    lexer.next()?;
    lexer.expect(")")?;
    match unary(lexer, depth)? {
        Constant::Int(value, _) => Ok(Constant::Int(value, unsigned)),
        _ => lexer.error("a cast in a constant needs an integer"),
    }
}
