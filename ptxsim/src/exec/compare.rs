//! Comparisons: `setp`, `set`.

use super::half::{Bf16, F16, Half};
use super::lanes::{LaneLoop, instruction};
use super::narrow::flush;
use super::registers::{Dest, Predicate, Registers, Row, Source};
use super::value::Value;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use std::marker::PhantomData;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("setp", setp), ("set", set)];

/// Which outcomes of a comparison satisfy it.
#[derive(Clone, Copy)]
struct Test {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

const fn test(less: bool, equal: bool, greater: bool, unordered: bool) -> Test {
    Test {
        less,
        equal,
        greater,
        unordered,
    }
}

const TESTS: &[(&str, Test)] = &[
    ("eq", test(false, true, false, false)),
    ("ne", test(true, false, true, false)),
    ("lt", test(true, false, false, false)),
    ("le", test(true, true, false, false)),
    ("gt", test(false, false, true, false)),
    ("ge", test(false, true, true, false)),
    ("lo", test(true, false, false, false)),
    ("ls", test(true, true, false, false)),
    ("hi", test(false, false, true, false)),
    ("hs", test(false, true, true, false)),
    ("equ", test(false, true, false, true)),
    ("neu", test(true, false, true, true)),
    ("ltu", test(true, false, false, true)),
    ("leu", test(true, true, false, true)),
    ("gtu", test(false, false, true, true)),
    ("geu", test(false, true, true, true)),
    ("num", test(true, true, true, false)),
    ("nan", test(false, false, false, true)),
];

/// How a comparison is joined with a predicate.
type Join = fn(u32, u32) -> u32;
const JOINS: &[(&str, Join)] = &[
    ("and", |a, b| a & b),
    ("or", |a, b| a | b),
    ("xor", |a, b| a ^ b),
];

/// A type that can be compared.
trait Ordered: Value + Send + Sync {
    /// `self < other`; false where one is NaN.
    fn less(self, other: Self) -> bool;
    /// `self == other`; false where one is NaN.
    fn equal(self, other: Self) -> bool;
}

macro_rules! ordered {
    ($($ty:ty)*) => {$(
        impl Ordered for $ty {
            #[inline(always)]
            fn less(self, other: Self) -> bool {
                self < other
            }
            #[inline(always)]
            fn equal(self, other: Self) -> bool {
                self == other
            }
        }
    )*};
}
ordered!(u16 i16 u32 i32 u64 i64 f32 f64);

macro_rules! ordered_half {
    ($($ty:ty)*) => {$(
        impl Ordered for $ty {
            #[inline(always)]
            fn less(self, other: Self) -> bool {
                self.value() < other.value()
            }
            #[inline(always)]
            fn equal(self, other: Self) -> bool {
                self.value() == other.value()
            }
        }
    )*};
}
ordered_half!(F16 Bf16);

/// An f32 read with `.ftz`.
#[derive(Clone, Copy)]
struct Flushed(f32);

impl Value for Flushed {
    type Word = u32;
    #[inline(always)]
    fn from_word(word: u32) -> Self {
        Flushed(flush(f32::from_bits(word)))
    }
    #[inline(always)]
    fn to_word(self) -> u32 {
        self.0.to_bits()
    }
}

impl Ordered for Flushed {
    #[inline(always)]
    fn less(self, other: Self) -> bool {
        self.0 < other.0
    }
    #[inline(always)]
    fn equal(self, other: Self) -> bool {
        self.0 == other.0
    }
}

/// Lanes in which the rows satisfy the test.
#[inline(always)]
fn holds<T: Ordered>(test: Test, a: &Row<T::Word>, b: &Row<T::Word>) -> u32 {
    let (mut less, mut equal, mut greater) = (0, 0, 0);
    for lane in 0..LANES {
        let (x, y) = (T::from_word(a[lane]), T::from_word(b[lane]));
        less |= u32::from(x.less(y)) << lane;
        equal |= u32::from(x.equal(y)) << lane;
        greater |= u32::from(y.less(x)) << lane;
    }
    let unordered = !(less | equal | greater);
    let pick = |wanted: bool, lanes: u32| if wanted { lanes } else { 0 };
    pick(test.less, less)
        | pick(test.equal, equal)
        | pick(test.greater, greater)
        | pick(test.unordered, unordered)
}

/// The modifiers that comparisons share.
struct Comparison {
    test: Test,
    join: Option<Join>,
    ftz: bool,
}

impl Comparison {
    fn take(m: &Modifiers<'_>) -> Result<Comparison, Unsupported> {
        Ok(Comparison {
            test: m
                .choose(TESTS)
                .ok_or_else(|| Unsupported::new("comparison"))?,
            join: m.choose(JOINS),
            ftz: m.take("ftz"),
        })
    }

