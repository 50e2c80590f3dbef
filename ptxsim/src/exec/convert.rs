//! `cvt`: conversions between all integer and floating-point types.

mod packed;

use super::float::canonical;
use super::half::{Bf16, F16, Half};
use super::lanes;
use super::narrow::{add_to_odd, bf16_value, f16_value, flush};
use super::rounding::{Format, Rounding, direct, round_tf32};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::{AnyDest, AnySource};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("cvt", cvt), ("cvt.pack", packed::pack_integers)];

/// Types that `cvt` alone knows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain(Type),
    Tf32,
    E4m3x2,
    E5m2x2,
}

/// What a conversion to floating point does beside rounding.
#[derive(Clone, Copy, Default)]
struct Finish {
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
}

fn cvt(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let rounding = m.choose(&[
        ("rn", Rounding::Nearest),
        ("rna", Rounding::NearestAway),
        ("rz", Rounding::Zero),
        ("rm", Rounding::Down),
        ("rp", Rounding::Up),
    ]);
    let to_integer = m.choose(&[
        ("rni", Rounding::Nearest),
        ("rzi", Rounding::Zero),
        ("rmi", Rounding::Down),
        ("rpi", Rounding::Up),
    ]);
    let finish = Finish {
        ftz: m.take("ftz"),
        sat: m.take("sat"),
        relu: m.take("relu"),
        satfinite: m.take("satfinite"),
    };
    let (to, from) = (kind(&m)?, kind(&m)?);
    m.finish()?;
    match (to, from) {
        (Kind::Tf32, _) => {
            let rounding =
                rounding.ok_or_else(|| Unsupported::new("cvt to tf32 without rounding"))?;
            d.map1(i, move |a: f32| {
                round_tf32(finish.clamp(f64::from(a)), rounding, finish.satfinite)
            })
        }
        (Kind::Plain(Type::F16x2), Kind::E4m3x2) => packed::unpack8(d, i, Format::E4M3, finish),
        (Kind::Plain(Type::F16x2), Kind::E5m2x2) => packed::unpack8(d, i, Format::E5M2, finish),
        (Kind::E4m3x2, _) => packed::pack8(d, i, from, Format::E4M3, finish),
        (Kind::E5m2x2, _) => packed::pack8(d, i, from, Format::E5M2, finish),
        (Kind::Plain(Type::F16x2), _) => packed::pack16::<F16>(d, i, rounding, finish),
        (Kind::Plain(Type::BF16x2), _) => packed::pack16::<Bf16>(d, i, rounding, finish),
        (Kind::Plain(to), Kind::Plain(from)) => plain(
            d,
            i,
            How {
                to,
                from,
                rounding,
                to_integer,
                finish,
            },
        ),
        _ => Err(Unsupported::new("pair of types")),
    }
}

fn kind(m: &Modifiers<'_>) -> Result<Kind, Unsupported> {
    let special = [
        ("tf32", Kind::Tf32),
        ("e4m3x2", Kind::E4m3x2),
        ("e5m2x2", Kind::E5m2x2),
    ];
    m.next_of(&special)
        .map_or_else(|| Ok(Kind::Plain(m.ty()?)), Ok)
}

impl Finish {
    #[inline(always)]
    fn clamp(self, value: f64) -> f64 {
        if self.relu && value <= 0.0 {
            return 0.0;
        }
        if self.sat {
            // Written so that NaN gives 0.
            return if value > 0.0 { value.min(1.0) } else { 0.0 };
        }
        value
    }
}

/// Rounding and the rest of a conversion's modifiers.
#[derive(Clone, Copy)]
struct How {
    to: Type,
    from: Type,
    rounding: Option<Rounding>,
    to_integer: Option<Rounding>,
    finish: Finish,
}

