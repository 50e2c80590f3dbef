//! Clusters of two blocks and their shared memory: PTX ISA, "mapa", "getctarank", "st.async",
//! "red.async", "barrier.cluster" and accesses to `.shared::cluster`.

use crate::atomic::INTEGERS;
use crate::harness::{Compare, Row, Setting, check, cluster_row, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Threads of a block.
const BLOCK: usize = 128;

/// Each thread's cell of 16 bytes at `p` and mbarrier at `bar`; `peer` and `peer_bar` are those of the
/// same thread in the other block.
const CELL: &str = ".shared .align 16 .b8 cells[2048]; .shared .align 8 .b64 bars[128];\n\
    .reg .b32 p, bar, peer, peer_bar, rank; .reg .b64 state, generic; .reg .pred done;\n\
    mov.u32 p, cells; mad.lo.u32 p, %thread, 16, p; mov.u32 bar, bars; mad.lo.u32 bar, %thread, 8, bar;\n\
    mov.u32 rank, %cluster_ctarank; xor.b32 rank, rank, 1;\n\
    mapa.shared::cluster.u32 peer, p, rank; mapa.shared::cluster.u32 peer_bar, bar, rank;";

/// Every thread of the cluster has come here, and sees what the others wrote.
const MEET: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

/// A row whose definition gets the operands of a thread and of the same one in the other block.
fn peer_row(
    text: &str,
    results: &[Kind],
    operands: &[Kind],
    f: impl Fn(&[u64], &[u64]) -> Vec<u64> + 'static,
) -> Row {
    let definition = move |lanes: &[Vec<u64>]| {
        let peer = |i: usize| &lanes[(i + BLOCK) % (2 * BLOCK)];
        (0..lanes.len())
            .map(|i| Some(f(&lanes[i], peer(i))))
            .collect()
    };
    let text = format!("{{ {CELL} {text} {MEET} }}");
    cluster_row(text, results, operands, Compare::Bits, definition).set(Setting {
        peers: 1,
        ..Setting::default()
    })
}

#[test]
pub fn addresses_and_ranks() {
    let by_rank = "and.b32 rank, $0, 1;";
    let read = |load: &str| format!("st.shared.b32 [p], $1; {MEET} {by_rank} {load}");
    let texts = [
        read(
            "mapa.shared::cluster.u32 peer, p, rank; getctarank.shared::cluster.u32 $d0, peer; ld.shared::cluster.b32 $d1, [peer];",
        ),
        read(
            "cvt.u64.u32 generic, p; mapa.shared::cluster.u64 generic, generic, rank; cvt.u32.u64 peer, generic;\n\
              getctarank.shared::cluster.u64 $d0, generic; ld.shared::cluster.b32 $d1, [peer];",
        ),
        read(
            "cvt.u64.u32 generic, p; cvta.shared.u64 generic, generic; mapa.u64 generic, generic, rank;\n\
              getctarank.u64 $d0, generic; ld.b32 $d1, [generic];",
        ),
    ];
    let rows = texts.map(|text| {
        // The block of rank `lane / 128` of the cluster has the operands of that half.
        let definition = |lanes: &[Vec<u64>]| {
            let value = |i: usize| {
                let rank = lanes[i][0] & 1;
                Some(vec![rank, lanes[rank as usize * BLOCK + i % BLOCK][1]])
            };
            (0..lanes.len()).map(value).collect()
        };
        let text = format!("{{ {CELL} {text} {MEET} }}");
        cluster_row(
            text,
            &[Kind::I32; 2],
            &[Kind::I32; 2],
            Compare::Bits,
            definition,
        )
        .set(Setting {
            peers: 1,
            ..Setting::default()
        })
    });
    check(Arch::Sm90a, rows.into());
}

#[test]
pub fn shared_memory_of_the_peer() {
    let meetings = [
        MEET,
        "barrier.cluster.arrive; barrier.cluster.wait;",
        "fence.acq_rel.cluster; barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;",
    ];
    let mut rows = Vec::new();
    for meet in meetings {
        let text = format!("st.shared::cluster.b64 [peer], $0; {meet} ld.shared.b64 $d0, [p];");
        rows.push(peer_row(&text, &[Kind::I64], &[Kind::I64], |_, peer| {
            vec![peer[0]]
        }));
    }
    for (op, kind, new) in INTEGERS {
        let ty = kind.register();
        let text = format!(
            "st.shared.{ty} [p], $0; {MEET} atom.shared::cluster.{op} $d0, [peer], $1; {MEET} ld.shared.{ty} $d1, [p];"
        );
        rows.push(peer_row(&text, &[kind; 2], &[kind; 2], move |own, peer| {
            vec![peer[0], new(own[0], peer[1])]
        }));
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn asynchronous_stores_and_reductions() {
    let expect = |bytes: u32| {
        format!(
            "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 state, [bar], {bytes};\n\
             fence.mbarrier_init.release.cluster; {MEET}"
        )
    };
    let wait =
        "AGAIN: mbarrier.try_wait.acquire.cluster.shared.b64 done, [bar], state; @!done bra AGAIN;";
    let mbarrier = "shared::cluster.mbarrier::complete_tx::bytes";
    let mut rows = Vec::new();
    for (ty, kind, count) in [
        ("b32", Kind::I32, 1),
        ("b64", Kind::I64, 1),
        ("b32", Kind::I32, 4),
        ("b64", Kind::I64, 2),
    ] {
        let (vector, list) = match count {
            1 => (String::new(), ["$0".into(), "$d0".into()]),
            _ => (
                format!(".v{count}"),
                ["$", "$d"].map(|prefix| {
                    let names: Vec<String> = (0..count).map(|i| format!("{prefix}{i}")).collect();
                    format!("{{{}}}", names.join(", "))
                }),
            ),
        };
        let bytes = count as u32 * if ty == "b64" { 8 } else { 4 };
        let text = format!(
            "{} st.async.weak.{mbarrier}{vector}.{ty} [peer], {}, [peer_bar]; {wait} ld.shared{vector}.{ty} {}, [p];",
            expect(bytes),
            list[0],
            list[1],
        );
        rows.push(peer_row(
            &text,
            &vec![kind; count],
            &vec![kind; count],
            |_, peer| peer.to_vec(),
        ));
    }
    let listed = [
        "inc.u32", "dec.u32", "min.u32", "min.s32", "max.u32", "max.s32", "add.u32", "add.s32",
        "add.u64", "and.b32", "or.b32", "xor.b32",
    ];
    for (op, kind, new) in INTEGERS.into_iter().filter(|(op, ..)| listed.contains(op)) {
        let ty = kind.register();
        let bytes = if ty == "b64" { 8 } else { 4 };
        let text = format!(
            "st.shared.{ty} [p], $0; {} red.async.relaxed.cluster.{mbarrier}.{op} [peer], $1, [peer_bar]; {wait}\n\
             ld.shared.{ty} $d0, [p];",
            expect(bytes),
        );
        rows.push(peer_row(&text, &[kind], &[kind; 2], move |own, peer| {
            vec![new(own[0], peer[1])]
        }));
    }
    check(Arch::Sm90a, rows);
}

/// A bulk copy to the other block, which its mbarrier tracks, and one to both blocks.
#[test]
pub fn bulk_copies_between_blocks() {
    let expect = "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 state, [bar], 16;\n\
        fence.mbarrier_init.release.cluster;";
    let wait = "AGAIN: mbarrier.try_wait.shared.b64 done, [bar], state; @!done bra AGAIN;";
    let mbarrier = "mbarrier::complete_tx::bytes";
    let to_peer = format!(
        ".shared .align 16 .b8 sources[2048]; .reg .b32 source; mov.u32 source, sources; mad.lo.u32 source, %thread, 16, source;\n\
         st.shared.v2.b64 [source], {{$0, $1}}; {expect} fence.proxy.async; {MEET}\n\
         cp.async.bulk.shared::cluster.shared::cta.{mbarrier} [peer], [source], 16, [peer_bar]; {wait} ld.shared.v2.b64 {{$d0, $d1}}, [p];"
    );
    // The block of rank 0 loads for both.
    let to_both = format!(
        "{expect} fence.proxy.async; {MEET} setp.ne.u32 done, rank, 0; .reg .b16 both; mov.b16 both, 3;\n\
         @done cp.async.bulk.shared::cluster.global.{mbarrier}.multicast::cluster [p], [%in], 16, [bar], both;\n\
         {wait} ld.shared.v2.b64 {{$d0, $d1}}, [p];"
    );
    let first = |lanes: &[Vec<u64>]| {
        (0..lanes.len())
            .map(|i| Some(lanes[i % BLOCK].clone()))
            .collect()
    };
    let both = cluster_row(
        format!("{{ {CELL} {to_both} {MEET} }}"),
        &[Kind::I64; 2],
        &[Kind::I64; 2],
        Compare::Bits,
        first,
    );
    let rows = vec![
        peer_row(&to_peer, &[Kind::I64; 2], &[Kind::I64; 2], |_, peer| {
            peer.to_vec()
        }),
        both.set(Setting {
            peers: 1,
            ..Setting::default()
        }),
    ];
    check(Arch::Sm90a, rows);
}

#[test]
pub fn elections() {
    let rows = [0xffff_ffffu32, 0xffff_fff0, 0x8000_0000, 0x0001_0100].map(|members| {
        let text = format!(
            "{{ .reg .pred inside, leader; .reg .b32 bit; mov.u32 bit, %lanemask_eq; and.b32 bit, bit, {members};\n\
             setp.ne.u32 inside, bit, 0; mov.b32 $d0, $0; mov.b32 $d1, 7; @!inside bra END;\n\
             elect.sync $d0|leader, {members}; selp.b32 $d1, 1, 0, leader; END: }}"
        );
        warp_row(text, &[Kind::I32; 2], &[Kind::I32], move |warp| {
            let first = members.trailing_zeros();
            let result = |lane: usize| match members >> lane & 1 {
                0 => vec![warp[lane][0], 7],
                _ => vec![first.into(), u64::from(lane == first as usize)],
            };
            (0..32).map(|lane| Some(result(lane))).collect()
        })
    });
    check(Arch::Sm90a, rows.into());
}