    /// The predicate that the comparison is joined with, if it is.
    fn joined(&self, d: &Decoder<'_>, i: &Instruction) -> Result<(Join, Predicate), Unsupported> {
        Ok(match self.join {
            Some(join) => (join, d.predicate(d.operand(i, 3)?)?),
            None => (|a, _| a, Predicate::FALSE),
        })
    }
}

/// Evaluates `$body` with `$T` standing for the type, `.ftz` included.
macro_rules! with_ordered {
    ($ty:expr, $ftz:expr, $T:ident => $body:expr) => {
        with_ordered!(@ $ty, $ftz, $T, $body,
            U16 u16, B16 u16, S16 i16, U32 u32, B32 u32, S32 i32, U64 u64, B64 u64, S64 i64,
            F32 f32, F64 f64, F16 F16, BF16 Bf16)
    };
    (@ $ty:expr, $ftz:expr, $T:ident, $body:expr, $($name:ident $known:ty),*) => {
        match $ty {
            Type::F32 if $ftz => {
                type $T = Flushed;
                $body
            }
            $(Type::$name => {
                type $T = $known;
                $body
            })*
            _ => Err(Unsupported::new("type")),
        }
    };
}

fn setp(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let comparison = Comparison::take(&m)?;
    let ty = m.ty()?;
    m.finish()?;
    let (join, with) = comparison.joined(d, i)?;
    let (p, q) = match d.operand(i, 0)? {
        Operand::Pair(p, q) => (d.predicate_dest(p)?, d.predicate_dest(q)?),
        single => (d.predicate_dest(single)?, None),
    };
    let test = comparison.test;
    match ty {
        Type::F16x2 => return setp_pair::<F16>(d, i, test, join, with, [p, q]),
        Type::BF16x2 => return setp_pair::<Bf16>(d, i, test, join, with, [p, q]),
        _ => {}
    }
    with_ordered!(ty, comparison.ftz, T => {
        let (a, b) = (d.source(d.operand(i, 1)?)?, d.source(d.operand(i, 2)?)?);
        Ok(instruction(Setp::<T> { a, b, test, join, with, p, q, ty: PhantomData }))
    })
}

struct Setp<T: Ordered> {
    a: Source<T::Word>,
    b: Source<T::Word>,
    test: Test,
    join: Join,
    with: Predicate,
    p: Option<u32>,
    q: Option<u32>,
    ty: PhantomData<fn() -> T>,
}

impl<T: Ordered> LaneLoop for Setp<T> {
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let bits = holds::<T>(self.test, registers.read(self.a), registers.read(self.b));
        let with = registers.predicates.read(self.with);
        let defined = registers.defined(self.a)
            & registers.defined(self.b)
            & registers.predicates.defined(self.with);
        if let Some(p) = self.p {
            registers
                .predicates
                .write(p, mask, defined, (self.join)(bits, with));
        }
        if let Some(q) = self.q {
            registers
                .predicates
                .write(q, mask, defined, (self.join)(!bits, with));
        }
    }
}

