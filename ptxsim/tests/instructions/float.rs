//! f32 and f64: PTX ISA, "Floating Point Instructions".

use crate::exact::{F32, F64, Format, Round, Value};
use crate::harness::{Compare, Row, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

const ROUNDINGS: [(&str, Round); 4] = [
    (".rn", Round::Nearest),
    (".rz", Round::Zero),
    (".rm", Round::Down),
    (".rp", Round::Up),
];

/// A floating-point type, and what its modifiers do around an exact operation.
#[derive(Debug, Clone, Copy)]
struct Float {
    name: &'static str,
    kind: Kind,
    format: Format,
}

const FLOAT32: Float = Float {
    name: "f32",
    kind: Kind::F32,
    format: F32,
};
const FLOAT64: Float = Float {
    name: "f64",
    kind: Kind::F64,
    format: F64,
};

/// `.sat`: into [0, 1]; NaN becomes 0.
fn saturate(format: Format, bits: u64) -> u64 {
    let one = format.encode(&Value::finite(false, 1), Round::Zero);
    if format.is_nan(bits) || bits & format.sign_bit() != 0 {
        0
    } else {
        bits.min(one)
    }
}

impl Float {
    /// `op{rounding}{.ftz}{.sat}.type` with every combination that the type has.
    fn rounded(
        self,
        op: &str,
        operands: usize,
        sat: bool,
        f: fn(&[Value], Round) -> Value,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        let is_single = self.format == F32;
        let variants: &[(&str, bool, bool)] = match (is_single, sat) {
            (true, true) => &[
                ("", false, false),
                (".ftz", true, false),
                (".sat", false, true),
                (".ftz.sat", true, true),
            ],
            (true, false) => &[("", false, false), (".ftz", true, false)],
            (false, _) => &[("", false, false)],
        };
        for (suffix, round) in ROUNDINGS {
            for &(modifiers, ftz, sat) in variants {
                let names = ["$0", "$0, $1", "$0, $1, $2"][operands - 1];
                let text = format!("{op}{suffix}{modifiers}.{} $d0, {names};", self.name);
                let kinds = vec![self.kind; operands];
                rows.push(row(
                    text,
                    self.kind,
                    &kinds,
                    Compare::Float(self.format),
                    move |v| {
                        let flush = |bits: u64| if ftz { self.format.flush(bits) } else { bits };
                        let values: Vec<Value> = v
                            .iter()
                            .map(|&bits| self.format.decode(flush(bits)))
                            .collect();
                        let result = flush(self.format.encode(&f(&values, round), round));
                        if sat {
                            saturate(self.format, result)
                        } else {
                            result
                        }
                    },
                ));
            }
        }
        rows
    }
}

#[test]
pub fn sums_and_products() {
    for float in [FLOAT32, FLOAT64] {
        let rows = [
            float.rounded("add", 2, true, |v, round| v[0].add(&v[1], round)),
            float.rounded("sub", 2, true, |v, round| v[0].add(&v[1].negated(), round)),
            float.rounded("mul", 2, true, |v, _| v[0].mul(&v[1])),
            float.rounded("fma", 3, true, |v, round| v[0].mul(&v[1]).add(&v[2], round)),
            float.rounded("mad", 3, true, |v, round| v[0].mul(&v[1]).add(&v[2], round)),
        ];
        check(Arch::Sm80, rows.into_iter().flatten().collect());
    }
}

#[test]
pub fn quotients_and_roots() {
    for float in [FLOAT32, FLOAT64] {
        let rows = [
            float.rounded("div", 2, false, |v, _| v[0].div(&v[1])),
            float.rounded("rcp", 1, false, |v, _| Value::finite(false, 1).div(&v[0])),
            float.rounded("sqrt", 1, false, |v, _| v[0].sqrt()),
        ];
        check(Arch::Sm80, rows.into_iter().flatten().collect());
    }
}

#[test]
pub fn without_a_rounding_modifier_sums_round_to_nearest() {
    let mut rows = Vec::new();
    for float in [FLOAT32, FLOAT64] {
        for (op, f) in [
            (
                "add",
                (|a, b| a.add(b, Round::Nearest)) as fn(&Value, &Value) -> Value,
            ),
            ("sub", |a, b| a.add(&b.negated(), Round::Nearest)),
            ("mul", |a, b| a.mul(b)),
        ] {
            let text = format!("{op}.{} $d0, $0, $1;", float.name);
            rows.push(row(
                text,
                float.kind,
                &[float.kind; 2],
                Compare::Float(float.format),
                move |v| {
                    let (a, b) = (float.format.decode(v[0]), float.format.decode(v[1]));
                    float.format.encode(&f(&a, &b), Round::Nearest)
                },
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// The smaller or larger of two numbers by value, with -0 below +0.
pub fn select(format: Format, a: u64, b: u64, larger: bool) -> u64 {
    // Order of sign and magnitude as an integer.
    let key = |bits: u64| {
        let magnitude = (bits & format.nan()) as i64;
        if bits & format.sign_bit() != 0 {
            -magnitude - 1
        } else {
            magnitude
        }
    };
    if (key(a) < key(b)) != larger { a } else { b }
}

/// `min` and `max`: a number wins over NaN unless `.NaN` asks for the opposite.
pub fn extremum(format: Format, a: u64, b: u64, larger: bool, nan: bool) -> u64 {
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => format.nan(),
        (true, false) | (false, true) if nan => format.nan(),
        (true, false) => b,
        (false, true) => a,
        (false, false) => select(format, a, b, larger),
    }
}

#[test]
pub fn extrema() {
    let mut rows = Vec::new();
    for (op, larger) in [("min", false), ("max", true)] {
        for (modifiers, ftz, nan) in [
            ("", false, false),
            (".ftz", true, false),
            (".NaN", false, true),
            (".ftz.NaN", true, true),
        ] {
            let text = format!("{op}{modifiers}.f32 $d0, $0, $1;");
            rows.push(row(
                text,
                Kind::F32,
                &[Kind::F32; 2],
                Compare::Float(F32),
                move |v| {
                    let flush = |bits: u64| if ftz { F32.flush(bits) } else { bits };
                    extremum(F32, flush(v[0]), flush(v[1]), larger, nan)
                },
            ));
        }
        rows.push(row(
            format!("{op}.f64 $d0, $0, $1;"),
            Kind::F64,
            &[Kind::F64; 2],
            Compare::Float(F64),
            move |v| extremum(F64, v[0], v[1], larger, false),
        ));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn extrema_of_magnitudes_with_the_product_of_signs() {
    let mut rows = Vec::new();
    for (op, larger) in [("min", false), ("max", true)] {
        let text = format!("{op}.xorsign.abs.f32 $d0, $0, $1;");
        rows.push(row(
            text,
            Kind::F32,
            &[Kind::F32; 2],
            Compare::Float(F32),
            move |v| {
                let sign = (v[0] ^ v[1]) & F32.sign_bit();
                let result = extremum(F32, v[0] & F32.nan(), v[1] & F32.nan(), larger, false);
                result | sign
            },
        ));
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn signs_and_classes() {
    let mut rows = Vec::new();
    for float in [FLOAT32, FLOAT64] {
        let Float { name, kind, format } = float;
        let compare = Compare::Float(format);
        rows.push(row(
            format!("abs.{name} $d0, $0;"),
            kind,
            &[kind],
            compare,
            move |v| v[0] & format.nan(),
        ));
        rows.push(row(
            format!("neg.{name} $d0, $0;"),
            kind,
            &[kind],
            compare,
            move |v| v[0] ^ format.sign_bit(),
        ));
        rows.push(row(
            format!("copysign.{name} $d0, $0, $1;"),
            kind,
            &[kind; 2],
            Compare::Bits,
            move |v| v[0] & format.sign_bit() | v[1] & format.nan(),
        ));
        let class = |property: &str, f: fn(Format, u64) -> bool| {
            row(
                format!("testp.{property}.{name} $d0, $0;"),
                Kind::Pred,
                &[kind],
                Compare::Bits,
                move |v| u64::from(f(format, v[0])),
            )
        };
        rows.push(class("finite", |f, a| a & f.nan() < f.infinity()));
        rows.push(class("infinite", |f, a| a & f.nan() == f.infinity()));
        rows.push(class("number", |f, a| !f.is_nan(a)));
        rows.push(class("notanumber", |f, a| f.is_nan(a)));
        rows.push(class("normal", |f, a| {
            a & f.nan() < f.infinity() && !f.is_subnormal(a)
        }));
        rows.push(class("subnormal", |f, a| f.is_subnormal(a)));
    }
    let ftz = |op: &str, f: fn(u64) -> u64| {
        row(
            format!("{op}.ftz.f32 $d0, $0;"),
            Kind::F32,
            &[Kind::F32],
            Compare::Float(F32),
            move |v| f(F32.flush(v[0])),
        )
    };
    rows.push(ftz("abs", |a| a & F32.nan()));
    rows.push(ftz("neg", |a| a ^ F32.sign_bit()));
    check(Arch::Sm80, rows);
}
