//! Asynchronous copies and reductions of bytes: PTX ISA, "cp.async", "cp.async.bulk" and
//! "cp.reduce.async.bulk".

use crate::atomic::{INTEGERS, New, sum};
use crate::exact::{BF16, F16, F32, F64, Format};
use crate::float::extremum;
use crate::harness::{Compare, Row, check, several};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Each thread's 32 bytes of shared memory at `p` and its mbarrier at `bar`.
const CELL: &str = ".shared .align 16 .b8 cells[4096]; .shared .align 8 .b64 bars[128]; .reg .b32 p, bar, n;\n\
    .reg .b64 state; .reg .pred done; mov.u32 p, cells; mad.lo.u32 p, %thread, 32, p;\n\
    mov.u32 bar, bars; mad.lo.u32 bar, %thread, 8, bar;";

/// Waits for the phase of `state`.
const WAIT: &str = "AGAIN: mbarrier.try_wait.shared.b64 done, [bar], state; @!done bra AGAIN;";

/// How many bytes a copy takes, from an operand and its size.
type Taken = fn(u64, u64) -> u64;

/// The lowest `count` bytes of two words, zeros above.
fn lowest(v: &[u64], count: u64) -> Vec<u64> {
    let word = |value: u64, count: u64| match count {
        0 => 0,
        8.. => value,
        _ => value & ((1 << (8 * count)) - 1),
    };
    vec![word(v[0], count), word(v[1], count.saturating_sub(8))]
}

