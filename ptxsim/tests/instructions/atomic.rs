//! Atomics and reductions: PTX ISA, "atom" and "red".

use crate::exact::{BF16, F16, F32, F64, Format, Round};
use crate::harness::{Compare, Definition, Row, Setting, check, warp_row};
use crate::memory::cell;
use crate::values::Kind;
use ptxsim::sim::Arch;

/// What the memory holds afterwards, from what it held and the operand.
pub type New = fn(u64, u64) -> u64;

/// Bitwise and integer operations: suffix, kind of the cell, definition.
pub const INTEGERS: [(&str, Kind, New); 21] = [
    ("add.u32", Kind::I32, |a, b| a + b),
    ("add.s32", Kind::I32, |a, b| a + b),
    ("add.u64", Kind::I64, u64::wrapping_add),
    ("min.u32", Kind::I32, |a, b| a.min(b)),
    ("max.u32", Kind::I32, |a, b| a.max(b)),
    ("min.s32", Kind::I32, |a, b| (a as i32).min(b as i32) as u64),
    ("max.s32", Kind::I32, |a, b| (a as i32).max(b as i32) as u64),
    ("min.u64", Kind::I64, |a, b| a.min(b)),
    ("max.u64", Kind::I64, |a, b| a.max(b)),
    ("min.s64", Kind::I64, |a, b| (a as i64).min(b as i64) as u64),
    ("max.s64", Kind::I64, |a, b| (a as i64).max(b as i64) as u64),
    ("inc.u32", Kind::I32, |a, b| if a >= b { 0 } else { a + 1 }),
    ("dec.u32", Kind::I32, |a, b| {
        if a == 0 || a > b { b } else { a - 1 }
    }),
    ("and.b32", Kind::I32, |a, b| a & b),
    ("or.b32", Kind::I32, |a, b| a | b),
    ("xor.b32", Kind::I32, |a, b| a ^ b),
    ("and.b64", Kind::I64, |a, b| a & b),
    ("or.b64", Kind::I64, |a, b| a | b),
    ("xor.b64", Kind::I64, |a, b| a ^ b),
    ("exch.b32", Kind::I32, |_, b| b),
    ("exch.b64", Kind::I64, |_, b| b),
];

/// `atom` in a space and through a generic address, and `red`.
fn forms(
    op: &str,
    kind: Kind,
    space: &str,
    compare: Compare,
    new: impl Fn(&[u64]) -> u64 + Copy + 'static,
    operands: usize,
) -> Vec<Row> {
    let (cell, ty) = (cell(space), kind.register());
    let values = (1..=operands)
        .map(|index| format!("${index}"))
        .collect::<Vec<_>>()
        .join(", ");
    let begin = format!("{cell} st.{space}.{ty} [p], $0;");
    let end = format!("ld.{space}.{ty} $d1, [p]; }}");
    let mut texts = vec![
        format!("{begin} atom.{space}.{op} $d0, [p], {values}; {end}"),
        format!("{begin} atom.{op} $d0, [generic], {values}; {end}"),
        format!("{begin} atom.acq_rel.gpu.{space}.{op} $d0, [p], {values}; {end}"),
    ];
    if !op.starts_with("exch") && !op.starts_with("cas") {
        texts.push(format!(
            "{begin} ld.{space}.{ty} $d0, [p]; red.{space}.{op} [p], {values}; {end}"
        ));
    }
    let row = |text| Row {
        text,
        results: vec![kind; 2],
        operands: vec![kind; operands + 1],
        compare,
        definition: Definition::Lane(Box::new(move |v| Some(vec![v[0], new(v)]))),
        setting: Setting::default(),
    };
    texts.into_iter().map(row).collect()
}

#[test]
pub fn integers() {
    let mut rows = Vec::new();
    for space in ["global", "shared"] {
        for (op, kind, new) in INTEGERS {
            rows.extend(forms(
                op,
                kind,
                space,
                Compare::Bits,
                move |v| new(v[0], v[1]),
                1,
            ));
        }
        for (op, kind) in [
            ("cas.b16", Kind::I16),
            ("cas.b32", Kind::I32),
            ("cas.b64", Kind::I64),
        ] {
            rows.extend(forms(
                op,
                kind,
                space,
                Compare::Bits,
                |v| if v[0] == v[1] { v[2] } else { v[0] },
                2,
            ));
        }
    }
    check(Arch::Sm80, rows);
}

