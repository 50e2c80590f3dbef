//! Conversions that fill or read packed elements.

use super::{Finish, Kind};
use crate::exec::half::{F16, Half, Pair};
use crate::exec::rounding::{Format, Rounding};
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::ptx::ast::{Instruction, Type};

/// `cvt.pack.sat`: two s32, clamped, the second in the low part; of 8-bit parts below the low half
/// of a third operand.
pub(super) fn pack_integers(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ranges = [
        ("u16", (0, 0xffff)),
        ("s16", (-0x8000, 0x7fff)),
        ("u8", (0, 0xff)),
        ("s8", (-0x80, 0x7f)),
    ];
    let range = m.take("sat").then(|| m.choose(&ranges)).flatten();
    let (low, high) = range.ok_or_else(|| Unsupported::new("type of cvt.pack"))?;
    let from = m.ty()?;
    let bytes = high - low == 0xff;
    if from != Type::S32 || (bytes && m.ty()? != Type::B32) {
        return Err(Unsupported::new("type of cvt.pack"));
    }
    m.finish()?;
    if bytes {
        let part = move |value: i32| value.clamp(low, high) as u32 & 0xff;
        return d.map3(i, move |a: i32, b: i32, c: u32| {
            c << 16 | part(a) << 8 | part(b)
        });
    }
    let part = move |value: i32| value.clamp(low, high) as u32 & 0xffff;
    d.map2(i, move |a: i32, b: i32| part(a) << 16 | part(b))
}

/// Two f32, the second operand in the low half.
pub(super) fn pack16<H: Half>(
    d: &Decoder<'_>,
    i: &Instruction,
    rounding: Option<Rounding>,
    finish: Finish,
) -> Result<Execute, Unsupported> {
    let rounding = rounding.ok_or_else(|| Unsupported::new("cvt without rounding"))?;
    if rounding == Rounding::Nearest && !finish.relu && !finish.satfinite {
        return d.map2(i, |high: f32, low: f32| {
            Pair(H::nearest(low), H::nearest(high))
        });
    }
    let round = move |v: f32| {
        H::from_bits(H::FORMAT.round(finish.clamp(f64::from(v)), rounding, finish.satfinite) as u16)
    };
    d.map2(i, move |high: f32, low: f32| Pair(round(low), round(high)))
}

/// Two numbers of 8 bits from two f32, the second in the low byte, or from a pair of halves.
pub(super) fn pack8(
    d: &Decoder<'_>,
    i: &Instruction,
    from: Kind,
    format: Format,
    finish: Finish,
) -> Result<Execute, Unsupported> {
    let round = move |v: f32| {
        format.round(
            finish.clamp(f64::from(v)),
            Rounding::Nearest,
            finish.satfinite,
        ) as u16
    };
    match from {
        Kind::Plain(Type::F32) => {
            d.map2(i, move |high: f32, low: f32| round(high) << 8 | round(low))
        }
        Kind::Plain(Type::F16x2) => d.map1(i, move |pair: Pair<F16>| {
            round(pair.1.value()) << 8 | round(pair.0.value())
        }),
        _ => Err(Unsupported::new("pair of types")),
    }
}

/// Two numbers of 8 bits to a pair of halves.
pub(super) fn unpack8(
    d: &Decoder<'_>,
    i: &Instruction,
    format: Format,
    finish: Finish,
) -> Result<Execute, Unsupported> {
    let half = move |bits: u16| {
        let value = finish.clamp(format.value(u32::from(bits & 0xff)));
        F16::nearest(value as f32)
    };
    d.map1(i, move |pair: u16| Pair(half(pair), half(pair >> 8)))
}
