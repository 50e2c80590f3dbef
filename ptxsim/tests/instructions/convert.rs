//! Conversions: PTX ISA, "Data Movement and Conversion Instructions: cvt" and "cvt.pack".

use crate::exact::{BF16, E4M3, E5M2, F16, F32, F64, Format, Round, Value};
use crate::harness::{Compare, Row, check, row};
use crate::integer::{INTEGERS, Int};
use crate::values::Kind;
use num_bigint::BigUint;
use ptxsim::sim::Arch;

/// The integer types that `cvt` knows. Those of 8 bits live in 16-bit registers.
fn integers() -> Vec<Int> {
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
const ROUNDINGS: [(&str, Round); 4] = [
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
];

impl Int {
    /// The low bits of a number, extended to the register as the type's sign says.
    fn wrap(self, number: i128) -> u64 {
        self.value(number as u64 & (u64::MAX >> (64 - self.bits))) as u64
    }

    /// Least and greatest number.
    fn range(self) -> (i128, i128) {
        let low = if self.signed {
            -(1i128 << (self.bits - 1))
        } else {
            0
        };
        let high = (1i128 << (self.bits - u32::from(self.signed))) - 1;
        (low, high)
    }

    fn clamp(self, number: i128) -> u64 {
        let (low, high) = self.range();
        number.clamp(low, high) as u64
    }
}

fn exact_integer(number: i128) -> Value {
    Value::Finite {
        negative: number < 0,
        integer: BigUint::from(number.unsigned_abs()),
        exponent: 0,
    }
}

#[test]
fn between_integers() {
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
fn integers_to_floats() {
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
fn floats_to_integers() {
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
fn finish(format: Format, bits: u64, modifiers: &str) -> u64 {
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
fn between_floats() {
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
fn to_integral_values() {
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

/// One f32 to a format of 16 bits.
fn narrow(format: Format, round: Round, modifiers: &'static str) -> impl Fn(u64) -> u64 + Copy {
    move |bits| finish(format, format.encode(&F32.decode(bits), round), modifiers)
}

#[test]
fn to_halves_and_pairs() {
    let mut rows = Vec::new();
    for (name, single, pair, format) in [
        ("f16", Kind::F16, Kind::F16x2, F16),
        ("bf16", Kind::Bf16, Kind::Bf16x2, BF16),
    ] {
        for (suffix, round) in &ROUNDINGS[..2] {
            for modifiers in ["", ".relu"] {
                let convert = narrow(format, *round, modifiers);
                let text = format!("cvt.{suffix}{modifiers}.{name}.f32 $d0, $0;");
                rows.push(row(
                    text,
                    single,
                    &[Kind::F32],
                    Compare::Float(format),
                    move |v| convert(v[0]),
                ));
                let text = format!("cvt.{suffix}{modifiers}.{name}x2.f32 $d0, $0, $1;");
                rows.push(row(
                    text,
                    pair,
                    &[Kind::F32; 2],
                    Compare::Halves(format),
                    move |v| convert(v[0]) << 16 | convert(v[1]),
                ));
            }
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
fn bf16_with_other_types() {
    let mut rows = Vec::new();
    rows.push(row(
        "cvt.f32.bf16 $d0, $0;",
        Kind::F32,
        &[Kind::Bf16],
        Compare::Float(F32),
        |v| F32.encode(&BF16.decode(v[0]), Round::Zero),
    ));
    rows.push(row(
        "cvt.rn.bf16.f16 $d0, $0;",
        Kind::Bf16,
        &[Kind::F16],
        Compare::Float(BF16),
        |v| BF16.encode(&F16.decode(v[0]), Round::Nearest),
    ));
    rows.push(row(
        "cvt.rn.bf16.f64 $d0, $0;",
        Kind::Bf16,
        &[Kind::F64],
        Compare::Float(BF16),
        |v| BF16.encode(&F64.decode(v[0]), Round::Nearest),
    ));
    for int in INTEGERS {
        rows.push(row(
            format!("cvt.rn.bf16.{} $d0, $0;", int.name),
            Kind::Bf16,
            &[int.kind],
            Compare::Bits,
            move |v| BF16.encode(&exact_integer(int.value(v[0])), Round::Nearest),
        ));
        let nan = if int.bits == 64 { 1i128 << 63 } else { 0 };
        rows.push(row(
            format!("cvt.rzi.{}.bf16 $d0, $0;", int.name),
            int.kind,
            &[Kind::Bf16],
            Compare::Bits,
            move |v| {
                int.wrap(
                    BF16.decode(v[0])
                        .to_integer(int.bits, int.signed, Round::Zero)
                        .unwrap_or(nan),
                )
            },
        ));
    }
    check(Arch::Sm90a, rows);
}

/// tf32 is f32 with a mantissa of 10 bits.
const TF32: Format = Format {
    exponent_bits: 8,
    mantissa_bits: 10,
    finite_only: false,
};

fn tf32(mode: &str, round: Round, modifiers: &'static str) -> Row {
    let text = format!("cvt.{mode}{modifiers}.tf32.f32 $d0, $0;");
    row(
        text,
        Kind::Tf32,
        &[Kind::F32],
        Compare::Float(F32),
        move |v| finish(TF32, TF32.encode(&F32.decode(v[0]), round), modifiers) << 13,
    )
}

#[test]
fn to_tf32() {
    check(Arch::Sm80, vec![tf32("rna", Round::NearestAway, "")]);
    let rows = [("rn", Round::Nearest), ("rz", Round::Zero)];
    check(
        Arch::Sm90a,
        rows.iter()
            .flat_map(|&(mode, round)| [tf32(mode, round, ""), tf32(mode, round, ".relu")])
            .collect(),
    );
}

/// To 8 bits: what is too large becomes the largest finite value.
fn narrow8(format: Format, source: Format, bits: u64, relu: bool) -> u64 {
    let value = source.decode(bits);
    if value == Value::Nan {
        return format.nan();
    }
    if relu && value.negative() {
        return 0;
    }
    let sign = if value.negative() {
        format.sign_bit()
    } else {
        0
    };
    let encoded = format.encode(&value, Round::Nearest);
    if encoded & format.nan() > format.max() {
        sign | format.max()
    } else {
        encoded
    }
}

#[test]
fn eight_bits() {
    let mut rows = Vec::new();
    for (name, format) in [("e4m3x2", E4M3), ("e5m2x2", E5M2)] {
        for (modifier, relu) in [("", false), (".relu", true)] {
            let text = format!("cvt.rn.satfinite{modifier}.{name}.f32 $d0, $0, $1;");
            rows.push(row(
                text,
                Kind::I16,
                &[Kind::F32; 2],
                Compare::Bytes(format),
                move |v| narrow8(format, F32, v[0], relu) << 8 | narrow8(format, F32, v[1], relu),
            ));
            let text = format!("cvt.rn.satfinite{modifier}.{name}.f16x2 $d0, $0;");
            rows.push(row(
                text,
                Kind::I16,
                &[Kind::F16x2],
                Compare::Bytes(format),
                move |v| {
                    narrow8(format, F16, v[0] >> 16, relu) << 8
                        | narrow8(format, F16, v[0] & 0xFFFF, relu)
                },
            ));
            let text = format!("cvt.rn{modifier}.f16x2.{name} $d0, $0;");
            rows.push(row(
                text,
                Kind::F16x2,
                &[Kind::I16],
                Compare::Halves(F16),
                move |v| {
                    let widen = |bits: u64| {
                        let value = format.decode(bits);
                        if relu && value != Value::Nan && value.negative() {
                            0
                        } else {
                            F16.encode(&value, Round::Nearest)
                        }
                    };
                    widen(v[0] >> 8) << 16 | widen(v[0] & 0xFF)
                },
            ));
        }
    }
    check(Arch::Sm90a, rows);
}

#[test]
fn packing() {
    let mut rows = Vec::new();
    let s32 = INTEGERS[3];
    for (name, signed) in [("u16", false), ("s16", true)] {
        let to = Int {
            name,
            kind: Kind::I16,
            bits: 16,
            signed,
        };
        let text = format!("cvt.pack.sat.{name}.s32 $d0, $0, $1;");
        rows.push(row(
            text,
            Kind::I32,
            &[Kind::I32; 2],
            Compare::Bits,
            move |v| {
                let part = |bits: u64| to.clamp(s32.value(bits)) & 0xFFFF;
                part(v[0]) << 16 | part(v[1])
            },
        ));
    }
    for (name, signed) in [("u8", false), ("s8", true)] {
        let to = Int {
            name,
            kind: Kind::I16,
            bits: 8,
            signed,
        };
        let text = format!("cvt.pack.sat.{name}.s32.b32 $d0, $0, $1, $2;");
        rows.push(row(
            text,
            Kind::I32,
            &[Kind::I32; 3],
            Compare::Bits,
            move |v| {
                let part = |bits: u64| to.clamp(s32.value(bits)) & 0xFF;
                v[2] << 16 | part(v[0]) << 8 | part(v[1])
            },
        ));
    }
    check(Arch::Sm80, rows);
}
