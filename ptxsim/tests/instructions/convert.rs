//! Conversions: PTX ISA, "Data Movement and Conversion Instructions: cvt" and "cvt.pack".

use crate::exact::{F16, F32, F64, Format, Round, Value};
use crate::harness::{Compare, check, row};
use crate::integer::{INTEGERS, Int};
use crate::values::Kind;
use num_bigint::BigUint;
use ptxsim::sim::Arch;

/// The integer types that `cvt` knows. Those of 8 bits live in 16-bit registers.
pub fn integers() -> Vec<Int> {
    let bytes = [("u8", false), ("s8", true)].map(|(name, signed)| Int {
        name,
        kind: Kind::I16,
        bits: 8,
        signed,
    });
    bytes.into_iter().chain(INTEGERS).collect()
}

const FLOATS: [(&str, Kind, Format); 3] = [
    ("f16", Kind::F16, F16),
    ("f32", Kind::F32, F32),
    ("f64", Kind::F64, F64),
];
pub const ROUNDINGS: [(&str, Round); 4] = [
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
];

impl Int {
    /// The low bits of a number, extended to the register as the type's sign says.
    pub fn wrap(self, number: i128) -> u64 {
        self.value(number as u64 & (u64::MAX >> (64 - self.bits))) as u64
    }

    /// Least and greatest number.
    pub fn range(self) -> (i128, i128) {
        let low = if self.signed {
            -(1i128 << (self.bits - 1))
        } else {
            0
        };
        let high = (1i128 << (self.bits - u32::from(self.signed))) - 1;
        (low, high)
    }

    pub fn clamp(self, number: i128) -> u64 {
        let (low, high) = self.range();
        number.clamp(low, high) as u64
    }
}

pub fn exact_integer(number: i128) -> Value {
    Value::Finite {
        negative: number < 0,
        integer: BigUint::from(number.unsigned_abs()),
        exponent: 0,
    }
}

