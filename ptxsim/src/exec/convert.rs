//! `cvt`: conversions between all integer and floating-point types.

use super::half::{Bf16, F16, Half, Pair};
use super::number::{Number, with_number};
use super::rounding::{Format, Rounding, flush, round_tf32};
use super::value::Value;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("cvt", cvt)];

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
        (Kind::Plain(Type::F16x2), Kind::E4m3x2) => unpack8(d, i, Format::E4M3, finish),
        (Kind::Plain(Type::F16x2), Kind::E5m2x2) => unpack8(d, i, Format::E5M2, finish),
        (Kind::E4m3x2, _) => pack8(d, i, from, Format::E4M3, finish),
        (Kind::E5m2x2, _) => pack8(d, i, from, Format::E5M2, finish),
        (Kind::Plain(Type::F16x2), _) => pack16::<F16>(d, i, rounding, finish),
        (Kind::Plain(Type::BF16x2), _) => pack16::<Bf16>(d, i, rounding, finish),
        (Kind::Plain(to), Kind::Plain(from)) => plain(d, i, to, from, rounding, to_integer, finish),
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
    rounding: Option<Rounding>,
    to_integer: Option<Rounding>,
    finish: Finish,
}

fn plain(
    d: &Decoder<'_>,
    i: &Instruction,
    to: Type,
    from: Type,
    rounding: Option<Rounding>,
    to_integer: Option<Rounding>,
    finish: Finish,
) -> Result<Execute, Unsupported> {
    let how = How {
        rounding,
        to_integer,
        finish,
    };
    with_number!(from, A => plain_from::<A>(d, i, to, how))
}

fn plain_from<A: Number>(
    d: &Decoder<'_>,
    i: &Instruction,
    to: Type,
    how: How,
) -> Result<Execute, Unsupported> {
    with_number!(to, R => plain_of::<A, R>(d, i, how))
}

fn plain_of<A: Number, R: Number>(
    d: &Decoder<'_>,
    i: &Instruction,
    how: How,
) -> Result<Execute, Unsupported> {
    match (A::RANGE, R::RANGE) {
        (Some(_), Some(_)) if how.finish.sat => convert(d, i, |a: A| saturated::<R>(a.integer())),
        (Some(_), Some(_)) => convert(d, i, |a: A| R::wrap(a.integer())),
        (None, Some(_)) => {
            let rounding = how
                .to_integer
                .ok_or_else(|| Unsupported::new("cvt without rounding"))?;
            convert(d, i, move |a: A| {
                to_integer::<A, R>(a, rounding, how.finish.ftz)
            })
        }
        (Some(_), None) => {
            let rounding = how
                .rounding
                .ok_or_else(|| Unsupported::new("cvt without rounding"))?;
            convert(d, i, move |a: A| {
                R::from_real(from_integer::<R>(a.integer(), rounding))
            })
        }
        (None, None) => real_to_real::<A, R>(d, i, how),
    }
}

/// A result that fills its register: 8- and 16-bit integers are extended with their sign, since the
/// register may be wider than the type.
struct Extended<R>(R);

impl<R: Number> Value for Extended<R> {
    type Word = R::Word;
    #[inline(always)]
    fn from_word(word: R::Word) -> Self {
        Extended(R::from_word(word))
    }
    #[inline(always)]
    fn to_word(self) -> R::Word {
        self.0.extended()
    }
}

impl<R: Copy> Copy for Extended<R> {}
impl<R: Copy> Clone for Extended<R> {
    fn clone(&self) -> Self {
        *self
    }
}

fn convert<A: Number, R: Number>(
    d: &Decoder<'_>,
    i: &Instruction,
    f: impl Fn(A) -> R + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    d.map1(i, move |a: A| Extended(f(a)))
}

#[inline(always)]
fn saturated<R: Number>(value: i128) -> R {
    let (low, high) = R::RANGE.unwrap_or((i128::MIN, i128::MAX));
    R::wrap(value.clamp(low, high))
}

/// Clamps to the range. A NaN is 0, but the smallest integer where one of the types has 64 bits
/// (PTX ISA, cvt).
#[inline(always)]
fn to_integer<A: Number, R: Number>(a: A, rounding: Rounding, ftz: bool) -> R {
    let value = a.real();
    if value.is_nan() {
        let wide = A::BITS == 64 || R::BITS == 64;
        return R::wrap(if wide { 1 << (R::BITS - 1) } else { 0 });
    }
    let value = if ftz && A::BITS == 32 {
        f64::from(flush(value as f32))
    } else {
        value
    };
    saturated(rounding.to_integer(value) as i128)
}

/// An integer of up to 64 bits, rounded to the format of `R`.
#[inline(always)]
fn from_integer<R: Number>(value: i128, rounding: Rounding) -> f64 {
    // Up to 53 bits are exact in f64; longer ones keep 55 bits and whether any was lost.
    let nearest = value as f64;
    match R::FORMAT {
        Some(format) => {
            let lost = value - nearest as i128;
            let odd = super::rounding::add_to_odd(nearest, lost as f64);
            format.value(format.round(odd, rounding, false))
        }
        None => directed(value, nearest, rounding),
    }
}

/// The f64 next to an integer in the direction of `rounding`; `nearest` is the nearest one.
#[inline(always)]
fn directed(value: i128, nearest: f64, rounding: Rounding) -> f64 {
    let error = nearest as i128 - value;
    let step_down = match rounding {
        Rounding::Zero => error > 0 && value > 0,
        Rounding::Down => error > 0,
        _ => false,
    };
    let step_up = match rounding {
        Rounding::Zero => error < 0 && value < 0,
        Rounding::Up => error < 0,
        _ => false,
    };
    match (step_down, step_up) {
        (true, _) => nearest.next_down(),
        (_, true) => nearest.next_up(),
        _ => nearest,
    }
}

fn real_to_real<A: Number, R: Number>(
    d: &Decoder<'_>,
    i: &Instruction,
    how: How,
) -> Result<Execute, Unsupported> {
    let finish = how.finish;
    if let (true, Some(rounding)) = (A::BITS == R::BITS, how.to_integer) {
        return convert(d, i, move |a: A| {
            let value = finish.flushed::<A>(a.real());
            R::from_real(finish.clamp(rounding.to_integer(value)))
        });
    }
    let plain = !(finish.ftz || finish.sat || finish.relu || finish.satfinite);
    let nearest = matches!(how.rounding, None | Some(Rounding::Nearest));
    // from_real goes through f32: right for f32 sources and all widenings.
    if plain && nearest && A::BITS <= 32 {
        return convert(d, i, |a: A| R::from_real(a.real()));
    }
    let rounding = how.rounding.unwrap_or(Rounding::Nearest);
    convert(d, i, move |a: A| {
        let value = finish.clamp(finish.flushed::<A>(a.real()));
        let rounded = match R::FORMAT {
            Some(format) => format.value(format.round(value, rounding, finish.satfinite)),
            None => value,
        };
        R::from_real(finish.flushed::<R>(rounded))
    })
}

impl Finish {
    /// `.ftz` concerns f32 alone.
    #[inline(always)]
    fn flushed<T: Number>(self, value: f64) -> f64 {
        if self.ftz && T::BITS == 32 {
            f64::from(flush(value as f32))
        } else {
            value
        }
    }
}

/// Two f32, the second operand in the low half.
fn pack16<H: Half>(
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
fn pack8(
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
fn unpack8(
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
