//! Arithmetic on f16, bf16 and their packed pairs. Each result is the exact one, rounded once.

use super::lanes::{LaneLoop, instruction, row};
use super::narrow::{
    add_to_odd, add_to_odd32, bf16_nearest, bf16_value, f16_nearest, f16_value, narrow_to_odd,
};
use super::registers::{Dest, Registers, Source};
use super::rounding::Format;
use super::value::Value;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Opcodes that have forms on halves.
pub const KEYS: &[&str] = &[
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
    /// Bits of infinity.
    const INFINITY: u16;
    /// The NaN that results are.
    const NAN: Self;
    /// From its bits.
    fn from_bits(bits: u16) -> Self;
    /// Its bits.
    fn to_bits(self) -> u16;
    /// Its value.
    fn value(self) -> f32;
    /// The nearest one.
    fn nearest(value: f32) -> Self;
    /// `a * b`, rounded once.
    fn mul(a: Self, b: Self) -> Self;
    /// `a * b + c`, rounded once.
    fn fma(a: Self, b: Self, c: Self) -> Self;
    /// Results of `ex2` and `tanh`, once they were needed.
    fn tables() -> [&'static OnceLock<Box<Table>>; 2];

    /// `a + b`, rounded once: f32 has more than twice the bits, so that rounding to it first does
    /// no harm.
    #[inline(always)]
    fn add(a: Self, b: Self) -> Self {
        Self::nearest(a.value() + b.value())
    }
    /// With the other sign.
    #[inline(always)]
    fn negated(self) -> Self {
        Self::from_bits(self.to_bits() ^ 0x8000)
    }
    /// Without its sign.
    #[inline(always)]
    fn magnitude(self) -> Self {
        Self::from_bits(self.to_bits() & 0x7fff)
    }
    /// Whether it is a NaN.
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.magnitude().to_bits() > Self::INFINITY
    }
    /// Whether it is 0 or subnormal.
    #[inline(always)]
    fn is_tiny(self) -> bool {
        self.to_bits() & Self::INFINITY == 0
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
    ($ty:ident, $format:expr, $infinity:expr, $value:path, $nearest:path, $mul:expr, $fma:expr) => {
        impl Half for $ty {
            const FORMAT: Format = $format;
            const INFINITY: u16 = $infinity;
            const NAN: Self = $ty(0x7fff);
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
            #[inline(always)]
            fn mul(a: Self, b: Self) -> Self {
                Self::nearest(($mul)(a.value(), b.value()))
            }
            #[inline(always)]
            fn fma(a: Self, b: Self, c: Self) -> Self {
                Self::nearest(($fma)(a.value(), b.value(), c.value()))
            }
            fn tables() -> [&'static OnceLock<Box<Table>>; 2] {
                static EX2: OnceLock<Box<Table>> = OnceLock::new();
                static TANH: OnceLock<Box<Table>> = OnceLock::new();
                [&EX2, &TANH]
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
// A product of two f16 is exact in f32. What is added to it is rounded to odd: it could be a tie.
half!(
    F16,
    Format::F16,
    0x7c00,
    f16_value,
    f16_nearest,
    |a, b| a * b,
    |a, b, c| add_to_odd32(a * b, c)
);
// A product of two bf16 may lie below the range of f32; it is exact in f64.
half!(
    Bf16,
    Format::BF16,
    0x7f80,
    bf16_value,
    bf16_nearest,
    |a, b| narrow_to_odd(f64::from(a) * f64::from(b)),
    |a, b, c| narrow_to_odd(add_to_odd(f64::from(a) * f64::from(b), f64::from(c)))
);

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
#[derive(Clone, Copy, Default, PartialEq)]
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
    fn flushed<H: Half>(self, half: H) -> H {
        if self.ftz && half.is_tiny() {
            H::from_bits(half.to_bits() & 0x8000)
        } else {
            half
        }
    }

    #[inline(always)]
    fn result<H: Half>(self, half: H) -> H {
        let half = self.flushed(half);
        if self.sat {
            let value = half.value();
            // Written so that NaN gives 0.
            let positive = if value > 0.0 { value } else { 0.0 };
            return H::nearest(if positive < 1.0 { positive } else { 1.0 });
        }
        let negative = half.to_bits() & 0x8000 != 0;
        if self.relu & negative & !half.is_nan() {
            H::from_bits(0)
        } else {
            half
        }
    }
}

/// An operation on halves, or on both halves of pairs.
struct HalfLoop<H, F> {
    dest: Dest<u32>,
    /// An operation with fewer operands ignores the last ones.
    operands: [Source<u32>; 3],
    /// Where the halves lie in their words.
    shifts: &'static [u32],
    f: F,
    half: PhantomData<fn() -> H>,
}

impl<H: Half, F> LaneLoop for HalfLoop<H, F>
where
    F: Fn(H, H, H) -> H + Send + Sync + 'static,
{
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let all = self.operands.map(|source| registers.defined(source));
        let [a, b, c] = self.operands.map(|source| registers.read(source));
        let mut out = [0; LANES];
        for &shift in self.shifts {
            let halves = row::<WIDE, u32>(|lane| {
                let half = |word: u32| H::from_bits((word >> shift) as u16);
                let result = (self.f)(half(a[lane]), half(b[lane]), half(c[lane]));
                result.to_bits().into()
            });
            (0..LANES).for_each(|lane| out[lane] |= halves[lane] << shift);
        }
        registers.write_result(self.dest, mask, all[0] & all[1] & all[2], &out);
    }
}

/// What the forms of an opcode have in common.
struct Form<'d, 'a> {
    decoder: &'d Decoder<'a>,
    instruction: &'d Instruction,
    shifts: &'static [u32],
}

impl Form<'_, '_> {
    /// The instruction that applies `f` to `operands` operands.
    fn loops<H: Half>(
        &self,
        operands: usize,
        f: impl Fn(H, H, H) -> H + Send + Sync + 'static,
    ) -> Result<Execute, Unsupported> {
        let (d, i) = (self.decoder, self.instruction);
        let source = |index: usize| d.source32(d.operand(i, index.min(operands))?);
        Ok(instruction(HalfLoop {
            dest: d.dest(d.operand(i, 0)?)?,
            operands: [source(1)?, source(2)?, source(3)?],
            shifts: self.shifts,
            f,
            half: PhantomData,
        }))
    }
}

fn decode(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    let paired = matches!(ty, Type::F16x2 | Type::BF16x2);
    let form = Form {
        decoder: d,
        instruction: i,
        shifts: if paired { &[0, 16] } else { &[0] },
    };
    match ty {
        Type::F16 | Type::F16x2 => of_format::<F16>(&form, &m),
        _ => of_format::<Bf16>(&form, &m),
    }
}

fn of_format<H: Half>(form: &Form<'_, '_>, m: &Modifiers<'_>) -> Result<Execute, Unsupported> {
    let key = form.decoder.key;
    match key {
        "min" | "max" => return extremum::<H>(form, key == "max", m),
        "ex2" | "tanh" => return approximate::<H>(form, m),
        _ => m.take("rn"),
    };
    let finish = Finish {
        ftz: m.take("ftz"),
        sat: !matches!(key, "neg" | "abs") && m.take("sat"),
        relu: key == "fma" && m.take("relu"),
    };
    m.finish()?;
    if finish == Finish::default() {
        return match key {
            "add" => form.loops(2, |a: H, b: H, _| H::add(a, b)),
            "sub" => form.loops(2, |a: H, b: H, _| H::add(a, b.negated())),
            "mul" => form.loops(2, |a: H, b: H, _| H::mul(a, b)),
            "fma" => form.loops(3, |a: H, b: H, c: H| H::fma(a, b, c)),
            "neg" => form.loops(1, |a: H, _, _| a.negated()),
            _ => form.loops(1, |a: H, _, _| a.magnitude()),
        };
    }
    let (f, o) = (finish, move |h: H| finish.flushed(h));
    match key {
        "add" => form.loops(2, move |a, b, _| f.result(H::add(o(a), o(b)))),
        "sub" => form.loops(2, move |a, b, _| f.result(H::add(o(a), o(b).negated()))),
        "mul" => form.loops(2, move |a, b, _| f.result(H::mul(o(a), o(b)))),
        "fma" => form.loops(3, move |a, b, c| f.result(H::fma(o(a), o(b), o(c)))),
        "neg" => form.loops(1, move |a, _, _| o(a).negated()),
        _ => form.loops(1, move |a, _, _| o(a).magnitude()),
    }
}

/// Functions that PTX bounds by an error: rounded correctly here, and looked up, for a half has few
/// values.
fn approximate<H: Half>(form: &Form<'_, '_>, m: &Modifiers<'_>) -> Result<Execute, Unsupported> {
    m.take("approx");
    let finish = Finish {
        ftz: m.take("ftz"),
        ..Finish::default()
    };
    m.finish()?;
    let [ex2, tanh] = H::tables();
    let table = match form.decoder.key {
        "ex2" => ex2.get_or_init(|| table::<H>(f64::exp2)),
        _ => tanh.get_or_init(|| table::<H>(f64::tanh)),
    };
    form.loops(1, move |a: H, _, _| {
        finish.result(H::from_bits(
            table[usize::from(finish.flushed(a).to_bits())],
        ))
    })
}

/// A function's results by the bits of the operand.
pub type Table = [u16; 1 << 16];

fn table<H: Half>(f: fn(f64) -> f64) -> Box<Table> {
    let mut results = Box::new([0; 1 << 16]);
    for (bits, result) in (0..=u16::MAX).zip(results.iter_mut()) {
        let exact = f(H::from_bits(bits).value().into());
        *result = H::nearest(narrow_to_odd(exact)).to_bits();
    }
    results
}

fn extremum<H: Half>(
    form: &Form<'_, '_>,
    max: bool,
    m: &Modifiers<'_>,
) -> Result<Execute, Unsupported> {
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
    if !xorsign {
        return form.loops(2, move |a: H, b: H, _| {
            choose(finish.flushed(a), finish.flushed(b), max, nan)
        });
    }
    form.loops(2, move |a: H, b: H, _| {
        let (a, b) = (finish.flushed(a), finish.flushed(b));
        let sign = (a.to_bits() ^ b.to_bits()) & 0x8000;
        let chosen = choose(a.magnitude(), b.magnitude(), max, nan);
        H::from_bits(chosen.magnitude().to_bits() | sign)
    })
}

/// The larger or smaller of two; -0 is below 0. A NaN loses, or with `nan` wins.
#[inline(always)]
pub fn choose<H: Half>(a: H, b: H, max: bool, nan: bool) -> H {
    // In this order of integers, that of the numbers, -0 is below 0.
    let order = |h: H| h.to_bits() as i16 ^ ((h.to_bits() as i16 >> 15) as u16 >> 1) as i16;
    let number = if (order(a) > order(b)) == max { a } else { b };
    let (if_a, if_b) = if nan { (H::NAN, H::NAN) } else { (b, a) };
    let chosen = if a.is_nan() { if_a } else { number };
    let chosen = if b.is_nan() { if_b } else { chosen };
    // Both were NaN, or one that counts.
    if chosen.is_nan() { H::NAN } else { chosen }
}