/// `setp` on pairs: the first predicate is for the low halves, the second for the high ones.
fn setp_pair<H>(
    d: &Decoder<'_>,
    i: &Instruction,
    test: Test,
    join: Join,
    with: Predicate,
    dests: [Option<u32>; 2],
) -> Result<Execute, Unsupported>
where
    H: Half + Ordered + Value<Word = u32>,
{
    let (a, b) = (d.source32(d.operand(i, 1)?)?, d.source32(d.operand(i, 2)?)?);
    Ok(Box::new(move |warp, mask| {
        let (x, y) = (*warp.read(a), *warp.read(b));
        let defined = warp.defined(a) & warp.defined(b);
        let file = &mut warp.registers.predicates;
        let (other, defined) = (file.read(with), defined & file.defined(with));
        for (half, dest) in dests.into_iter().enumerate() {
            let shifted = |row: &Row<u32>| row.map(|word| word >> (16 * half));
            let bits = holds::<H>(test, &shifted(&x), &shifted(&y));
            if let Some(slot) = dest {
                file.write(slot, mask, defined, join(bits, other));
            }
        }
        super::step::Step::Next
    }))
}

/// `set`: 1.0, or all ones for an integer, where the comparison holds.
fn set(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let comparison = Comparison::take(&m)?;
    let (to, from) = (m.ty()?, m.ty()?);
    m.finish()?;
    let (join, with) = comparison.joined(d, i)?;
    let one = match to {
        Type::F32 => 1f32.to_bits(),
        Type::F16 | Type::F16x2 => 0x3c00,
        Type::BF16 | Type::BF16x2 => 0x3f80,
        Type::U16 | Type::S16 => 0xffff,
        Type::U32 | Type::S32 => u32::MAX,
        _ => return Err(Unsupported::new("type")),
    };
    let dest: Dest<u32> = d.dest(d.operand(i, 0)?)?;
    let test = comparison.test;
    match from {
        Type::F16x2 => return set_pair::<F16>(d, i, test, (join, with), dest, one),
        Type::BF16x2 => return set_pair::<Bf16>(d, i, test, (join, with), dest, one),
        _ => {}
    }
    with_ordered!(from, comparison.ftz, T => {
        let (a, b) = (d.source::<<T as Value>::Word>(d.operand(i, 1)?)?, d.source(d.operand(i, 2)?)?);
        Ok(Box::new(move |warp, mask| {
            let bits = holds::<T>(test, warp.read(a), warp.read(b));
            let file = &warp.registers.predicates;
            let bits = join(bits, file.read(with));
            let defined = file.defined(with) & warp.defined(a) & warp.defined(b);
            let out = std::array::from_fn(|lane| if bits >> lane & 1 == 1 { one } else { 0 });
            warp.write(dest, mask, defined, &out);
            super::step::Step::Next
        }))
    })
}

fn set_pair<H>(
    d: &Decoder<'_>,
    i: &Instruction,
    test: Test,
    (join, with): (Join, Predicate),
    dest: Dest<u32>,
    one: u32,
) -> Result<Execute, Unsupported>
where
    H: Half + Ordered + Value<Word = u32>,
{
    let (a, b) = (d.source32(d.operand(i, 1)?)?, d.source32(d.operand(i, 2)?)?);
    let low = move |row: &Row<u32>, half: usize| row.map(|word| word >> (16 * half));
    Ok(Box::new(move |warp, mask| {
        let (x, y) = (*warp.read(a), *warp.read(b));
        let file = &warp.registers.predicates;
        let other = file.read(with);
        let defined = file.defined(with) & warp.defined(a) & warp.defined(b);
        let bits = [0, 1].map(|half| join(holds::<H>(test, &low(&x, half), &low(&y, half)), other));
        // A 32-bit integer result compares the low halves' type width: all ones a half.
        let unit = |lane: usize, half: usize| {
            if bits[half] >> lane & 1 == 1 {
                one & 0xffff
            } else {
                0
            }
        };
        let out = std::array::from_fn(|lane| unit(lane, 0) | unit(lane, 1) << 16);
        warp.write(dest, mask, defined, &out);
        super::step::Step::Next
    }))
}
