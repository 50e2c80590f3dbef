//! Integer arithmetic.

use super::number::{Integer, with_integer};
use super::registers::{Dest, Source};
use super::step::Step;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes of this family. Those that floats share come here when their type is an integer.
pub const OPCODES: &[(&str, Decode)] = &[
    ("add", add_sub),
    ("sub", add_sub),
    ("mul", multiply),
    ("mad", multiply),
    ("mul24", multiply24),
    ("mad24", multiply24),
    ("div", divide),
    ("rem", divide),
    ("min", extremum),
    ("max", extremum),
    ("abs", sign),
    ("neg", sign),
    ("sad", sad),
    ("dp4a", dot),
    ("dp2a", dot),
    ("add.cc", carry),
    ("addc", carry),
    ("sub.cc", carry),
    ("subc", carry),
    ("mad.lo.cc", carry_multiply),
    ("mad.hi.cc", carry_multiply),
    ("madc", carry_multiply),
];

/// Applies `f` to exact operands; the result wraps.
fn exact2(
    d: &Decoder<'_>,
    i: &Instruction,
    ty: Type,
    f: impl Fn(i128, i128) -> i128 + Copy + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    with_integer!(ty, N => d.map2(i, move |a: N, b: N| N::wrap(f(a.exact(), b.exact()))))
}

/// Two 16-bit integers in a word.
fn pairs2(
    d: &Decoder<'_>,
    i: &Instruction,
    signed: bool,
    f: impl Fn(i128, i128) -> i128 + Copy + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    let half = move |word: u32, shift: u32| {
        let bits = (word >> shift) as u16;
        if signed {
            (bits as i16).exact()
        } else {
            bits.exact()
        }
    };
    d.map2(i, move |a: u32, b: u32| {
        let low = u16::wrap(f(half(a, 0), half(b, 0)));
        let high = u16::wrap(f(half(a, 16), half(b, 16)));
        u32::from(low) | u32::from(high) << 16
    })
}

fn add_sub(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let saturate = m.take("sat");
    let subtract = d.key == "sub";
    if let Some(signed) = m.choose(&[("s16x2", true), ("u16x2", false)]) {
        m.finish()?;
        if subtract || saturate {
            return Err(Unsupported::new("halves with other than a plain add"));
        }
        return pairs2(d, i, signed, |a, b| a + b);
    }
    let ty = m.ty()?;
    m.finish()?;
    match (saturate, subtract) {
        (false, false) => exact2(d, i, ty, |a, b| a + b),
        (false, true) => exact2(d, i, ty, |a, b| a - b),
        (true, false) => d.map2(i, i32::saturating_add),
        (true, true) => d.map2(i, i32::saturating_sub),
    }
}

/// Which half of a product.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Low,
    High,
    Wide,
}

