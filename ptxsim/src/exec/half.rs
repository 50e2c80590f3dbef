//! Arithmetic on f16, bf16 and their packed pairs. Each result is the exact one, rounded once.

use super::lanes::{LaneLoop, instruction, row};
use super::registers::{Dest, Registers, Source};
use super::rounding::{
    Format, add_to_odd, bf16_nearest, bf16_value, f16_nearest, f16_value, narrow_to_odd,
};
use super::value::Value;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};
use std::marker::PhantomData;

/// Opcodes that have forms on halves.
const KEYS: &[&str] = &[
    "add", "sub", "mul", "fma", "neg", "abs", "min", "max", "ex2", "tanh",
];

/// The entry for an opcode whose type is a half or a pair of them.
pub fn find(opcode: &str) -> Option<(&'static str, Decode)> {
    let (key, rest) = opcode.split_once('.')?;
    let half = |part: &str| matches!(part, "f16" | "f16x2" | "bf16" | "bf16x2");
    let last = rest.rsplit('.').next()?;
    let key = KEYS.iter().find(|k| **k == key)?;
    half(last).then_some((*key, decode as Decode))
}

/// A 16-bit floating-point number.
pub trait Half: Copy + Send + Sync + 'static {
    /// Its format.
    const FORMAT: Format;
    /// From its bits.
    fn from_bits(bits: u16) -> Self;
    /// Its bits.
    fn to_bits(self) -> u16;
    /// Its value.
    fn value(self) -> f32;
    /// The nearest one.
    fn nearest(value: f32) -> Self;

    /// Rounds a value that is exact, or rounded to odd.
    #[inline(always)]
    fn round(value: f64) -> Self {
        Self::nearest(narrow_to_odd(value))
    }
}

/// IEEE binary16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct F16(pub u16);
/// The upper half of binary32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bf16(pub u16);
/// Two halves, the first in the low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<H>(pub H, pub H);

macro_rules! half {
    ($ty:ident, $format:expr, $value:path, $nearest:path) => {
        impl Half for $ty {
            const FORMAT: Format = $format;
            #[inline(always)]
            fn from_bits(bits: u16) -> Self {
                $ty(bits)
            }
            #[inline(always)]
            fn to_bits(self) -> u16 {
                self.0
            }
            #[inline(always)]
            fn value(self) -> f32 {
                $value(self.0)
            }
            #[inline(always)]
            fn nearest(value: f32) -> Self {
                $ty($nearest(value))
            }
        }
        impl Value for $ty {
            type Word = u32;
            #[inline(always)]
            fn from_word(word: u32) -> Self {
                $ty(word as u16)
            }
            #[inline(always)]
            fn to_word(self) -> u32 {
                u32::from(self.0)
            }
        }
    };
}
half!(F16, Format::F16, f16_value, f16_nearest);
half!(Bf16, Format::BF16, bf16_value, bf16_nearest);

impl<H: Half> Value for Pair<H> {
    type Word = u32;
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        Pair(H::from_bits(word as u16), H::from_bits((word >> 16) as u16))
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        u32::from(self.0.to_bits()) | u32::from(self.1.to_bits()) << 16
    }
}

/// What happens to operands and results.
#[derive(Clone, Copy, Default)]
struct Finish {
    /// Subnormal operands and results become zero.
    ftz: bool,
    /// Clamped to [0, 1], NaN to 0.
    sat: bool,
    /// Negative results become 0.
    relu: bool,
}

impl Finish {
    #[inline(always)]
    fn operand<H: Half>(self, half: H) -> f64 {
        f64::from(self.flushed(half).value())
    }

    #[inline(always)]
    fn flushed<H: Half>(self, half: H) -> H {
        let bits = half.to_bits();
        let smallest = if H::FORMAT == Format::F16 {
            0x400
        } else {
            0x80
        };
        if self.ftz && bits & 0x7fff < smallest {
            H::from_bits(bits & 0x8000)
        } else {
            half
        }
    }

    #[inline(always)]
    fn result<H: Half>(self, value: f64) -> H {
        let half = self.flushed(H::round(value));
        if self.sat {
            let value = half.value();
            // Written so that NaN gives 0.
            return H::nearest(if value > 0.0 { value.min(1.0) } else { 0.0 });
        }
        if self.relu && half.to_bits() & 0x8000 != 0 && !half.value().is_nan() {
            return H::from_bits(0);
        }
        half
    }
}

