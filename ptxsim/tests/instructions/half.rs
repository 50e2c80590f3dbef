//! f16, bf16 and their pairs: PTX ISA, "Half Precision Floating Point Instructions".

use crate::exact::{BF16, F16, Format, Round, Value};
use crate::float::extremum;
use crate::harness::{Compare, Row, check, row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// A 16-bit type, alone or as the halves of 32 bits.
#[derive(Debug, Clone, Copy)]
struct Half {
    name: &'static str,
    kind: Kind,
    format: Format,
    paired: bool,
}

const HALVES: [Half; 4] = [
    Half {
        name: "f16",
        kind: Kind::F16,
        format: F16,
        paired: false,
    },
    Half {
        name: "f16x2",
        kind: Kind::F16x2,
        format: F16,
        paired: true,
    },
    Half {
        name: "bf16",
        kind: Kind::Bf16,
        format: BF16,
        paired: false,
    },
    Half {
        name: "bf16x2",
        kind: Kind::Bf16x2,
        format: BF16,
        paired: true,
    },
];

impl Half {
    /// A row from the definition of one half.
    fn row(self, text: String, operands: usize, f: impl Fn(&[u64]) -> u64 + 'static) -> Row {
        let compare = if self.paired {
            Compare::Halves(self.format)
        } else {
            Compare::Float(self.format)
        };
        row(
            text,
            self.kind,
            &vec![self.kind; operands],
            compare,
            move |v| {
                let low: Vec<u64> = v.iter().map(|value| value & 0xFFFF).collect();
                let high: Vec<u64> = v.iter().map(|value| value >> 16 & 0xFFFF).collect();
                f(&low) | if self.paired { f(&high) << 16 } else { 0 }
            },
        )
    }

    fn arithmetic(
        self,
        op: &str,
        operands: usize,
        modifiers: &str,
        f: fn(&[Value]) -> Value,
    ) -> Row {
        let names = ["$0", "$0, $1", "$0, $1, $2"][operands - 1];
        let text = format!("{op}{modifiers}.{} $d0, {names};", self.name);
        let (ftz, sat, relu) = (
            modifiers.contains(".ftz"),
            modifiers.contains(".sat"),
            modifiers.contains(".relu"),
        );
        let format = self.format;
        self.row(text, operands, move |v| {
            let flush = |bits: u64| if ftz { format.flush(bits) } else { bits };
            let values: Vec<Value> = v.iter().map(|&bits| format.decode(flush(bits))).collect();
            let result = flush(format.encode(&f(&values), Round::Nearest));
            let one = format.encode(&Value::finite(false, 1), Round::Zero);
            match (format.is_nan(result), result & format.sign_bit() != 0) {
                (true, _) if sat => 0,
                (true, _) => result,
                (false, true) if sat || relu => 0,
                (false, false) if sat => result.min(one),
                (false, _) => result,
            }
        })
    }
}

#[test]
pub fn f16_arithmetic() {
    let mut rows = Vec::new();
    for half in &HALVES[..2] {
        for modifiers in ["", ".rn", ".ftz", ".sat", ".ftz.sat"] {
            rows.push(half.arithmetic("add", 2, modifiers, |v| v[0].add(&v[1], Round::Nearest)));
            rows.push(half.arithmetic("sub", 2, modifiers, |v| {
                v[0].add(&v[1].negated(), Round::Nearest)
            }));
            rows.push(half.arithmetic("mul", 2, modifiers, |v| v[0].mul(&v[1])));
        }
        for modifiers in [
            ".rn",
            ".rn.ftz",
            ".rn.sat",
            ".rn.ftz.sat",
            ".rn.relu",
            ".rn.ftz.relu",
        ] {
            rows.push(half.arithmetic("fma", 3, modifiers, |v| {
                v[0].mul(&v[1]).add(&v[2], Round::Nearest)
            }));
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn bf16_arithmetic() {
    let mut rows = Vec::new();
    for half in &HALVES[2..] {
        for modifiers in ["", ".rn"] {
            rows.push(half.arithmetic("add", 2, modifiers, |v| v[0].add(&v[1], Round::Nearest)));
            rows.push(half.arithmetic("sub", 2, modifiers, |v| {
                v[0].add(&v[1].negated(), Round::Nearest)
            }));
            rows.push(half.arithmetic("mul", 2, modifiers, |v| v[0].mul(&v[1])));
        }
        for modifiers in [".rn", ".rn.relu"] {
            rows.push(half.arithmetic("fma", 3, modifiers, |v| {
                v[0].mul(&v[1]).add(&v[2], Round::Nearest)
            }));
        }
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn signs_and_extrema() {
    let mut rows = Vec::new();
    for half in HALVES {
        let Half { name, format, .. } = half;
        rows.push(half.row(format!("neg.{name} $d0, $0;"), 1, move |v| {
            v[0] ^ format.sign_bit()
        }));
        rows.push(half.row(format!("abs.{name} $d0, $0;"), 1, move |v| {
            v[0] & format.nan()
        }));
        for (op, larger) in [("min", false), ("max", true)] {
            for (modifier, nan) in [("", false), (".NaN", true)] {
                rows.push(
                    half.row(format!("{op}{modifier}.{name} $d0, $0, $1;"), 2, move |v| {
                        extremum(format, v[0], v[1], larger, nan)
                    }),
                );
            }
        }
    }
    check(Arch::Sm80, rows);
}

/// Relative errors of 2^-9.9 (f16), 2^-10.987 (tanh.f16), 2^-7 and 2^-8 (bf16), as PTX states them:
/// within one or two units of the rounded value.
#[test]
pub fn approximations() {
    let mut rows = Vec::new();
    for half in HALVES {
        let Half { name, format, .. } = half;
        let ex2 = if format == BF16 {
            "ex2.approx.ftz"
        } else {
            "ex2.approx"
        };
        for (op, function) in [
            (ex2, f64::exp2 as fn(f64) -> f64),
            ("tanh.approx", f64::tanh),
        ] {
            let ftz = op.ends_with("ftz");
            rows.push(half.row(format!("{op}.{name} $d0, $0;"), 1, move |v| {
                let flush = |bits: u64| if ftz { format.flush(bits) } else { bits };
                let bits = crate::exact::F64.encode(&format.decode(flush(v[0])), Round::Zero);
                let result = crate::exact::F64.decode(function(f64::from_bits(bits)).to_bits());
                flush(format.encode(&result, Round::Nearest))
            }));
        }
    }
    check(Arch::Sm90a, rows);
}