/// The sum of two numbers, rounded to nearest.
pub fn sum(format: Format, a: u64, b: u64) -> u64 {
    format.encode(
        &format.decode(a).add(&format.decode(b), Round::Nearest),
        Round::Nearest,
    )
}

#[test]
pub fn sums_of_floats() {
    let mut rows = Vec::new();
    for space in ["global", "shared"] {
        // In global memory subnormal f32 operands and results count as zeros, in shared they do not.
        let flush = space == "global";
        let f32_sum = move |v: &[u64]| {
            if flush {
                F32.flush(sum(F32, F32.flush(v[0]), F32.flush(v[1])))
            } else {
                sum(F32, v[0], v[1])
            }
        };
        rows.extend(
            forms("add.f32", Kind::F32, space, Compare::Float(F32), f32_sum, 1)
                .into_iter()
                .filter(|row| {
                    // Where a generic address points decides; the table has one definition a row.
                    !row.text.contains("[generic]")
                }),
        );
        rows.extend(forms(
            "add.f64",
            Kind::F64,
            space,
            Compare::Float(F64),
            |v| sum(F64, v[0], v[1]),
            1,
        ));
        rows.extend(forms(
            "add.noftz.f16",
            Kind::F16,
            space,
            Compare::Float(F16),
            |v| sum(F16, v[0], v[1]),
            1,
        ));
        rows.extend(forms(
            "add.noftz.f16x2",
            Kind::F16x2,
            space,
            Compare::Halves(F16),
            |v| halves(F16, v),
            1,
        ));
    }
    check(Arch::Sm80, rows);
}

fn halves(format: Format, v: &[u64]) -> u64 {
    let half = |shift: u32| sum(format, v[0] >> shift & 0xFFFF, v[1] >> shift & 0xFFFF) << shift;
    half(0) | half(16)
}

#[test]
pub fn sums_of_bf16() {
    let mut rows = Vec::new();
    for space in ["global", "shared"] {
        rows.extend(forms(
            "add.noftz.bf16",
            Kind::Bf16,
            space,
            Compare::Float(BF16),
            |v| sum(BF16, v[0], v[1]),
            1,
        ));
        rows.extend(forms(
            "add.noftz.bf16x2",
            Kind::Bf16x2,
            space,
            Compare::Halves(BF16),
            |v| halves(BF16, v),
            1,
        ));
    }
    check(Arch::Sm90a, rows);
}

/// All lanes of a warp on one cell: every one counts, and the old values are those of some order.
#[test]
pub fn contention() {
    let begin = "{ .shared .align 8 .b8 cells[32]; .reg .b32 p, lane; .reg .pred first;\n\
         mov.u32 lane, %laneid; setp.eq.u32 first, lane, 0; shr.u32 p, %thread, 5; mul.lo.u32 p, p, 8;\n\
         { .reg .b32 base; mov.u32 base, cells; add.u32 p, p, base; }\n\
         @first st.shared.b64 [p], 0; bar.warp.sync -1;";
    let end = "bar.warp.sync -1; ld.shared.b32 $d0, [p]; }";
    let reduce = |op: &str, f: fn(u64, u64) -> u64| {
        let text = format!("{begin} red.shared.{op} [p], $0; {end}");
        warp_row(text, &[Kind::I32], &[Kind::I32], move |warp| {
            let total = warp.iter().fold(0, |total, lane| f(total, lane[0]));
            vec![Some(vec![total]); 32]
        })
    };
    let mut rows = vec![
        reduce("add.u32", |a, b| a.wrapping_add(b)),
        reduce("max.u32", |a, b| a.max(b)),
        reduce("or.b32", |a, b| a | b),
        reduce("xor.b32", |a, b| a ^ b),
    ];
    // Tickets: old values of an increment are 0..32, each once.
    let text = format!(
        "{begin} {{ .reg .b32 t, bit; atom.shared.inc.u32 t, [p], 1000; mov.u32 bit, 1; shl.b32 bit, bit, t;\n\
         redux.sync.xor.b32 $d1, bit, -1; }} {end}"
    );
    rows.push(warp_row(
        text,
        &[Kind::I32, Kind::I32],
        &[Kind::I32],
        |_| vec![Some(vec![32, u64::MAX]); 32],
    ));
    check(Arch::Sm80, rows);
}
