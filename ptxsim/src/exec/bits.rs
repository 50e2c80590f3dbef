//! Logic, shifts and bit fields.

use super::number::with_integer;
use super::registers::Predicate;
use super::step::Step;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("and", logic),
    ("or", logic),
    ("xor", logic),
    ("not", not),
    ("cnot", not),
    ("lop3", lop3),
    ("shl", shift),
    ("shr", shift),
    ("shf", funnel),
    ("bfe", extract),
    ("bfi", insert),
    ("bfind", find_leading),
    ("brev", count),
    ("popc", count),
    ("clz", count),
    ("prmt", permute),
    ("bmsk", mask),
    ("szext", extend),
    ("fns", find_nth),
];

fn logic(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    if ty == Type::Pred {
        let f: fn(u32, u32) -> u32 = match d.key {
            "and" => |a, b| a & b,
            "or" => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        return predicates(d, i, &i.operands[1..], move |v| f(v[0], v[1]));
    }
    with_integer!(ty, N => match d.key {
        "and" => d.map2(i, |a: N, b: N| a & b),
        "or" => d.map2(i, |a: N, b: N| a | b),
        _ => d.map2(i, |a: N, b: N| a ^ b),
    })
}

/// Logic on predicates: a bit a lane.
fn predicates(
    d: &Decoder<'_>,
    i: &Instruction,
    operands: &[Operand],
    f: impl Fn(&[u32; 2]) -> u32 + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    let dest = d.predicate_dest(d.operand(i, 0)?)?;
    let mut sources = [Predicate::FALSE; 2];
    for (source, operand) in sources.iter_mut().zip(operands) {
        *source = d.predicate(operand)?;
    }
    Ok(Box::new(move |warp, mask| {
        let file = &mut warp.registers.predicates;
        let defined = file.defined(sources[0]) & file.defined(sources[1]);
        let bits = f(&sources.map(|source| file.read(source)));
        if let Some(slot) = dest {
            file.write(slot, mask, defined, bits);
        }
        Step::Next
    }))
}

fn not(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    match (d.key, ty) {
        ("not", Type::Pred) => predicates(d, i, &i.operands[1..], |v| !v[0]),
        ("not", _) => with_integer!(ty, N => d.map1(i, |a: N| !a)),
        _ => with_integer!(ty, N => d.map1(i, |a: N| N::from(a == 0))),
    }
}

/// Any function of three bits, given as its table.
fn lop3(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    if m.ty()? != Type::B32 {
        return Err(Unsupported::new("type"));
    }
    m.finish()?;
    let Operand::Int(table) = d.operand(i, 4)? else {
        return Err(Unsupported::new("table that is not an immediate"));
    };
    // Row k of the table holds the result where (a, b, c) are the bits of k, a the highest.
    let row = |k: u32| if table >> k & 1 == 1 { u32::MAX } else { 0 };
    let rows: [u32; 8] = std::array::from_fn(|k| row(k as u32));
    d.map3(i, move |a: u32, b: u32, c: u32| {
        let by_c = |k: usize| rows[k] & !c | rows[k + 1] & c;
        let by_b = |k: usize| by_c(k) & !b | by_c(k + 2) & b;
        by_b(0) & !a | by_b(4) & a
    })
}

/// Shifts by more than the width give 0, or the sign.
fn shift(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    if d.key == "shl" {
        return with_integer!(ty, N => d.map2(i, |a: N, by: u32| a.checked_shl(by).unwrap_or(0)));
    }
    with_integer!(ty, N => d.map2(i, |a: N, by: u32| {
        // Halving twice never overflows the shift, and keeps the sign of a signed type.
        a.checked_shr(by).unwrap_or(a >> (N::BITS - 1) >> 1)
    }))
}

/// `shf`: 32 bits of a 64-bit shift.
fn funnel(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let left = m
        .choose(&[("l", true), ("r", false)])
        .ok_or_else(|| Unsupported::new("no direction"))?;
    let clamp = m
        .choose(&[("clamp", true), ("wrap", false)])
        .ok_or_else(|| Unsupported::new("no mode"))?;
    m.ty()?;
    m.finish()?;
    d.map3(i, move |low: u32, high: u32, by: u32| {
        let by = if clamp { by.min(32) } else { by & 31 };
        let both = u64::from(high) << 32 | u64::from(low);
        if left {
            (both << by >> 32) as u32
        } else {
            (both >> by) as u32
        }
    })
}

/// `bfe`: a field of at most the width, filled with its sign bit or 0.
fn extract(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    let width = ty.size() * 8;
    let signed = matches!(ty, Type::S32 | Type::S64);
    let field = move |value: u64, position: u32, length: u32| -> u64 {
        let (position, length) = (position & 0xff, length & 0xff);
        let top = (position + length).saturating_sub(1).min(width - 1);
        let sign = signed && length > 0 && value >> top & 1 == 1;
        let shifted = value.checked_shr(position).unwrap_or(0);
        let kept = length.min(width.saturating_sub(position));
        let ones = u64::MAX.checked_shl(kept).unwrap_or(0);
        shifted & !ones | if sign { ones } else { 0 }
    };
    match width {
        32 => d.map3(i, move |a: u32, b: u32, c: u32| {
            field(u64::from(a), b, c) as u32
        }),
        _ => d.map3(i, move |a: u64, b: u32, c: u32| field(a, b, c)),
    }
}

/// `bfi`: the low bits of `a` replace a field of `b`.
fn insert(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    let field = |a: u64, b: u64, position: u32, length: u32| -> u64 {
        let (position, length) = (position & 0xff, length & 0xff);
        let ones = !u64::MAX.checked_shl(length).unwrap_or(0);
        let place = ones.checked_shl(position).unwrap_or(0);
        b & !place | a.checked_shl(position).unwrap_or(0) & place
    };
    match ty.size() {
        4 => d.map4(i, move |a: u32, b: u32, c: u32, e: u32| {
            field(a.into(), b.into(), c, e) as u32
        }),
        _ => d.map4(i, move |a: u64, b: u64, c: u32, e: u32| field(a, b, c, e)),
    }
}

/// `bfind`: place of the highest bit that differs from the sign, all ones where there is none.
fn find_leading(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let amount = m.take("shiftamt");
    let ty = m.ty()?;
    m.finish()?;
    let signed = matches!(ty, Type::S32 | Type::S64);
    let place = move |value: u64, bits: u32| match (value, amount) {
        (0, _) => u32::MAX,
        (_, false) => value.ilog2(),
        (_, true) => bits - 1 - value.ilog2(),
    };
    match ty.size() {
        4 => d.map1(i, move |a: u32| {
            place(u64::from(if signed && (a as i32) < 0 { !a } else { a }), 32)
        }),
        _ => d.map1(i, move |a: u64| {
            place(if signed && (a as i64) < 0 { !a } else { a }, 64)
        }),
    }
}

fn count(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    match (d.key, ty) {
        ("brev", Type::B32) => d.map1(i, u32::reverse_bits),
        ("brev", Type::B64) => d.map1(i, u64::reverse_bits),
        ("popc", Type::B32) => d.map1(i, u32::count_ones),
        ("popc", Type::B64) => d.map1(i, u64::count_ones),
        ("clz", Type::B32) => d.map1(i, u32::leading_zeros),
        ("clz", Type::B64) => d.map1(i, u64::leading_zeros),
        _ => Err(Unsupported::new("type")),
    }
}

/// Modes of `prmt`: which byte of `b:a` result byte `k` is, for the selector's low two bits.
type Pick = fn(u32, u32) -> u32;
const PERMUTES: &[(&str, Pick)] = &[
    ("f4e", |k, s| s + k),
    ("b4e", |k, s| (s + 8 - k) % 8),
    ("rc8", |_, s| s),
    ("ecl", |k, s| s.max(k)),
    ("ecr", |k, s| s.min(k)),
    ("rc16", |k, s| (s & 1) * 2 + (k & 1)),
];

fn permute(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let mode = m.choose(PERMUTES);
    // The type comes first in `prmt.b32.f4e`.
    m.ty()?;
    m.finish()?;
    let byte = |a: u32, b: u32, index: u32| {
        ((u64::from(b) << 32 | u64::from(a)) >> (8 * (index & 7))) as u32 & 0xff
    };
    match mode {
        Some(pick) => d.map3(i, move |a: u32, b: u32, selector: u32| {
            (0..4).fold(0, |out, k| {
                out | byte(a, b, pick(k, selector & 3)) << (8 * k)
            })
        }),
        None => d.map3(i, move |a: u32, b: u32, selector: u32| {
            (0..4).fold(0, |out, k| {
                let control = selector >> (4 * k);
                let value = byte(a, b, control);
                let replicated = if value & 0x80 != 0 { 0xff } else { 0 };
                out | (if control & 8 != 0 { replicated } else { value }) << (8 * k)
            })
        }),
    }
}

/// `bmsk`: `b` ones from place `a` on.
fn mask(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let clamp = m
        .choose(&[("clamp", true), ("wrap", false)])
        .ok_or_else(|| Unsupported::new("no mode"))?;
    m.ty()?;
    m.finish()?;
    d.map2(i, move |a: u32, b: u32| {
        let (a, b) = if clamp { (a, b) } else { (a & 31, b & 31) };
        let ones = !u32::MAX.checked_shl(b).unwrap_or(0);
        ones.checked_shl(a).unwrap_or(0)
    })
}

/// `szext`: extends the low `b` bits by their sign or by 0.
fn extend(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let clamp = m
        .choose(&[("clamp", true), ("wrap", false)])
        .ok_or_else(|| Unsupported::new("no mode"))?;
    let signed = m.ty()? == Type::S32;
    m.finish()?;
    d.map2(i, move |a: u32, b: u32| {
        let bits = if clamp { b.min(32) } else { b & 31 };
        match (bits, signed) {
            (0, _) => 0,
            (_, true) => ((a << (32 - bits)) as i32 >> (32 - bits)) as u32,
            (_, false) => a << (32 - bits) >> (32 - bits),
        }
    })
}

/// `fns`: place of the n-th set bit from a base on, upward or downward.
fn find_nth(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ty()?;
    m.finish()?;
    d.map3(i, |bits: u32, base: u32, offset: i32| {
        let is_set = |place: &u32| bits >> place & 1 == 1;
        let found = match offset {
            0 => Some(base).filter(|place| *place < 32 && is_set(place)),
            1.. => (base..32).filter(is_set).nth(offset as usize - 1),
            _ => (0..=base.min(31))
                .rev()
                .filter(is_set)
                .nth(offset.unsigned_abs() as usize - 1),
        };
        found.unwrap_or(u32::MAX)
    })
}