#[test]
pub fn between_integers() {
    let mut rows = Vec::new();
    for from in integers() {
        for to in integers() {
            let text = |sat: &str| format!("cvt{sat}.{}.{} $d0, $0;", to.name, from.name);
            rows.push(row(
                text(""),
                to.kind,
                &[from.kind],
                Compare::Bits,
                move |v| to.wrap(from.value(v[0])),
            ));
            // ptxas knows `.sat` only where a value can be out of range.
            let ((low, high), (least, greatest)) = (from.range(), to.range());
            if low < least || high > greatest {
                rows.push(row(
                    text(".sat"),
                    to.kind,
                    &[from.kind],
                    Compare::Bits,
                    move |v| to.clamp(from.value(v[0])),
                ));
            }
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn integers_to_floats() {
    let mut rows = Vec::new();
    for from in integers() {
        for (to, kind, format) in FLOATS {
            for (suffix, round) in ROUNDINGS {
                let text = format!("cvt.{suffix}.{to}.{} $d0, $0;", from.name);
                rows.push(row(text, kind, &[from.kind], Compare::Bits, move |v| {
                    format.encode(&exact_integer(from.value(v[0])), round)
                }));
            }
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn floats_to_integers() {
    let mut rows = Vec::new();
    for (from, kind, format) in FLOATS {
        for to in integers() {
            for (suffix, round) in ROUNDINGS {
                let text = format!("cvt.{suffix}i.{}.{from} $d0, $0;", to.name);
                // NaN gives 0, but the top bit alone where either side has 64 bits.
                let nan = if from == "f64" || to.bits == 64 {
                    1i128 << (to.bits - 1)
                } else {
                    0
                };
                rows.push(row(text, to.kind, &[kind], Compare::Bits, move |v| {
                    let number = format.decode(v[0]).to_integer(to.bits, to.signed, round);
                    to.wrap(number.unwrap_or(nan))
                }));
            }
        }
    }
    rows.push(row(
        "cvt.rpi.ftz.s32.f32 $d0, $0;",
        Kind::I32,
        &[Kind::F32],
        Compare::Bits,
        |v| {
            F32.decode(F32.flush(v[0]))
                .to_integer(32, true, Round::Up)
                .unwrap_or(0) as u64
        },
    ));
    check(Arch::Sm80, rows);
}

/// Modifiers of a conversion to floating point, applied to its rounded result.
pub fn finish(format: Format, bits: u64, modifiers: &str) -> u64 {
    let bits = if modifiers.contains(".ftz") && format == F32 {
        F32.flush(bits)
    } else {
        bits
    };
    let negative = bits & format.sign_bit() != 0;
    let one = format.encode(&Value::finite(false, 1), Round::Zero);
    match (format.is_nan(bits), modifiers) {
        (true, m) if m.contains(".sat") => 0,
        (true, _) => format.nan(),
        (false, m) if m.contains(".sat") => {
            if negative {
                0
            } else {
                bits.min(one)
            }
        }
        (false, m) if m.contains(".relu") && negative => 0,
        _ => bits,
    }
}

#[test]
pub fn between_floats() {
    let mut rows = Vec::new();
    for (from, from_kind, from_format) in FLOATS {
        for (to, to_kind, to_format) in FLOATS {
            let narrows = to_format.mantissa_bits < from_format.mantissa_bits;
            let same = to_format == from_format;
            let roundings: Vec<_> = if narrows {
                ROUNDINGS.into()
            } else {
                vec![("", Round::Nearest)]
            };
            let single = to == "f32" || from == "f32";
            for (suffix, round) in roundings {
                for modifiers in ["", ".sat", ".ftz", ".ftz.sat"] {
                    if same || modifiers.contains("ftz") && !single {
                        continue;
                    }
                    let dot = if suffix.is_empty() { "" } else { "." };
                    let text = format!("cvt{dot}{suffix}{modifiers}.{to}.{from} $d0, $0;");
                    rows.push(row(
                        text,
                        to_kind,
                        &[from_kind],
                        Compare::Float(to_format),
                        move |v| {
                            let ftz = modifiers.contains(".ftz") && from_format == F32;
                            let source = if ftz { F32.flush(v[0]) } else { v[0] };
                            finish(
                                to_format,
                                to_format.encode(&from_format.decode(source), round),
                                modifiers,
                            )
                        },
                    ));
                }
            }
        }
    }
    check(Arch::Sm80, rows);
}

/// Rounds to an integral value; zeros keep the sign of the operand.
fn integral(format: Format, bits: u64, round: Round) -> u64 {
    let value = format.decode(bits);
    let Value::Finite {
        negative,
        integer,
        exponent,
    } = &value
    else {
        return format.encode(&value, round);
    };
    // Everything of more than 70 bits is integral already.
    if *exponent >= 0 || integer.bits() as i64 + exponent > 70 {
        return bits;
    }
    let number = value.to_integer(80, true, round).unwrap_or(0);
    let integer = BigUint::from(number.unsigned_abs());
    format.encode(
        &Value::Finite {
            negative: *negative,
            integer,
            exponent: 0,
        },
        round,
    )
}

#[test]
pub fn to_integral_values() {
    let mut rows = Vec::new();
    for (name, kind, format) in FLOATS {
        for (suffix, round) in ROUNDINGS {
            let text = format!("cvt.{suffix}i.{name}.{name} $d0, $0;");
            rows.push(row(text, kind, &[kind], Compare::Float(format), move |v| {
                integral(format, v[0], round)
            }));
        }
    }
    rows.push(row(
        "cvt.rni.sat.f32.f32 $d0, $0;",
        Kind::F32,
        &[Kind::F32],
        Compare::Float(F32),
        |v| finish(F32, integral(F32, v[0], Round::Nearest), ".sat"),
    ));
    rows.push(row(
        "cvt.rpi.ftz.f32.f32 $d0, $0;",
        Kind::F32,
        &[Kind::F32],
        Compare::Float(F32),
        |v| integral(F32, F32.flush(v[0]), Round::Up),
    ));
    rows.push(row(
        "cvt.sat.f32.f32 $d0, $0;",
        Kind::F32,
        &[Kind::F32],
        Compare::Float(F32),
        |v| finish(F32, v[0], ".sat"),
    ));
    rows.push(row(
        "cvt.ftz.f32.f32 $d0, $0;",
        Kind::F32,
        &[Kind::F32],
        Compare::Float(F32),
        |v| F32.flush(v[0]),
    ));
    check(Arch::Sm80, rows);
}
