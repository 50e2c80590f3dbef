//! Comparisons and selections: PTX ISA, "Comparison and Selection Instructions".

use crate::exact::{BF16, F16, F32, F64, Format, Round};
use crate::harness::{Compare, Definition, Row, Setting, check, row};
use crate::integer::INTEGERS;
use crate::values::Kind;
use ptxsim::sim::Arch;
use std::cmp::Ordering;

/// Truth of a comparison; `None` is unordered. Names with `u` hold for unordered operands too.
fn holds(op: &str, order: Option<Ordering>) -> bool {
    use Ordering::{Equal, Greater, Less};
    match op {
        "num" => order.is_some(),
        "nan" => order.is_none(),
        "eq" => order == Some(Equal),
        "ne" => order.is_some_and(|order| order != Equal),
        "lt" | "lo" => order == Some(Less),
        "le" | "ls" => order.is_some_and(|order| order != Greater),
        "gt" | "hi" => order == Some(Greater),
        "ge" | "hs" => order.is_some_and(|order| order != Less),
        "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" => order.is_none() || holds(&op[..2], order),
        other => panic!("{other}"),
    }
}

const FLOAT_OPS: [&str; 14] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

fn float_order(format: Format, a: u64, b: u64) -> Option<Ordering> {
    let host = |bits: u64| f64::from_bits(F64.encode(&format.decode(bits), Round::Nearest));
    host(a).partial_cmp(&host(b))
}