#[test]
pub fn copies_of_4_to_16_bytes() {
    let mut rows = Vec::new();
    let clear = "st.shared.v2.b64 [p], {0, 0};";
    let read = "ld.shared.v2.b64 {$d0, $d1}, [p];";
    let ends = [
        "cp.async.commit_group; cp.async.wait_group 0;",
        "cp.async.wait_all;",
    ];
    for (cache, size) in [
        ("ca", 4),
        ("ca", 8),
        ("ca", 16),
        ("cg", 16),
        ("cg.shared::cta", 16),
    ] {
        let (cache, space) = cache.split_once('.').unwrap_or((cache, "shared"));
        for end in ends {
            // All bytes; as many as an operand says; none where a predicate holds.
            let sized = format!(
                "rem.u32 n, $2, {}; cp.async.{cache}.{space}.global [p], [%in], {size}, n;",
                size + 1
            );
            let ignored = format!(
                "setp.ge.s32 done, $2, 0; cp.async.{cache}.{space}.global [p], [%in], {size}, done;"
            );
            let whole = format!("cp.async.{cache}.{space}.global [p], [%in], {size};");
            let forms: [(String, Taken); 3] = [
                (whole, |_, size| size),
                (sized, |n, size| n % (size + 1)),
                (ignored, |n, size| if (n as i32) < 0 { size } else { 0 }),
            ];
            for (copy, taken) in forms {
                let text = format!("{{ {CELL} {clear} {copy} {end} {read} }}");
                let operands = [Kind::I64, Kind::I64, Kind::I32, Kind::I32];
                rows.push(several(text, &[Kind::I64; 2], &operands, move |v| {
                    lowest(v, taken(v[2], size))
                }));
            }
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn copies_that_arrive_at_an_mbarrier() {
    let read = "ld.shared.v2.b64 {$d0, $d1}, [p];";
    let mut rows = Vec::new();
    for (arrive, count) in [
        ("cp.async.mbarrier.arrive.noinc", 2),
        ("cp.async.mbarrier.arrive", 1),
    ] {
        let text = format!(
            "{{ {CELL} mbarrier.init.shared.b64 [bar], {count}; cp.async.ca.shared.global [p], [%in], 16;\n\
             {arrive}.shared.b64 [bar]; mbarrier.arrive.shared.b64 state, [bar]; {WAIT} {read} }}"
        );
        rows.push(several(text, &[Kind::I64; 2], &[Kind::I64; 2], |v| {
            v.to_vec()
        }));
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn bulk_copies() {
    let expect =
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 state, [bar], 16;";
    let mbarrier = "mbarrier::complete_tx::bytes";
    let read = "ld.shared.v2.b64 {$d0, $d1}, [p];";
    let write = "st.shared.v2.b64 [p], {$0, $1};";
    let texts = [
        format!(
            "{expect} fence.proxy.async; cp.async.bulk.shared::cluster.global.{mbarrier} [p], [%in], 16, [bar]; {WAIT} {read}"
        ),
        format!(
            "{expect} fence.proxy.async; cp.async.bulk.shared::cta.global.{mbarrier} [p], [%in], 16, [bar]; {WAIT} {read}"
        ),
        // From the upper half of the cell to the lower one, as if of another block.
        format!(
            "st.shared.v2.b64 [p+16], {{$0, $1}}; {expect} fence.proxy.async;\n\
                 cp.async.bulk.shared::cluster.shared::cta.{mbarrier} [p], [p+16], 16, [bar]; {WAIT} {read}"
        ),
        format!(
            "{write} fence.proxy.async; cp.async.bulk.global.shared::cta.bulk_group [%out], [p], 16;\n\
                 cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; ld.global.v2.b64 {{$d0, $d1}}, [%out];"
        ),
    ];
    let rows = texts.map(|text| {
        let text = format!("{{ {CELL} {text} }}");
        several(text, &[Kind::I64; 2], &[Kind::I64; 2], |v| v.to_vec())
    });
    check(Arch::Sm90a, rows.into());
}

/// A reduction of 16 bytes: old values are the first half of the operands, new ones the other.
fn reduction(op: &str, kind: Kind, compare: Compare, f: impl Fn(u64, u64) -> u64 + 'static) -> Row {
    let (count, ty) = if kind.register() == "b64" {
        (2, "b64")
    } else {
        (4, "b32")
    };
    let list = |prefix: &str, from: usize| {
        let names: Vec<String> = (from..from + count)
            .map(|i| format!("{prefix}{i}"))
            .collect();
        format!("{{{}}}", names.join(", "))
    };
    let text = format!(
        "{{ {CELL} st.global.v{count}.{ty} [%out], {}; st.shared.v{count}.{ty} [p], {}; fence.proxy.async;\n\
         cp.reduce.async.bulk.global.shared::cta.bulk_group.{op} [%out], [p], 16;\n\
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; ld.global.v{count}.{ty} {}, [%out]; }}",
        list("$", 0),
        list("$", count),
        list("$d", 0),
    );
    let definition = move |v: &[u64]| (0..count).map(|i| f(v[i], v[count + i])).collect();
    Row {
        compare,
        ..several(text, &vec![kind; count], &vec![kind; 2 * count], definition)
    }
}

/// A function of the halves of words.
fn halves(f: impl Fn(u64, u64) -> u64) -> impl Fn(u64, u64) -> u64 {
    move |a, b| f(a & 0xFFFF, b & 0xFFFF) | f(a >> 16, b >> 16) << 16
}

#[test]
pub fn bulk_reductions_of_integers() {
    // PTX has no exchange among them.
    let listed = INTEGERS.iter().filter(|(op, ..)| !op.starts_with("exch"));
    let rows = listed.map(|&(op, kind, new): &(_, _, New)| reduction(op, kind, Compare::Bits, new));
    check(Arch::Sm90a, rows.collect());
}

#[test]
pub fn bulk_reductions_of_floats() {
    let mut rows = vec![
        reduction("add.f32", Kind::F32, Compare::Float(F32), |a, b| {
            F32.flush(sum(F32, F32.flush(a), F32.flush(b)))
        }),
        reduction("add.f64", Kind::F64, Compare::Float(F64), |a, b| {
            sum(F64, a, b)
        }),
    ];
    let formats: [(&str, Kind, Format); 2] =
        [("f16", Kind::F16x2, F16), ("bf16", Kind::Bf16x2, BF16)];
    for (name, kind, format) in formats {
        let compare = Compare::Halves(format);
        let add = halves(move |a, b| sum(format, a, b));
        rows.push(reduction(&format!("add.noftz.{name}"), kind, compare, add));
        for (op, larger) in [("min", false), ("max", true)] {
            let f = halves(move |a, b| extremum(format, a, b, larger, false));
            rows.push(reduction(&format!("{op}.{name}"), kind, compare, f));
        }
    }
    check(Arch::Sm90a, rows);
}
