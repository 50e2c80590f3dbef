//! Arithmetic on f32 and f64: rounded once in any direction, or approximate.

use super::approximate;
use super::directed;
use super::rounding::{Format, Rounding, add_to_odd, flush};
use super::value::Value;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes that have forms on f32 and f64.
const KEYS: &[(&str, Decode)] = &[
    ("add", arithmetic),
    ("sub", arithmetic),
    ("mul", arithmetic),
    ("fma", arithmetic),
    ("mad", arithmetic),
    ("div", quotient),
    ("rcp", quotient),
    ("sqrt", quotient),
    ("rsqrt", transcendental),
    ("sin", transcendental),
    ("cos", transcendental),
    ("lg2", transcendental),
    ("ex2", transcendental),
    ("tanh", transcendental),
    ("min", extremum),
    ("max", extremum),
    ("abs", sign),
    ("neg", sign),
    ("copysign", copysign),
    ("testp", testp),
];

/// The entry for an opcode whose type is f32 or f64.
pub fn find(opcode: &str) -> Option<(&'static str, Decode)> {
    let key = opcode.split('.').next()?;
    let entry = KEYS.iter().find(|entry| entry.0 == key)?;
    matches!(opcode.rsplit('.').next()?, "f32" | "f64").then_some(*entry)
}

/// f32 or f64, with operations that are rounded in a direction.
trait Real: Value + Send + Sync + PartialOrd {
    /// The NaN that results are.
    const NAN: Self;
    /// `a * b + c`, rounded.
    fn fma(a: Self, b: Self, c: Self, rounding: Rounding) -> Self;
    /// `a + b`, rounded.
    fn add(a: Self, b: Self, rounding: Rounding) -> Self;
    /// `a * b`, rounded.
    fn mul(a: Self, b: Self, rounding: Rounding) -> Self;
    /// `a / b`, rounded.
    fn div(a: Self, b: Self, rounding: Rounding) -> Self;
    /// Square root, rounded.
    fn root(a: Self, rounding: Rounding) -> Self;
    /// Subnormal numbers become zeros.
    fn flush(self) -> Self;
    /// Clamped to [0, 1], NaN to 0.
    fn saturate(self) -> Self;
    /// With the sign bit given by `f` of the two sign bits.
    fn with_sign(self, other: Self, f: fn(bool, bool) -> bool) -> Self;
    /// Whether the sign bit is set.
    fn negative(self) -> bool;
    /// 1.
    fn one() -> Self;
    /// As f64, exactly.
    fn wide(self) -> f64;
}

