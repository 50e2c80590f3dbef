//! Mbarriers: PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier".
//!
//! Each thread has an object of its own. A row takes it through phases whose counts are edges.

use crate::harness::{Row, check, several};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Largest arrival count and largest tx-count.
const LARGEST: u64 = (1 << 20) - 1;

/// Each thread's object: its address `bar` in shared memory and `generic` in the generic space.
const OBJECT: &str = ".shared .align 8 .b64 bars[128]; .reg .b32 bar, c, n, rest, half; .reg .b64 state, generic;\n\
    .reg .pred done, more; mov.u32 bar, bars; mad.lo.u32 bar, %thread, 8, bar;\n\
    cvt.u64.u32 generic, bar; cvta.shared.u64 generic, generic;";

/// Count `c` from 1 and part `n` of it from 1, of the operands.
const COUNTS: &str = "rem.u32 c, $0, 0xFFFFF; add.u32 c, c, 1; rem.u32 n, $1, c; add.u32 n, n, 1; sub.u32 rest, c, n;";

fn counts(v: &[u64]) -> (u64, u64) {
    let c = v[0] % LARGEST + 1;
    (c, v[1] % c + 1)
}

/// 1 where the last wait succeeded.
fn outcome(result: usize) -> String {
    format!("selp.b32 $d{result}, 1, 0, done;")
}

fn object_row(text: &str, results: usize, definition: fn(&[u64]) -> Vec<u64>) -> Row {
    let kinds = vec![Kind::I32; results];
    several(
        format!("{{ {OBJECT} {text} }}"),
        &kinds,
        &[Kind::I32; 2],
        definition,
    )
}

#[test]
pub fn arrivals_complete_a_phase() {
    let mut rows = Vec::new();
    let places = [(".shared", "bar"), (".shared::cta", "bar"), ("", "generic")];
    for (space, place) in places {
        for order in ["", ".release.cta"] {
            let text = format!(
                "{COUNTS} mbarrier.init{space}.b64 [{place}], c;\n\
                 mbarrier.arrive{order}{space}.b64 state, [{place}], n; mbarrier.pending_count.b64 $d0, state;\n\
                 mbarrier.test_wait{space}.b64 done, [{place}], state; {}\n\
                 setp.ne.u32 more, rest, 0; @more mbarrier.arrive{space}.b64 _, [{place}], rest;\n\
                 mbarrier.try_wait{space}.b64 done, [{place}], state; {}\n\
                 mbarrier.test_wait.parity{space}.b64 done, [{place}], 0; {} mbarrier.inval{space}.b64 [{place}];",
                outcome(1),
                outcome(2),
                outcome(3),
            );
            rows.push(object_row(&text, 4, |v| {
                let (c, n) = counts(v);
                vec![c, u64::from(n == c), 1, 1]
            }));
        }
    }
    check(Arch::Sm90a, rows);
}

/// Both parities of the phase that is open and of the one before.
#[test]
pub fn parities_alternate() {
    let text = format!(
        "{COUNTS} mbarrier.init.shared.b64 [bar], c;\n\
         mbarrier.test_wait.parity.shared.b64 done, [bar], 1; {}\n\
         mbarrier.test_wait.parity.shared.b64 done, [bar], 0; {}\n\
         mbarrier.arrive.shared.b64 state, [bar], c;\n\
         mbarrier.try_wait.parity.acquire.cta.shared.b64 done, [bar], 0, 1000; {}\n\
         mbarrier.arrive.shared.b64 state, [bar], n; mbarrier.pending_count.b64 $d3, state;\n\
         mbarrier.test_wait.parity.shared.b64 done, [bar], 1; {}",
        outcome(0),
        outcome(1),
        outcome(2),
        outcome(4),
    );
    let row = object_row(&text, 5, |v| {
        let (c, n) = counts(v);
        vec![1, 0, 1, c, u64::from(n == c)]
    });
    check(Arch::Sm90a, vec![row]);
}

/// An arrival that must not complete the phase; one that takes part no more in the next.
#[test]
pub fn arrivals_of_other_kinds() {
    let fewer = "rem.u32 c, $0, 0xFFFFE; add.u32 c, c, 2; sub.u32 rest, c, 1; rem.u32 n, $1, rest; add.u32 n, n, 1; sub.u32 rest, c, n;";
    fn fewer_of(v: &[u64]) -> (u64, u64) {
        let c = v[0] % (LARGEST - 1) + 2;
        (c, v[1] % (c - 1) + 1)
    }
    let begin = format!("{fewer} mbarrier.init.shared.b64 [bar], c;");
    let no_complete = format!(
        "{begin} mbarrier.arrive.noComplete.shared.b64 state, [bar], n; mbarrier.pending_count.b64 $d0, state;\n\
         mbarrier.test_wait.shared.b64 done, [bar], state; {}\n\
         mbarrier.arrive.shared.b64 state, [bar], rest; mbarrier.pending_count.b64 $d2, state;\n\
         mbarrier.test_wait.shared.b64 done, [bar], state; {}",
        outcome(1),
        outcome(3),
    );
    let drop = format!(
        "{begin} mbarrier.arrive_drop.shared.b64 state, [bar], n; mbarrier.pending_count.b64 $d0, state;\n\
         mbarrier.arrive.shared.b64 state, [bar], rest; mbarrier.pending_count.b64 $d1, state;\n\
         mbarrier.test_wait.shared.b64 done, [bar], state; {}\n\
         mbarrier.arrive.shared.b64 state, [bar], 1; mbarrier.pending_count.b64 $d3, state;",
        outcome(2),
    );
    let rows = vec![
        object_row(&no_complete, 4, |v| {
            let (c, n) = fewer_of(v);
            vec![c, 0, c - n, 1]
        }),
        object_row(&drop, 4, |v| {
            let (c, n) = fewer_of(v);
            vec![c, c - n, 1, c - n]
        }),
    ];
    check(Arch::Sm90a, rows);
}

#[test]
pub fn transactions_hold_a_phase_open() {
    // Bytes `n` from 0, half of which arrive before the other half.
    let bytes = "and.b32 n, $0, 0xFFFFF; shr.u32 half, n, 1; sub.u32 rest, n, half; mbarrier.init.shared.b64 [bar], 1;";
    let expect = [
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], n; mbarrier.arrive.shared.b64 state, [bar];",
        "mbarrier.arrive.expect_tx.shared.b64 state, [bar], n;",
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 state, [bar], n;",
    ];
    let rows = expect.map(|expect| {
        let text = format!(
            "{bytes} {expect} mbarrier.test_wait.shared.b64 done, [bar], state; {}\n\
             mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], half;\n\
             mbarrier.test_wait.shared.b64 done, [bar], state; {}\n\
             mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], rest;\n\
             mbarrier.test_wait.shared.b64 done, [bar], state; {}",
            outcome(0),
            outcome(1),
            outcome(2),
        );
        object_row(&text, 3, |v| {
            let none = u64::from(v[0] & LARGEST == 0);
            vec![none, none, 1]
        })
    });
    check(Arch::Sm90a, rows.into());
}
