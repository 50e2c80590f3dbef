//! Initial values of variables: nested braces, constants, addresses of symbols.

use super::ParseError;
use super::ast::{SymbolInit, Type};
use super::expression::{self, Constant};
use super::lexer::{Lexer, Token};

/// Initial bytes and the addresses to be written into them.
#[derive(Default)]
pub struct Initializer {
    /// Bytes from the start; what is missing at the end is zero.
    pub bytes: Vec<u8>,
    /// Addresses.
    pub symbols: Vec<SymbolInit>,
}

/// Parses what follows `=`. `dimensions` of the array, outermost first; 0 for one without a size.
pub fn parse(
    lexer: &mut Lexer<'_>,
    ty: Type,
    dimensions: &[u64],
) -> Result<Initializer, ParseError> {
    let mut initializer = Initializer::default();
    list(lexer, ty, dimensions, 0, &mut initializer)?;
    Ok(initializer)
}

/// One value, or a braced list of them that starts at byte `offset`.
fn list(
    lexer: &mut Lexer<'_>,
    ty: Type,
    dimensions: &[u64],
    offset: u64,
    out: &mut Initializer,
) -> Result<(), ParseError> {
    let Some((&length, inner)) = dimensions.split_first() else {
        return scalar(lexer, ty, offset, out);
    };
    lexer.expect("{")?;
    // A flat list may fill nested dimensions in order.
    let nested = matches!(lexer.peek(), Token::Punct("{"));
    let (inner, length) = if nested {
        (inner, length)
    } else {
        (
            &[][..],
            dimensions
                .iter()
                .fold(1, |product: u64, &d| product.saturating_mul(d)),
        )
    };
    let stride = inner.iter().fold(u64::from(ty.size()), |product, &d| {
        product.saturating_mul(d)
    });
    let mut index = 0u64;
    while !lexer.accept("}")? {
        if length != 0 && index >= length {
            return lexer.error("more initial values than elements");
        }
        let start = offset.saturating_add(index.saturating_mul(stride));
        list(lexer, ty, inner, start, out)?;
        index += 1;
        if !lexer.accept(",")? {
            lexer.expect("}")?;
            break;
        }
    }
    Ok(())
}

fn scalar(
    lexer: &mut Lexer<'_>,
    ty: Type,
    offset: u64,
    out: &mut Initializer,
) -> Result<(), ParseError> {
    if let Token::Name(name) = lexer.peek()
        && name != "WARP_SZ"
    {
        lexer.next()?;
        return symbol(lexer, name, ty, offset, 0, out);
    }
    let constant = expression::constant(lexer)?;
    // `0xFF00(symbol)`: one byte of an address.
    if let Constant::Int(mask, _) = constant
        && lexer.accept("(")?
    {
        let shift = (mask as u64).trailing_zeros();
        if ty.size() != 1 || !shift.is_multiple_of(8) || (mask as u64) >> shift.min(63) != 0xFF {
            return lexer.error("only one byte of an address can be an initial value");
        }
        let name = lexer.expect_name()?;
        symbol(lexer, name, ty, offset, shift, out)?;
        return lexer.expect(")");
    }
    let Some(bytes) = encode(constant, ty) else {
        return lexer.error(format!("the initial value does not suit the type {ty:?}"));
    };
    let used = ty.size() as usize;
    write(lexer, offset, &bytes[..used], out)
}

/// `name`, `name+4`, `generic(name)` or `generic(name)+4`; `name` has been taken.
fn symbol(
    lexer: &mut Lexer<'_>,
    name: &str,
    ty: Type,
    offset: u64,
    shift: u32,
    out: &mut Initializer,
) -> Result<(), ParseError> {
    if shift == 0 && !matches!(ty.size(), 1 | 4 | 8) {
        return lexer.error("an address needs 32 or 64 bits");
    }
    let generic = name == "generic" && lexer.accept("(")?;
    let name = if generic { lexer.expect_name()? } else { name };
    let mut addend = 0;
    if generic {
        lexer.expect(")")?;
    }
    if lexer.accept("+")? {
        addend = expression::term(lexer)?;
    } else if lexer.accept("-")? {
        addend = expression::term(lexer)?.wrapping_neg();
    }
    let size = ty.size();
    out.symbols.push(SymbolInit {
        offset,
        size,
        symbol: name.to_owned(),
        addend,
        generic,
        shift,
    });
    write(lexer, offset, &[0; 8][..size as usize], out)
}

/// Little-endian bytes of a constant as `ty`; `None` if the kinds differ.
fn encode(constant: Constant, ty: Type) -> Option<[u8; 16]> {
    let bits = match (ty, constant) {
        (Type::F32, Constant::F32(bits)) => u64::from(bits),
        (Type::F32, Constant::F64(bits)) => u64::from((f64::from_bits(bits) as f32).to_bits()),
        (Type::F64, Constant::F64(bits)) => bits,
        (Type::F64, Constant::F32(bits)) => f64::from(f32::from_bits(bits)).to_bits(),
        (Type::F32 | Type::F64 | Type::Pred, _) => return None,
        (_, Constant::Int(value, unsigned)) => {
            let sign = if value < 0 && !unsigned { u64::MAX } else { 0 };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&value.to_le_bytes());
            bytes[8..].copy_from_slice(&sign.to_le_bytes());
            return Some(bytes);
        }
        _ => return None,
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&bits.to_le_bytes());
    Some(bytes)
}

/// Puts bytes at `offset`, with zeros before them where a row was left short.
fn write(
    lexer: &Lexer<'_>,
    offset: u64,
    bytes: &[u8],
    out: &mut Initializer,
) -> Result<(), ParseError> {
    // Zeros are memory that the text does not pay for. Compilers write every element.
    const MAX_GAP: u64 = 256;
    let gap = offset.saturating_sub(out.bytes.len() as u64);
    if gap > MAX_GAP {
        return lexer.error(format!(
            "a row of initial values is short by more than {MAX_GAP} bytes"
        ));
    }
    out.bytes.resize(out.bytes.len() + gap as usize, 0);
    out.bytes.extend_from_slice(bytes);
    Ok(())
}
