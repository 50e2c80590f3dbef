//! Arithmetic on f32 and f64: rounded once in any direction, or approximate.

use super::approximate;
use super::real::Real;
use super::rounding::Rounding;
use super::value::Value;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes that have forms on f32 and f64.
pub const KEYS: &[(&str, Decode)] = &[
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

/// The forms of an arithmetic instruction, each with a loop of its own: the common one stays short
/// enough to vectorise.
enum Form {
    /// To nearest, without modifiers.
    Plain,
    /// To nearest.
    Nearest,
    /// Rounded in a direction.
    Directed,
}

impl Finish {
    fn form(self) -> Form {
        match self.rounding {
            Rounding::Nearest if !self.ftz && !self.sat => Form::Plain,
            Rounding::Nearest => Form::Nearest,
            _ => Form::Directed,
        }
    }
}

fn arithmetic(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let f = Finish::take(&m);
    with_real!(m, R => match f.form() {
        Form::Plain => match d.key {
            "add" => d.map2(i, |a: R, b: R| canonical(a + b)),
            "sub" => d.map2(i, |a: R, b: R| canonical(a - b)),
            "mul" => d.map2(i, |a: R, b: R| canonical(a * b)),
            _ => d.map3(i, |a: R, b: R, c: R| canonical(a.mul_add(b, c))),
        },
        Form::Nearest => match d.key {
            "add" => d.map2(i, move |a: R, b: R| f.result(f.operand(a) + f.operand(b))),
            "sub" => d.map2(i, move |a: R, b: R| f.result(f.operand(a) - f.operand(b))),
            "mul" => d.map2(i, move |a: R, b: R| f.result(f.operand(a) * f.operand(b))),
            _ => d.map3(i, move |a: R, b: R, c: R| {
                f.result(f.operand(a).mul_add(f.operand(b), f.operand(c)))
            }),
        },
        Form::Directed if size_of::<R>() == 4 && !f.ftz && !f.sat => directed32(d, i, f.rounding),
        Form::Directed => match d.key {
            "add" => d.map2(i, move |a: R, b: R| {
                f.result(R::add(f.operand(a), f.operand(b), f.rounding))
            }),
            "sub" => d.map2(i, move |a: R, b: R| {
                f.result(R::add(f.operand(a), -f.operand(b), f.rounding))
            }),
            "mul" => d.map2(i, move |a: R, b: R| {
                f.result(R::mul(f.operand(a), f.operand(b), f.rounding))
            }),
            _ => d.map3(i, move |a: R, b: R, c: R| {
                f.result(R::fma(f.operand(a), f.operand(b), f.operand(c), f.rounding))
            }),
        },
    })
}

/// A direction of rounding, as a type: its loops vectorise.
trait Direction: 'static {
    const ROUNDING: Rounding;
}
struct Zero;
struct Down;
struct Up;
impl Direction for Zero {
    const ROUNDING: Rounding = Rounding::Zero;
}
impl Direction for Down {
    const ROUNDING: Rounding = Rounding::Down;
}
impl Direction for Up {
    const ROUNDING: Rounding = Rounding::Up;
}

/// f32 arithmetic without modifiers but its direction, which `expf` of nvcc is made of.
fn directed32(
    d: &Decoder<'_>,
    i: &Instruction,
    rounding: Rounding,
) -> Result<Execute, Unsupported> {
    // Functions, not closures, for these can be told to inline.
    #[inline(always)]
    fn add<D: Direction>(a: f32, b: f32) -> f32 {
        canonical(f32::add(a, b, D::ROUNDING))
    }
    #[inline(always)]
    fn sub<D: Direction>(a: f32, b: f32) -> f32 {
        canonical(f32::add(a, -b, D::ROUNDING))
    }
    #[inline(always)]
    fn mul<D: Direction>(a: f32, b: f32) -> f32 {
        canonical(f32::mul(a, b, D::ROUNDING))
    }
    #[inline(always)]
    fn fma<D: Direction>(a: f32, b: f32, c: f32) -> f32 {
        canonical(f32::fma(a, b, c, D::ROUNDING))
    }
    fn of<D: Direction>(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
        match d.key {
            "add" => d.map2(i, add::<D>),
            "sub" => d.map2(i, sub::<D>),
            "mul" => d.map2(i, mul::<D>),
            _ => d.map3(i, fma::<D>),
        }
    }
    match rounding {
        Rounding::Down => of::<Down>(d, i),
        Rounding::Up => of::<Up>(d, i),
        _ => of::<Zero>(d, i),
    }
}

/// A NaN result is the one NaN of GPUs.
#[inline(always)]
pub fn canonical<R: Real>(value: R) -> R {
    if value.wide().is_nan() { R::NAN } else { value }
}

/// `.approx` and `.full` allow an error, and are rounded correctly here.
fn quotient(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let approximate = m.take("approx") || m.take("full");
    let f = Finish::take(&m);
    let key = d.key;
    with_real!(m, R => match (key, f.form()) {
        ("rcp", _) if approximate && size_of::<R>() == 8 => {
            d.map1(i, |a: f64| canonical(approximate::gross(a, |a| 1.0 / a)))
        }
        ("div", Form::Directed) => d.map2(i, move |a: R, b: R| {
            f.result(R::div(f.operand(a), f.operand(b), f.rounding))
        }),
        ("rcp", Form::Directed) => {
            d.map1(i, move |a: R| f.result(R::div(R::one(), f.operand(a), f.rounding)))
        }
        (_, Form::Directed) => d.map1(i, move |a: R| f.result(R::root(f.operand(a), f.rounding))),
        ("div", _) => d.map2(i, move |a: R, b: R| f.result(f.operand(a) / f.operand(b))),
        ("rcp", _) => d.map1(i, move |a: R| f.result(R::one() / f.operand(a))),
        _ => d.map1(i, move |a: R| f.result(f.operand(a).sqrt())),
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
        "lg2" => d.map1(i, move |a: f32| f.result(approximate::log2(f.operand(a)))),
        _ => d.map1(i, move |a: f32| f.result(approximate::tanh(f.operand(a)))),
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