/// A conversion between two scalar types.
///
/// Types are values here, not type parameters: of the 144 pairs only those of inner loops are worth
/// code of their own.
fn plain(d: &Decoder<'_>, i: &Instruction, how: How) -> Result<Execute, Unsupported> {
    if let Some(common) = common(d, i, how)? {
        return Ok(common);
    }
    let rounding = || {
        how.rounding
            .ok_or_else(|| Unsupported::new("cvt without rounding"))
    };
    match (is_float(how.from), is_float(how.to)) {
        (false, false) if how.finish.sat => through(d, i, how, move |bits| {
            saturated(integer(bits, how.from), how.to)
        }),
        (false, false) => {
            let [from, to] = [how.from, how.to].map(|ty| (64 - 8 * ty.size(), is_signed(ty)));
            let extended = |bits: u64, (unused, signed): (u32, bool)| {
                let top = bits << unused;
                if signed {
                    (top as i64 >> unused) as u64
                } else {
                    top >> unused
                }
            };
            through(d, i, how, move |bits| extended(extended(bits, from), to))
        }
        (true, false) => {
            let whole = how
                .to_integer
                .ok_or_else(|| Unsupported::new("cvt without rounding"))?;
            through(d, i, how, move |bits| {
                to_integer(real(bits, how.from), whole, how)
            })
        }
        (false, true) => {
            let rounding = rounding()?;
            through(d, i, how, move |bits| {
                from_integer(integer(bits, how.from), rounding, how.to)
            })
        }
        (true, true) => {
            // Widening needs no rounding.
            let rounding = how.rounding.unwrap_or(Rounding::Nearest);
            through(d, i, how, move |bits| {
                real_to_real(real(bits, how.from), rounding, how)
            })
        }
    }
}

/// Conversions of inner loops, whose loops over lanes vectorise.
fn common(d: &Decoder<'_>, i: &Instruction, how: How) -> Result<Option<Execute>, Unsupported> {
    let f = how.finish;
    if (how.to, how.from) == (Type::F32, Type::F32) && how.to_integer.is_none() && f.sat {
        let ftz = f.ftz;
        return d
            .map1(i, move |a: f32| {
                saturated_f32(if ftz { flush(a) } else { a })
            })
            .map(Some);
    }
    if f.ftz || f.sat || f.relu || f.satfinite {
        return Ok(None);
    }
    if let Some(whole) = how.to_integer {
        return match (how.to, how.from, whole) {
            (Type::S32, Type::F32, Rounding::Zero) => d.map1(i, |a: f32| a as i32).map(Some),
            (Type::U32, Type::F32, Rounding::Zero) => d.map1(i, |a: f32| a as u32).map(Some),
            (Type::S32, Type::F32, Rounding::Nearest) => {
                d.map1(i, |a: f32| a.round_ties_even() as i32).map(Some)
            }
            (Type::S32, Type::F32, Rounding::Down) => {
                d.map1(i, |a: f32| a.floor() as i32).map(Some)
            }
            (Type::F32, Type::F32, Rounding::Zero) => {
                d.map1(i, |a: f32| canonical(a.trunc())).map(Some)
            }
            (Type::F32, Type::F32, Rounding::Nearest) => {
                d.map1(i, |a: f32| canonical(a.round_ties_even())).map(Some)
            }
            (Type::F32, Type::F32, Rounding::Down) => {
                d.map1(i, |a: f32| canonical(a.floor())).map(Some)
            }
            (Type::F32, Type::F32, Rounding::Up) => {
                d.map1(i, |a: f32| canonical(a.ceil())).map(Some)
            }
            _ => Ok(None),
        };
    }
    let nearest = how.rounding == Some(Rounding::Nearest);
    Ok(Some(match (how.to, how.from) {
        (Type::F32, Type::F16) => d.map1(i, |a: F16| a.value())?,
        (Type::F32, Type::BF16) => d.map1(i, |a: Bf16| a.value())?,
        (Type::F16, Type::F32) if nearest => d.map1(i, F16::nearest)?,
        (Type::BF16, Type::F32) if nearest => d.map1(i, Bf16::nearest)?,
        (Type::F32, Type::S32) if nearest => d.map1(i, |a: i32| a as f32)?,
        (Type::F32, Type::U32) if nearest => d.map1(i, |a: u32| a as f32)?,
        _ => return Ok(None),
    }))
}

/// `cvt.sat.f32.f32`; NaN gives 0.
#[inline(always)]
fn saturated_f32(value: f32) -> f32 {
    let positive = if value > 0.0 { value } else { 0.0 };
    if positive < 1.0 { positive } else { 1.0 }
}

