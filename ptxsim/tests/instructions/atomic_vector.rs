//! Atomics and reductions of several elements, and of 128 bits: PTX ISA, "atom" and "red", the
//! forms of sm_90.

use crate::exact::{BF16, F16, F32, Format, Round};
use crate::harness::{Compare, Definition, Row, Setting, check};
use crate::memory::cell;
use crate::values::Kind;
use ptxsim::sim::Arch;

/// What an element becomes from what it was and the operand; `None` where PTX leaves it open.
type New = fn(Format, u64, u64) -> Option<u64>;

fn sum(format: Format, a: u64, b: u64) -> Option<u64> {
    let sum = format.decode(a).add(&format.decode(b), Round::Nearest);
    Some(format.encode(&sum, Round::Nearest))
}

/// In global memory subnormal f32 operands and results count as zeros.
fn flushed_sum(format: Format, a: u64, b: u64) -> Option<u64> {
    sum(format, format.flush(a), format.flush(b)).map(|sum| format.flush(sum))
}

fn extremum(format: Format, a: u64, b: u64, larger: bool) -> Option<u64> {
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => return Some(format.nan()),
        (true, false) => return Some(b),
        (false, true) => return Some(a),
        _ => {}
    }
    let (x, y) = (format.decode(a), format.decode(b));
    // Zeros of both signs are equal.
    if x.is_zero() && y.is_zero() && a != b {
        return None;
    }
    let less = x.add(&y.negated(), Round::Nearest).negative();
    Some(if less == larger { b } else { a })
}

/// A type of elements: its name, how many there may be, and the formats of its parts.
struct Elements {
    ty: &'static str,
    counts: &'static [usize],
    kind: Kind,
    format: Format,
    compare: Compare,
    packed: bool,
}

impl Elements {
    fn element(&self, new: New) -> impl Fn(u64, u64) -> Option<u64> + 'static {
        let (format, packed) = (self.format, self.packed);
        move |a, b| {
            if !packed {
                return new(format, a, b);
            }
            let part = |shift: u32| new(format, a >> shift & 0xFFFF, b >> shift & 0xFFFF);
            Some(part(0)? | part(16)? << 16)
        }
    }

    /// `atom` with the space and through a generic address, and `red`: the old elements, then the
    /// new ones. Eight elements share four cells' and four operands' values, no pair twice.
    fn rows(&self, op: &str, new: New) -> Vec<Row> {
        let mut rows = Vec::new();
        for &count in self.counts {
            let values: Vec<usize> = (0..count).map(|i| 4 + (3 * i + i / 4) % 4).collect();
            let list = |names: Vec<String>| format!("{{{}}}", names.join(", "));
            let sources = list(values.iter().map(|i| format!("${i}")).collect());
            let dests = list((0..count).map(|i| format!("$d{i}")).collect());
            let (cell, ty) = (cell("global"), self.kind.register());
            let size = if ty == "b16" { 2 } else { 4 };
            let each = |f: &dyn Fn(usize, usize) -> String| -> String {
                (0..count).map(|i| f(i, i * size)).collect()
            };
            let begin = cell + &each(&|i, at| format!(" st.global.{ty} [p+{at}], ${};", i % 4));
            let old = each(&|i, at| format!(" ld.global.{ty} $d{i}, [p+{at}];"));
            let end = each(&|i, at| format!(" ld.global.{ty} $d{}, [p+{at}];", count + i)) + " }";
            let op = format!("{op}.v{count}.{}", self.ty);
            for text in [
                format!("{begin} atom.global.{op} {dests}, [p], {sources}; {end}"),
                format!("{begin} atom.{op} {dests}, [generic], {sources}; {end}"),
                format!("{begin} {old} red.global.{op} [p], {sources}; {end}"),
            ] {
                let (new, values) = (self.element(new), values.clone());
                rows.push(Row {
                    text,
                    results: vec![self.kind; 2 * count],
                    operands: vec![self.kind; 8],
                    compare: self.compare,
                    definition: Definition::Lane(Box::new(move |v| {
                        let old = (0..values.len()).map(|i| Some(v[i % 4]));
                        let new = values.iter().enumerate().map(|(i, &b)| new(v[i % 4], v[b]));
                        old.chain(new).collect()
                    })),
                    setting: Setting::default(),
                });
            }
        }
        rows
    }
}

#[test]
pub fn sums_of_f32() {
    let elements = Elements {
        ty: "f32",
        counts: &[2, 4],
        kind: Kind::F32,
        format: F32,
        compare: Compare::Float(F32),
        packed: false,
    };
    check(Arch::Sm90a, elements.rows("add", flushed_sum));
}

#[test]
pub fn sums_and_extrema_of_halves() {
    let mut rows = Vec::new();
    for (names, kinds, format) in [
        (["f16", "f16x2"], [Kind::F16, Kind::F16x2], F16),
        (["bf16", "bf16x2"], [Kind::Bf16, Kind::Bf16x2], BF16),
    ] {
        for packed in [false, true] {
            let index = usize::from(packed);
            let elements = Elements {
                ty: names[index],
                counts: if packed { &[2, 4] } else { &[2, 4, 8] },
                kind: kinds[index],
                format,
                compare: [Compare::Float(format), Compare::Halves(format)][index],
                packed,
            };
            rows.extend(elements.rows("add.noftz", sum));
            rows.extend(elements.rows("min.noftz", |f, a, b| extremum(f, a, b, false)));
            rows.extend(elements.rows("max.noftz", |f, a, b| extremum(f, a, b, true)));
        }
    }
    check(Arch::Sm90a, rows);
}

/// Comparands that equal the cell in both, the lower or the upper half.
#[test]
pub fn words_of_128_bits() {
    let mut rows = Vec::new();
    for space in ["global", "shared"] {
        let cell = cell(space);
        let begin = format!(
            "{cell} .reg .b128 old, b, c; st.{space}.v2.b64 [p], {{$0, $1}}; mov.b128 c, {{$3, $4}};"
        );
        let end = format!("mov.b128 {{$d0, $d1}}, old; ld.{space}.v2.b64 {{$d2, $d3}}, [p]; }}");
        let mut push = |text: String, new: fn(&[u64]) -> [u64; 2]| {
            rows.push(Row {
                text,
                results: vec![Kind::I64; 4],
                operands: vec![Kind::I64; 5],
                compare: Compare::Bits,
                definition: Definition::Lane(Box::new(move |v| {
                    Some([[v[0], v[1]], new(v)].concat())
                })),
                setting: Setting::default(),
            });
        };
        for place in [
            format!("{space}.exch.b128 old, [p]"),
            "exch.b128 old, [generic]".into(),
        ] {
            push(format!("{begin} atom.{place}, c; {end}"), |v| [v[3], v[4]]);
        }
        type Swap = fn(&[u64]) -> [u64; 2];
        let swap: [(&str, Swap); 3] = [
            ("$0, $1", |v| [v[3], v[4]]),
            ("$0, $2", |v| {
                if v[1] == v[2] {
                    [v[3], v[4]]
                } else {
                    [v[0], v[1]]
                }
            }),
            ("$2, $1", |v| {
                if v[0] == v[2] {
                    [v[3], v[4]]
                } else {
                    [v[0], v[1]]
                }
            }),
        ];
        for (comparand, new) in swap {
            push(
                format!(
                    "{begin} mov.b128 b, {{{comparand}}}; atom.{space}.cas.b128 old, [p], b, c; {end}"
                ),
                new,
            );
        }
    }
    check(Arch::Sm90a, rows);
}