fn decode(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    match m.ty()? {
        Type::F16 => scalar::<F16>(d, i, &m),
        Type::BF16 => scalar::<Bf16>(d, i, &m),
        Type::F16x2 => packed::<F16>(d, i, &m),
        _ => packed::<Bf16>(d, i, &m),
    }
}

/// A function of one, two or three halves.
enum Function<H> {
    One(Box<dyn Fn(H) -> H + Send + Sync>),
    Two(Box<dyn Fn(H, H) -> H + Send + Sync>),
    Three(Box<dyn Fn(H, H, H) -> H + Send + Sync>),
}

fn scalar<H: Half + Value<Word = u32>>(
    d: &Decoder<'_>,
    i: &Instruction,
    m: &Modifiers<'_>,
) -> Result<Execute, Unsupported> {
    match function::<H>(d.key, m)? {
        Function::One(f) => d.map1(i, move |a: H| f(a)),
        Function::Two(f) => d.map2(i, move |a: H, b: H| f(a, b)),
        Function::Three(f) => d.map3(i, move |a: H, b: H, c: H| f(a, b, c)),
    }
}

fn packed<H: Half>(
    d: &Decoder<'_>,
    i: &Instruction,
    m: &Modifiers<'_>,
) -> Result<Execute, Unsupported> {
    type P<H> = Pair<H>;
    if let Some(common) = common::<H>(d, i)? {
        return Ok(common);
    }
    match function::<H>(d.key, m)? {
        Function::One(f) => d.map1(i, move |a: P<H>| Pair(f(a.0), f(a.1))),
        Function::Two(f) => d.map2(i, move |a: P<H>, b: P<H>| Pair(f(a.0, b.0), f(a.1, b.1))),
        Function::Three(f) => d.map3(i, move |a: P<H>, b: P<H>, c: P<H>| {
            Pair(f(a.0, b.0, c.0), f(a.1, b.1, c.1))
        }),
    }
}

/// An operation on pairs without modifiers but `.rn`: those of inner loops, whose loops vectorise.
struct PairLoop<H, F> {
    dest: Dest<u32>,
    a: Source<u32>,
    b: Source<u32>,
    c: Source<u32>,
    f: F,
    half: PhantomData<fn() -> H>,
}

impl<H, F> LaneLoop for PairLoop<H, F>
where
    H: Half,
    F: Fn(f64, f64, f64) -> f64 + Send + Sync + 'static,
{
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let [a, b, c] = [self.a, self.b, self.c];
        let defined = registers.defined(a) & registers.defined(b) & registers.defined(c);
        let [a, b, c] = [a, b, c].map(|source| *registers.read(source));
        let wide = |bits: u32| f64::from(H::from_bits(bits as u16).value());
        let mut out = [0; LANES];
        for shift in [0, 16] {
            let halves = row::<WIDE, u32>(|lane| {
                let [a, b, c] = [a[lane] >> shift, b[lane] >> shift, c[lane] >> shift];
                H::round((self.f)(wide(a), wide(b), wide(c)))
                    .to_bits()
                    .into()
            });
            (0..LANES).for_each(|lane| out[lane] |= halves[lane] << shift);
        }
        registers.write(self.dest, mask, defined, &out);
    }
}

/// A [`PairLoop`], where the instruction has no modifiers that it does not know.
///
/// A product of halves is exact in f64, and so is their sum up to what cannot make or break a tie.
/// A product can be a tie, so what is added to it is rounded to odd.
fn common<H: Half>(d: &Decoder<'_>, i: &Instruction) -> Result<Option<Execute>, Unsupported> {
    let modifiers = &i.opcode[d.key.len()..];
    let operation = ["add", "sub", "mul", "fma"].contains(&d.key);
    if !operation || modifiers.trim_start_matches(".rn").matches('.').count() != 1 {
        return Ok(None);
    }
    let operand = |index| d.source32(d.operand(i, index)?);
    let (dest, a, b) = (d.dest(d.operand(i, 0)?)?, operand(1)?, operand(2)?);
    let c = if d.key == "fma" { operand(3)? } else { b };
    fn pairs<H: Half>(
        [a, b, c]: [Source<u32>; 3],
        dest: Dest<u32>,
        f: impl Fn(f64, f64, f64) -> f64 + Send + Sync + 'static,
    ) -> Execute {
        instruction(PairLoop::<H, _> {
            dest,
            a,
            b,
            c,
            f,
            half: PhantomData,
        })
    }
    Ok(Some(match d.key {
        "add" => pairs::<H>([a, b, c], dest, |a, b, _| a + b),
        "sub" => pairs::<H>([a, b, c], dest, |a, b, _| a - b),
        "mul" => pairs::<H>([a, b, c], dest, |a, b, _| a * b),
        _ => pairs::<H>([a, b, c], dest, |a, b, c| add_to_odd(a * b, c)),
    }))
}