fn floats() -> [(&'static str, Kind, Format); 3] {
    [
        ("f32", Kind::F32, F32),
        ("f64", Kind::F64, F64),
        ("f16", Kind::F16, F16),
    ]
}

#[test]
pub fn setp() {
    let mut rows = Vec::new();
    for int in INTEGERS {
        let ops: &[&str] = if int.signed {
            &["eq", "ne", "lt", "le", "gt", "ge"]
        } else {
            &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"]
        };
        for &op in ops {
            let text = format!("setp.{op}.{} $d0, $0, $1;", int.name);
            rows.push(row(
                text,
                Kind::Pred,
                &[int.kind; 2],
                Compare::Bits,
                move |v| u64::from(holds(op, Some(int.value(v[0]).cmp(&int.value(v[1]))))),
            ));
        }
    }
    for (name, kind) in [("b16", Kind::I16), ("b32", Kind::I32), ("b64", Kind::I64)] {
        rows.push(row(
            format!("setp.eq.{name} $d0, $0, $1;"),
            Kind::Pred,
            &[kind; 2],
            Compare::Bits,
            |v| u64::from(v[0] == v[1]),
        ));
        rows.push(row(
            format!("setp.ne.{name} $d0, $0, $1;"),
            Kind::Pred,
            &[kind; 2],
            Compare::Bits,
            |v| u64::from(v[0] != v[1]),
        ));
    }
    for (name, kind, format) in floats() {
        for op in FLOAT_OPS {
            let text = format!("setp.{op}.{name} $d0, $0, $1;");
            rows.push(row(text, Kind::Pred, &[kind; 2], Compare::Bits, move |v| {
                u64::from(holds(op, float_order(format, v[0], v[1])))
            }));
        }
    }
    rows.push(row(
        "setp.eq.ftz.f32 $d0, $0, $1;",
        Kind::Pred,
        &[Kind::F32; 2],
        Compare::Bits,
        |v| {
            u64::from(holds(
                "eq",
                float_order(F32, F32.flush(v[0]), F32.flush(v[1])),
            ))
        },
    ));
    check(Arch::Sm80, rows);
}

/// The boolean that `setp` and `set` may combine the comparison with.
fn combine(op: &str, truth: bool, other: bool) -> bool {
    match op {
        "and" => truth && other,
        "or" => truth || other,
        _ => truth != other,
    }
}

#[test]
pub fn setp_with_a_second_predicate() {
    let mut rows = Vec::new();
    for op in ["and", "or", "xor"] {
        for (negation, negated) in [("", false), ("!", true)] {
            rows.push(Row {
                text: format!("setp.lt.{op}.f32 $d0|$d1, $0, $1, {negation}$2;"),
                results: vec![Kind::Pred; 2],
                operands: vec![Kind::F32, Kind::F32, Kind::Pred],
                compare: Compare::Bits,
                definition: Definition::Lane(Box::new(move |v| {
                    let truth = holds("lt", float_order(F32, v[0], v[1]));
                    let other = (v[2] != 0) != negated;
                    Some(vec![
                        u64::from(combine(op, truth, other)),
                        u64::from(combine(op, !truth, other)),
                    ])
                })),
                setting: Setting::default(),
            });
        }
    }
    rows.push(Row {
        text: "setp.ge.s32 $d0|$d1, $0, $1;".into(),
        results: vec![Kind::Pred; 2],
        operands: vec![Kind::I32; 2],
        compare: Compare::Bits,
        definition: Definition::Lane(Box::new(|v| {
            let truth = v[0] as i32 >= v[1] as i32;
            Some(vec![u64::from(truth), u64::from(!truth)])
        })),
        setting: Setting::default(),
    });
    check(Arch::Sm80, rows);
}

#[test]
pub fn setp_on_pairs_of_halves() {
    let mut rows = Vec::new();
    for (name, kind, format) in [("f16x2", Kind::F16x2, F16), ("bf16x2", Kind::Bf16x2, BF16)] {
        for op in FLOAT_OPS {
            rows.push(Row {
                text: format!("setp.{op}.{name} $d0|$d1, $0, $1;"),
                results: vec![Kind::Pred; 2],
                operands: vec![kind; 2],
                compare: Compare::Bits,
                definition: Definition::Lane(Box::new(move |v| {
                    let half = |shift: u32| {
                        let order =
                            float_order(format, v[0] >> shift & 0xFFFF, v[1] >> shift & 0xFFFF);
                        u64::from(holds(op, order))
                    };
                    Some(vec![half(0), half(16)])
                })),
                setting: Setting::default(),
            });
        }
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn set() {
    let one = 0x3F80_0000;
    let mut rows = Vec::new();
    for op in ["eq", "ne", "lt", "geu", "nan"] {
        let truth = move |v: &[u64]| holds(op, float_order(F32, v[0], v[1]));
        rows.push(row(
            format!("set.{op}.u32.f32 $d0, $0, $1;"),
            Kind::I32,
            &[Kind::F32; 2],
            Compare::Bits,
            move |v| {
                if truth(v) { u64::MAX } else { 0 }
            },
        ));
        rows.push(row(
            format!("set.{op}.f32.f32 $d0, $0, $1;"),
            Kind::I32,
            &[Kind::F32; 2],
            Compare::Bits,
            move |v| {
                if truth(v) { one } else { 0 }
            },
        ));
        rows.push(row(
            format!("set.{op}.and.s32.f32 $d0, $0, $1, $2;"),
            Kind::I32,
            &[Kind::F32, Kind::F32, Kind::Pred],
            Compare::Bits,
            move |v| if truth(v) && v[2] != 0 { u64::MAX } else { 0 },
        ));
        rows.push(row(
            format!("set.{op}.f16x2.f16x2 $d0, $0, $1;"),
            Kind::I32,
            &[Kind::F16x2; 2],
            Compare::Bits,
            move |v| {
                let half = |shift: u32| {
                    let order = float_order(F16, v[0] >> shift & 0xFFFF, v[1] >> shift & 0xFFFF);
                    if holds(op, order) { 0x3C00 << shift } else { 0 }
                };
                half(0) | half(16)
            },
        ));
    }
    rows.push(row(
        "set.lt.u32.s64 $d0, $0, $1;",
        Kind::I32,
        &[Kind::I64; 2],
        Compare::Bits,
        |v| {
            if (v[0] as i64) < v[1] as i64 {
                u64::MAX
            } else {
                0
            }
        },
    ));
    check(Arch::Sm80, rows);
}

#[test]
pub fn selections() {
    let mut rows = Vec::new();
    for (name, kind) in [
        ("b16", Kind::I16),
        ("u16", Kind::I16),
        ("b32", Kind::I32),
        ("s32", Kind::I32),
        ("f32", Kind::F32),
        ("b64", Kind::I64),
        ("u64", Kind::I64),
        ("f64", Kind::F64),
    ] {
        rows.push(row(
            format!("selp.{name} $d0, $0, $1, $2;"),
            kind,
            &[kind, kind, Kind::Pred],
            Compare::Bits,
            |v| {
                if v[2] != 0 { v[0] } else { v[1] }
            },
        ));
        rows.push(row(
            format!("slct.{name}.s32 $d0, $0, $1, $2;"),
            kind,
            &[kind, kind, Kind::I32],
            Compare::Bits,
            |v| {
                if v[2] as i32 >= 0 { v[0] } else { v[1] }
            },
        ));
        rows.push(row(
            format!("slct.{name}.f32 $d0, $0, $1, $2;"),
            kind,
            &[kind, kind, Kind::F32],
            Compare::Bits,
            |v| {
                // -0 counts as zero, NaN selects the second operand.
                if f32::from_bits(v[2] as u32) >= 0.0 {
                    v[0]
                } else {
                    v[1]
                }
            },
        ));
    }
    check(Arch::Sm80, rows);
}
