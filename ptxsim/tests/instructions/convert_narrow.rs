//! Conversions to and from halves, pairs, tf32 and 8 bits: PTX ISA, "cvt" and "cvt.pack".

use crate::convert::{ROUNDINGS, exact_integer, finish};
use crate::exact::{BF16, E4M3, E5M2, F16, F32, F64, Format, Round, Value};
use crate::harness::{Compare, Row, check, row};
use crate::integer::{INTEGERS, Int};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// One f32 to a format of 16 bits.
fn narrow(format: Format, round: Round, modifiers: &'static str) -> impl Fn(u64) -> u64 + Copy {
    move |bits| finish(format, format.encode(&F32.decode(bits), round), modifiers)
}

#[test]
pub fn to_halves_and_pairs() {
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
pub fn bf16_with_other_types() {
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
pub fn to_tf32() {
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
pub fn eight_bits() {
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
pub fn packing() {
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