/// Applies `f` to the bits of a register; its result fills the destination register, which may be
/// wider than the type.
fn through(
    d: &Decoder<'_>,
    i: &Instruction,
    how: How,
    f: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    let source = d.any_source(d.operand(i, 1)?, how.from)?;
    let dest = d.any_dest(d.operand(i, 0)?)?;
    Ok(match (dest, source) {
        (AnyDest::Word(dest, bits), AnySource::Word(a)) => {
            lanes::map1(dest, a, move |a: u32| kept(f(a.into()), bits))
        }
        (AnyDest::Word(dest, bits), AnySource::Long(a)) => {
            lanes::map1(dest, a, move |a: u64| kept(f(a), bits))
        }
        (AnyDest::Long(dest), AnySource::Word(a)) => {
            lanes::map1(dest, a, move |a: u32| f(a.into()))
        }
        (AnyDest::Long(dest), AnySource::Long(a)) => lanes::map1(dest, a, f),
        (AnyDest::Discard, _) => return Err(Unsupported::new("cvt to nothing")),
    })
}

/// The low `bits` bits, 8 to 32.
#[inline(always)]
fn kept(value: u64, bits: u32) -> u32 {
    value as u32 & (u32::MAX >> (32 - bits))
}

fn is_float(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::BF16 | Type::F32 | Type::F64)
}

fn is_signed(ty: Type) -> bool {
    matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

/// The integer of a type in the low bits of a register.
#[inline(always)]
fn integer(bits: u64, ty: Type) -> i128 {
    let unused = 64 - 8 * ty.size();
    match is_signed(ty) {
        true => i128::from((bits << unused) as i64 >> unused),
        false => i128::from(bits << unused >> unused),
    }
}

/// The floating-point number of a type in the low bits of a register.
#[inline(always)]
fn real(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F16 => f64::from(f16_value(bits as u16)),
        Type::BF16 => f64::from(bf16_value(bits as u16)),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// The bits of a value that is exact or rounded to odd, rounded to a type.
#[inline(always)]
fn encode(value: f64, ty: Type, rounding: Rounding, saturate: bool) -> u64 {
    let format = match ty {
        Type::F16 => Format::F16,
        Type::BF16 => Format::BF16,
        Type::F32 => Format::F32,
        _ => return value.to_bits(),
    };
    u64::from(format.round(value, rounding, saturate))
}

/// Clamped to the range of an integer type.
#[inline(always)]
fn saturated(value: i128, ty: Type) -> u64 {
    let bits = 8 * ty.size();
    let (low, high) = match is_signed(ty) {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    };
    value.clamp(low, high) as u64
}

/// Clamps to the range. A NaN is 0, but the smallest integer where one of the types has 64 bits
/// (PTX ISA, cvt).
#[inline(always)]
fn to_integer(value: f64, rounding: Rounding, how: How) -> u64 {
    if value.is_nan() {
        let wide = how.from.size() == 8 || how.to.size() == 8;
        let smallest = 1 << (8 * how.to.size() - 1);
        return if wide {
            integer(smallest, how.to) as u64
        } else {
            0
        };
    }
    let value = how.finish.flushed(value, how.from);
    saturated(rounding.to_integer(value) as i128, how.to)
}

/// An integer of up to 64 bits, rounded to a floating-point type.
#[inline(always)]
fn from_integer(value: i128, rounding: Rounding, to: Type) -> u64 {
    // Exact up to 53 bits; above, what rounding to f64 lost decides ties.
    let nearest = value as f64;
    let lost = (value - nearest as i128) as f64;
    if to == Type::F64 {
        return direct(nearest, lost, rounding).to_bits();
    }
    encode(add_to_odd(nearest, lost), to, rounding, false)
}

#[inline(always)]
fn real_to_real(value: f64, rounding: Rounding, how: How) -> u64 {
    let value = how.finish.flushed(value, how.from);
    let value = match how.to_integer {
        Some(whole) => whole.to_integer(value),
        None => value,
    };
    let bits = encode(
        how.finish.clamp(value),
        how.to,
        rounding,
        how.finish.satfinite,
    );
    match how.finish.ftz && how.to == Type::F32 {
        true => u64::from(flush(f32::from_bits(bits as u32)).to_bits()),
        false => bits,
    }
}

impl Finish {
    /// `.ftz` concerns f32 alone.
    #[inline(always)]
    fn flushed(self, value: f64, ty: Type) -> f64 {
        if self.ftz && ty == Type::F32 {
            f64::from(flush(value as f32))
        } else {
            value
        }
    }
}