fn multiply(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let halves = [("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)];
    let half = m
        .choose(&halves)
        .ok_or_else(|| Unsupported::new("no .lo, .hi or .wide"))?;
    let saturate = m.take("sat");
    let ty = m.ty()?;
    m.finish()?;
    let add = d.key == "mad";
    match half {
        Half::Wide => wide(d, i, ty, add),
        Half::Low if add => with_integer!(ty, N => d.map3(i, |a: N, b: N, c: N| {
            N::wrap(a.exact().wrapping_mul(b.exact()).wrapping_add(c.exact()))
        })),
        Half::Low => exact2(d, i, ty, i128::wrapping_mul),
        Half::High if saturate => d.map3(i, |a: i32, b: i32, c: i32| {
            (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)
        }),
        Half::High if add => with_integer!(ty, N => d.map3(i, |a: N, b: N, c: N| {
            N::wrap((a.exact().wrapping_mul(b.exact()) >> N::BITS) + c.exact())
        })),
        Half::High => with_integer!(ty, N => d.map2(i, |a: N, b: N| {
            N::wrap(a.exact().wrapping_mul(b.exact()) >> N::BITS)
        })),
    }
}

fn wide(d: &Decoder<'_>, i: &Instruction, ty: Type, add: bool) -> Result<Execute, Unsupported> {
    macro_rules! wide {
        ($narrow:ty, $wide:ty) => {
            if add {
                d.map3(i, |a: $narrow, b: $narrow, c: $wide| {
                    (<$wide>::from(a) * <$wide>::from(b)).wrapping_add(c)
                })
            } else {
                d.map2(i, |a: $narrow, b: $narrow| {
                    <$wide>::from(a) * <$wide>::from(b)
                })
            }
        };
    }
    match ty {
        Type::U16 => wide!(u16, u32),
        Type::S16 => wide!(i16, i32),
        Type::U32 => wide!(u32, u64),
        Type::S32 => wide!(i32, i64),
        _ => Err(Unsupported::new("type")),
    }
}

/// Products of 24-bit integers: bits 0 to 31 or 16 to 47.
fn multiply24(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let shift = m
        .choose(&[("lo", 0u32), ("hi", 16)])
        .ok_or_else(|| Unsupported::new("no .lo or .hi"))?;
    let saturate = m.take("sat");
    let signed = match m.ty()? {
        Type::S32 => true,
        Type::U32 => false,
        _ => return Err(Unsupported::new("type")),
    };
    m.finish()?;
    let product = move |a: u32, b: u32| {
        let extend = |v: u32| {
            if signed {
                i64::from((v << 8) as i32 >> 8)
            } else {
                i64::from(v & 0xff_ffff)
            }
        };
        ((extend(a) * extend(b)) >> shift) as u32
    };
    match (d.key, saturate) {
        ("mul24", _) => d.map2(i, product),
        (_, true) => d.map3(i, move |a: u32, b: u32, c: i32| {
            (product(a, b) as i32).saturating_add(c)
        }),
        _ => d.map3(i, move |a: u32, b: u32, c: u32| {
            product(a, b).wrapping_add(c)
        }),
    }
}

/// A division by zero gives all ones and a remainder of the dividend, as GPUs do; PTX leaves it open.
fn divide(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    if d.key == "div" {
        exact2(d, i, ty, |a, b| if b == 0 { -1 } else { a / b })
    } else {
        exact2(d, i, ty, |a, b| if b == 0 { a } else { a % b })
    }
}

fn extremum(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let relu = m.take("relu");
    let pair = m.choose(&[("s16x2", true), ("u16x2", false)]);
    let max = d.key == "max";
    let choose = move |a: i128, b: i128| {
        let chosen = if (a > b) == max { a } else { b };
        if relu { chosen.max(0) } else { chosen }
    };
    if let Some(signed) = pair {
        m.finish()?;
        return pairs2(d, i, signed, choose);
    }
    let ty = m.ty()?;
    m.finish()?;
    exact2(d, i, ty, choose)
}

fn sign(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    if d.key == "abs" {
        with_integer!(ty, N => d.map1(i, |a: N| N::wrap(a.exact().abs())))
    } else {
        with_integer!(ty, N => d.map1(i, |a: N| N::wrap(-a.exact())))
    }
}

/// `|a - b| + c`.
fn sad(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    with_integer!(ty, N => d.map3(i, |a: N, b: N, c: N| {
        N::wrap((a.exact() - b.exact()).abs() + c.exact())
    }))
}

/// Dot products of four bytes with four bytes, or of two 16-bit integers with two bytes.
fn dot(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let four = d.key == "dp4a";
    let high = !four
        && m.choose(&[("lo", false), ("hi", true)])
            .ok_or_else(|| Unsupported::new("no .lo or .hi"))?;
    let signed = |ty| match ty {
        Type::S32 => Ok(true),
        Type::U32 => Ok(false),
        _ => Err(Unsupported::new("type")),
    };
    let (a_signed, b_signed) = (signed(m.ty()?)?, signed(m.ty()?)?);
    m.finish()?;
    let byte = |word: u32, index: u32, signed: bool| {
        let bits = (word >> (8 * index)) as u8;
        if signed {
            i32::from(bits as i8)
        } else {
            i32::from(bits)
        }
    };
    let half = |word: u32, index: u32, signed: bool| {
        let bits = (word >> (16 * index)) as u16;
        if signed {
            i32::from(bits as i16)
        } else {
            i32::from(bits)
        }
    };
    d.map3(i, move |a: u32, b: u32, c: u32| {
        let terms = if four { 4 } else { 2 };
        (0..terms).fold(c, |sum, k| {
            let product = match four {
                true => byte(a, k, a_signed) * byte(b, k, b_signed),
                false => half(a, k, a_signed) * byte(b, k + 2 * u32::from(high), b_signed),
            };
            sum.wrapping_add(product as u32)
        })
    })
}

/// `add.cc`, `addc`, `sub.cc`, `subc`: a borrow is a carry flag of 1.
fn carry(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let reads = d.key.ends_with('c') && !d.key.ends_with(".cc");
    let writes = !reads || m.take("cc");
    let subtract = d.key.starts_with("sub");
    let ty = m.ty()?;
    m.finish()?;
    let step = move |a: u128, b: u128, carry: bool| {
        let carry = u128::from(carry && reads);
        if subtract {
            a.wrapping_sub(b).wrapping_sub(carry)
        } else {
            a + b + carry
        }
    };
    with_carry(d, i, ty, writes, move |[a, b, _], carry| step(a, b, carry))
}

/// `mad.lo.cc`, `mad.hi.cc`, `madc`.
fn carry_multiply(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let reads = d.key == "madc";
    let high = if reads {
        m.take("hi")
    } else {
        d.key == "mad.hi.cc"
    };
    m.take("lo");
    let writes = !reads || m.take("cc");
    let ty = m.ty()?;
    m.finish()?;
    let bits = ty.size() * 8;
    let signed = matches!(ty, Type::S32 | Type::S64);
    with_carry(d, i, ty, writes, move |[a, b, c], carry| {
        let extend = |v: u128| (v << (128 - bits)) as i128 >> (128 - bits);
        let product = if signed {
            extend(a).wrapping_mul(extend(b)) as u128
        } else {
            a.wrapping_mul(b)
        };
        let part = if high { product >> bits } else { product } & (u128::MAX >> (128 - bits));
        part + c + u128::from(carry && reads)
    })
}

/// Two or three operands and the carry flag, which is bit 32 or 64 of the result.
fn with_carry(
    d: &Decoder<'_>,
    i: &Instruction,
    ty: Type,
    writes: bool,
    f: impl Fn([u128; 3], bool) -> u128 + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    let wide = ty.size() == 8;
    let operands = &i.operands[1..];
    if wide {
        let dest: Dest<u64> = d.dest(d.operand(i, 0)?)?;
        let sources: Vec<Source<u64>> = operands
            .iter()
            .map(|o| d.source64(o))
            .collect::<Result<_, _>>()?;
        return Ok(carry_loop(dest, sources, 64, writes, f, u128::from, |v| {
            v as u64
        }));
    }
    let dest: Dest<u32> = d.dest(d.operand(i, 0)?)?;
    let sources: Vec<Source<u32>> = operands
        .iter()
        .map(|o| d.source32(o))
        .collect::<Result<_, _>>()?;
    Ok(carry_loop(dest, sources, 32, writes, f, u128::from, |v| {
        v as u32
    }))
}

fn carry_loop<W: super::value::Word>(
    dest: Dest<W>,
    sources: Vec<Source<W>>,
    bits: u32,
    writes: bool,
    f: impl Fn([u128; 3], bool) -> u128 + Send + Sync + 'static,
    widen: fn(W) -> u128,
    narrow: fn(u128) -> W,
) -> Execute {
    Box::new(move |warp, mask| {
        let defined = sources
            .iter()
            .fold(u32::MAX, |all, &s| all & warp.defined(s));
        let mut carries = warp.state.carry;
        let out = std::array::from_fn(|lane| {
            let mut values = [0u128; 3];
            for (value, &source) in values.iter_mut().zip(&sources) {
                *value = widen(warp.read(source)[lane]);
            }
            let result = f(values, carries >> lane & 1 == 1);
            if writes && mask >> lane & 1 == 1 {
                carries = carries & !(1 << lane) | ((result >> bits & 1) as u32) << lane;
            }
            narrow(result)
        });
        warp.write(dest, mask, defined, &out);
        warp.state.carry = carries;
        Step::Next
    })
}