fn function<H: Half>(key: &str, m: &Modifiers<'_>) -> Result<Function<H>, Unsupported> {
    if matches!(key, "min" | "max") {
        return extremum(key == "max", m);
    }
    let approximate = matches!(key, "ex2" | "tanh");
    if approximate {
        m.take("approx");
    } else {
        m.take("rn");
    }
    let finish = Finish {
        ftz: m.take("ftz"),
        sat: !approximate && m.take("sat"),
        relu: key == "fma" && m.take("relu"),
    };
    m.finish()?;
    let one = |f: fn(f64) -> f64| {
        Function::One(Box::new(move |a: H| finish.result(f(finish.operand(a)))))
    };
    let two = |f: fn(f64, f64) -> f64| {
        Function::Two(Box::new(move |a: H, b: H| {
            finish.result(f(finish.operand(a), finish.operand(b)))
        }))
    };
    Ok(match key {
        "add" => two(add_to_odd),
        "sub" => two(|a, b| add_to_odd(a, -b)),
        "mul" => two(|a, b| a * b),
        // The product of two halves is exact in f64.
        "fma" => Function::Three(Box::new(move |a: H, b: H, c: H| {
            let product = finish.operand(a) * finish.operand(b);
            finish.result(add_to_odd(product, finish.operand(c)))
        })),
        "neg" => sign(finish, |bits| bits ^ 0x8000),
        "abs" => sign(finish, |bits| bits & 0x7fff),
        "ex2" => one(f64::exp2),
        _ => one(f64::tanh),
    })
}

/// `neg` and `abs` touch the sign alone; a NaN keeps its payload.
fn sign<H: Half>(finish: Finish, f: fn(u16) -> u16) -> Function<H> {
    Function::One(Box::new(move |a: H| {
        H::from_bits(f(finish.flushed(a).to_bits()))
    }))
}

fn extremum<H: Half>(max: bool, m: &Modifiers<'_>) -> Result<Function<H>, Unsupported> {
    let finish = Finish {
        ftz: m.take("ftz"),
        ..Finish::default()
    };
    let nan = m.take("NaN");
    let xorsign = m.take("xorsign");
    if xorsign && !m.take("abs") {
        return Err(Unsupported::new(".xorsign without .abs"));
    }
    m.finish()?;
    Ok(Function::Two(Box::new(move |a: H, b: H| {
        let (a, b) = (finish.flushed(a), finish.flushed(b));
        let sign = (a.to_bits() ^ b.to_bits()) & 0x8000;
        let strip = |h: H| {
            if xorsign {
                H::from_bits(h.to_bits() & 0x7fff)
            } else {
                h
            }
        };
        let chosen = choose(strip(a), strip(b), max, nan);
        if xorsign {
            H::from_bits(chosen.to_bits() & 0x7fff | sign)
        } else {
            chosen
        }
    })))
}

/// The larger or smaller of two; -0 is below 0. A NaN loses, or with `nan` wins.
#[inline(always)]
fn choose<H: Half>(a: H, b: H, max: bool, nan: bool) -> H {
    let (x, y) = (a.value(), b.value());
    if x.is_nan() || y.is_nan() {
        return match (nan, x.is_nan(), y.is_nan()) {
            (false, true, false) => b,
            (false, false, true) => a,
            _ => H::from_bits(0x7fff),
        };
    }
    if (x.total_cmp(&y) == std::cmp::Ordering::Greater) == max {
        a
    } else {
        b
    }
}