macro_rules! real {
    ($ty:ty, $nan:expr, $fma:expr, $add:expr, $mul:expr, $div:expr, $sqrt:expr, $flush:expr) => {
        impl Real for $ty {
            const NAN: Self = $nan;
            #[inline(always)]
            fn fma(a: Self, b: Self, c: Self, rounding: Rounding) -> Self {
                ($fma)(a, b, c, rounding)
            }
            #[inline(always)]
            fn add(a: Self, b: Self, rounding: Rounding) -> Self {
                ($add)(a, b, rounding)
            }
            #[inline(always)]
            fn mul(a: Self, b: Self, rounding: Rounding) -> Self {
                ($mul)(a, b, rounding)
            }
            #[inline(always)]
            fn div(a: Self, b: Self, rounding: Rounding) -> Self {
                ($div)(a, b, rounding)
            }
            #[inline(always)]
            fn root(a: Self, rounding: Rounding) -> Self {
                ($sqrt)(a, rounding)
            }
            #[inline(always)]
            fn flush(self) -> Self {
                ($flush)(self)
            }
            #[inline(always)]
            fn saturate(self) -> Self {
                // Written so that NaN gives 0.
                if self > 0.0 { self.min(1.0) } else { 0.0 }
            }
            #[inline(always)]
            fn with_sign(self, other: Self, f: fn(bool, bool) -> bool) -> Self {
                let negative = f(self.is_sign_negative(), other.is_sign_negative());
                let magnitude = self.to_bits() << 1 >> 1;
                let sign = !(<$ty>::MAX.to_bits() | 1) & ((-0.0 as $ty).to_bits());
                Self::from_bits(if negative {
                    magnitude | sign
                } else {
                    magnitude
                })
            }
            #[inline(always)]
            fn negative(self) -> bool {
                self.is_sign_negative()
            }
            #[inline(always)]
            fn one() -> Self {
                1.0
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    };
}

/// Rounds an f64 that is exact, or rounded to odd, to f32.
#[inline(always)]
fn narrow(value: f64, rounding: Rounding) -> f32 {
    f32::from_bits(Format::F32.round(value, rounding, false))
}

/// `a + b` of f64 that are exact, rounded to f32. An exact zero of opposite terms is -0 when
/// rounding down.
#[inline(always)]
fn narrow_sum(a: f64, b: f64, rounding: Rounding) -> f32 {
    let cancels = a.is_finite() && a == -b && a.is_sign_negative() != b.is_sign_negative();
    if cancels && rounding == Rounding::Down {
        -0.0
    } else {
        narrow(add_to_odd(a, b), rounding)
    }
}

real!(
    f32,
    f32::from_bits(0x7fff_ffff),
    |a: f32, b: f32, c: f32, r| match r {
        Rounding::Nearest => a.mul_add(b, c),
        _ => narrow_sum(a.wide() * b.wide(), c.wide(), r),
    },
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a + b,
        _ => narrow_sum(a.wide(), b.wide(), r),
    },
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a * b,
        _ => narrow(a.wide() * b.wide(), r),
    },
    // A quotient or root of f32 that is not exact is further from any f32 than f64 can confuse.
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a / b,
        _ => narrow(a.wide() / b.wide(), r),
    },
    |a: f32, r| match r {
        Rounding::Nearest => a.sqrt(),
        _ => narrow(a.wide().sqrt(), r),
    },
    flush
);
real!(
    f64,
    f64::from_bits(0xfff8_0000_0000_0000),
    |a: f64, b: f64, c: f64, r| match r {
        Rounding::Nearest => a.mul_add(b, c),
        _ => directed::fma(a, b, c, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a + b,
        _ => directed::add(a, b, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a * b,
        _ => directed::mul(a, b, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a / b,
        _ => directed::div(a, b, r),
    },
    |a: f64, r| match r {
        Rounding::Nearest => a.sqrt(),
        _ => directed::sqrt(a, r),
    },
    |v: f64| v
);

/// What happens to operands and results.
#[derive(Clone, Copy)]
struct Finish {
    rounding: Rounding,
    ftz: bool,
    sat: bool,
}

impl Finish {
    fn take(m: &Modifiers<'_>) -> Finish {
        let rounding = m.choose(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
        ]);
        Finish {
            rounding: rounding.unwrap_or(Rounding::Nearest),
            ftz: m.take("ftz"),
            sat: m.take("sat"),
        }
    }

    #[inline(always)]
    fn operand<R: Real>(self, value: R) -> R {
        if self.ftz { value.flush() } else { value }
    }

    #[inline(always)]
    fn result<R: Real>(self, value: R) -> R {
        let value = if value.wide().is_nan() { R::NAN } else { value };
        let value = self.operand(value);
        if self.sat { value.saturate() } else { value }
    }
}

/// Evaluates `$body` with `$R` standing for the type.
macro_rules! with_real {
    ($m:expr, $R:ident => $body:expr) => {{
        let ty = $m.ty()?;
        $m.finish()?;
        match ty {
            Type::F32 => {
                type $R = f32;
                $body
            }
            _ => {
                type $R = f64;
                $body
            }
        }
    }};
}

fn arithmetic(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let f = Finish::take(&m);
    // The common form, kept free of everything else so that its loop stays short.
    let plain = f.rounding == Rounding::Nearest && !f.ftz && !f.sat;
    with_real!(m, R => match (d.key, plain) {
        ("add", true) => d.map2(i, |a: R, b: R| canonical(a + b)),
        ("add", false) => d.map2(i, move |a: R, b: R| {
            f.result(R::add(f.operand(a), f.operand(b), f.rounding))
        }),
        ("sub", true) => d.map2(i, |a: R, b: R| canonical(a - b)),
        ("sub", false) => d.map2(i, move |a: R, b: R| {
            f.result(R::add(f.operand(a), -f.operand(b), f.rounding))
        }),
        ("mul", true) => d.map2(i, |a: R, b: R| canonical(a * b)),
        ("mul", false) => d.map2(i, move |a: R, b: R| {
            f.result(R::mul(f.operand(a), f.operand(b), f.rounding))
        }),
        (_, true) => d.map3(i, |a: R, b: R, c: R| canonical(a.mul_add(b, c))),
        (_, false) => d.map3(i, move |a: R, b: R, c: R| {
            f.result(R::fma(f.operand(a), f.operand(b), f.operand(c), f.rounding))
        }),
    })
}

/// A NaN result is the one NaN of GPUs.
#[inline(always)]
fn canonical<R: Real>(value: R) -> R {
    if value.wide().is_nan() { R::NAN } else { value }
}

/// `.approx` and `.full` allow an error, and are rounded correctly here.
fn quotient(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let approximate = m.take("approx") || m.take("full");
    let f = Finish::take(&m);
    let key = d.key;
    with_real!(m, R => match key {
        "div" => d.map2(i, move |a: R, b: R| {
            f.result(R::div(f.operand(a), f.operand(b), f.rounding))
        }),
        "rcp" if approximate && size_of::<R>() == 8 => {
            d.map1(i, |a: f64| canonical(approximate::gross(a, |a| 1.0 / a)))
        }
        "rcp" => d.map1(i, move |a: R| f.result(R::div(R::one(), f.operand(a), f.rounding))),
        _ => d.map1(i, move |a: R| f.result(R::root(f.operand(a), f.rounding))),
    })
}

fn transcendental(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    if !m.take("approx") {
        return Err(Unsupported::new("form without .approx"));
    }
    let f = Finish::take(&m);
    let ty = m.ty()?;
    m.finish()?;
    if ty == Type::F64 {
        return match d.key {
            "rsqrt" if f.ftz => d.map1(i, |a: f64| {
                canonical(approximate::gross(a, |a| 1.0 / a.sqrt()))
            }),
            "rsqrt" => d.map1(i, |a: f64| canonical(1.0 / a.sqrt())),
            _ => Err(Unsupported::new("type")),
        };
    }
    match d.key {
        "ex2" => d.map1(i, move |a: f32| f.result(approximate::exp2(f.operand(a)))),
        "rsqrt" => d.map1(i, move |a: f32| {
            f.result((1.0 / f64::from(f.operand(a)).sqrt()) as f32)
        }),
        "sin" => d.map1(i, move |a: f32| f.result(f.operand(a).sin())),
        "cos" => d.map1(i, move |a: f32| f.result(f.operand(a).cos())),
        "lg2" => d.map1(i, move |a: f32| f.result(f.operand(a).log2())),
        _ => d.map1(i, move |a: f32| f.result(f.operand(a).tanh())),
    }
}

fn extremum(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ftz = m.take("ftz");
    let nan = m.take("NaN");
    let xorsign = m.take("xorsign");
    if xorsign && !m.take("abs") {
        return Err(Unsupported::new(".xorsign without .abs"));
    }
    let f = Finish {
        rounding: Rounding::Nearest,
        ftz,
        sat: false,
    };
    let max = d.key == "max";
    if !ftz && !xorsign && i.opcode.ends_with(".f32") {
        m.ty()?;
        m.finish()?;
        return d.map2(i, move |a: f32, b: f32| choose_f32(a, b, max, nan));
    }
    with_real!(m, R => d.map2(i, move |a: R, b: R| {
        let (a, b) = (f.operand(a), f.operand(b));
        if !xorsign {
            return choose(a, b, max, nan);
        }
        let positive = |_: bool, _: bool| false;
        let chosen = choose(a.with_sign(a, positive), b.with_sign(b, positive), max, nan);
        let sign = if a.negative() != b.negative() { -R::one() } else { R::one() };
        if chosen.is_nan() { chosen } else { chosen.with_sign(sign, |_, negative| negative) }
    }))
}

/// The larger or smaller of two; -0 is below 0. A NaN loses, or with `nan` wins.
#[inline(always)]
fn choose<R: Real>(a: R, b: R, max: bool, nan: bool) -> R {
    let (a_nan, b_nan) = (a.wide().is_nan(), b.wide().is_nan());
    if a_nan || b_nan {
        return match (nan, a_nan, b_nan) {
            (false, true, false) => b,
            (false, false, true) => a,
            _ => R::NAN,
        };
    }
    let greater = a > b || (a == b && !a.negative() && b.negative());
    if greater == max { a } else { b }
}

/// [`choose`] of f32 without a branch, for it is in every attention and every box kernel.
#[inline(always)]
fn choose_f32(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    // In this order of integers, that of the numbers, -0 is below 0.
    let order = |v: f32| v.to_bits() as i32 ^ ((v.to_bits() as i32 >> 31) as u32 >> 1) as i32;
    let number = if (order(a) > order(b)) == max { a } else { b };
    let (if_a, if_b) = if nan { (f32::NAN, f32::NAN) } else { (b, a) };
    let chosen = if a.is_nan() { if_a } else { number };
    let chosen = if b.is_nan() { if_b } else { chosen };
    // Both were NaN, or one that counts.
    if chosen.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        chosen
    }
}

/// `neg` and `abs` touch the sign alone.
fn sign(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let f = Finish::take(&m);
    let abs = d.key == "abs";
    with_real!(m, R => d.map1(i, move |a: R| {
        let a = f.operand(a);
        if abs { a.with_sign(a, |_, _| false) } else { a.with_sign(a, |own, _| !own) }
    }))
}

/// The magnitude of `b` with the sign of `a`.
fn copysign(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    with_real!(m, R => d.map2(i, |a: R, b: R| b.with_sign(a, |_, other| other)))
}

fn testp(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    type Test = fn(f64, bool) -> bool;
    let tests: [(&str, Test); 6] = [
        ("finite", |v, _| v.is_finite()),
        ("infinite", |v, _| v.is_infinite()),
        ("number", |v, _| !v.is_nan()),
        ("notanumber", |v, _| v.is_nan()),
        ("normal", |v, normal| v.is_finite() && (normal || v == 0.0)),
        ("subnormal", |v, normal| {
            v != 0.0 && v.is_finite() && !normal
        }),
    ];
    let test = m
        .choose(&tests)
        .ok_or_else(|| Unsupported::new("property"))?;
    let dest = d.predicate_dest(d.operand(i, 0)?)?;
    with_real!(m, R => {
        let source = d.source(d.operand(i, 1)?)?;
        Ok(Box::new(move |warp, mask| {
            let row = *warp.read(source);
            let holds = |word| {
                let value = R::from_word(word);
                test(value.wide(), value.is_normal())
            };
            let bits = row.iter().enumerate().fold(0, |bits, (lane, &word)| bits | u32::from(holds(word)) << lane);
            let defined = warp.defined(source);
            if let Some(slot) = dest {
                warp.registers.predicates.write(slot, mask, defined, bits);
            }
            super::step::Step::Next
        }))
    })
}
