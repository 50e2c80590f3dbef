//! What lanes of a warp do together: PTX ISA, "shfl.sync", "vote.sync", "match.sync", "redux.sync".

use crate::harness::{Compare, Row, check, cluster_row, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Operand `index` of all lanes.
fn column(warp: &[Vec<u64>], index: usize) -> Vec<u64> {
    warp.iter().map(|lane| lane[index]).collect()
}

/// Results that are the same in all lanes.
fn everywhere(results: Vec<u64>) -> Vec<Option<Vec<u64>>> {
    vec![Some(results); 32]
}

/// Source lane and predicate of `shfl`, from the pseudocode of the PTX ISA.
fn shuffle_source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (bval, cval, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | cval & !segment;
    let min = lane & segment;
    let (source, inside) = match mode {
        "up" => (
            lane.wrapping_sub(bval),
            (lane as i32 - bval as i32) >= max as i32,
        ),
        "down" => (lane + bval, lane + bval <= max),
        "bfly" => (lane ^ bval, lane ^ bval <= max),
        _ => {
            let source = min | bval & !segment;
            (source, source <= max)
        }
    };
    (if inside { source } else { lane }, inside)
}

#[test]
pub fn shuffles() {
    let mut rows = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        for c in [0x1Fu32, 0, 0x181F, 0x1800, 0x0F, 0x1E1F, 0x1C03] {
            let define = move |warp: &[Vec<u64>], amount: &dyn Fn(usize) -> u32| {
                (0..32)
                    .map(|lane| {
                        let (source, inside) = shuffle_source(mode, lane as u32, amount(lane), c);
                        Some(vec![warp[source as usize][0], u64::from(inside)])
                    })
                    .collect::<Vec<_>>()
            };
            let text = format!("shfl.sync.{mode}.b32 $d0|$d1, $0, $1, {c}, -1;");
            let results = [Kind::I32, Kind::Pred];
            rows.push(warp_row(
                text,
                &results,
                &[Kind::I32, Kind::Count],
                move |warp| define(warp, &|lane| warp[lane][1] as u32),
            ));
            let text = format!("shfl.sync.{mode}.b32 $d0|$d1, $0, 5, {c}, 0xffffffff;");
            rows.push(warp_row(text, &results, &[Kind::F32], move |warp| {
                define(warp, &|_| 5)
            }));
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn votes() {
    let vote = |mode: &str, kind: Kind, f: fn(&[u64]) -> u64| {
        let text = format!("vote.sync.{mode} $d0, $0, 0xffffffff;");
        warp_row(text, &[kind], &[Kind::Pred], move |warp| {
            everywhere(vec![f(&column(warp, 0))])
        })
    };
    let mut rows: Vec<Row> = vec![
        vote("all.pred", Kind::Pred, |p| {
            u64::from(p.iter().all(|&p| p != 0))
        }),
        vote("any.pred", Kind::Pred, |p| {
            u64::from(p.iter().any(|&p| p != 0))
        }),
        vote("uni.pred", Kind::Pred, |p| {
            u64::from(p.iter().all(|&x| x == p[0]))
        }),
        vote("ballot.b32", Kind::I32, |p| {
            (0..32).fold(0, |mask, lane| mask | p[lane] << lane)
        }),
    ];
    rows.push(warp_row(
        "vote.sync.ballot.b32 $d0, !$0, -1;",
        &[Kind::I32],
        &[Kind::Pred],
        |warp| {
            everywhere(vec![
                (0..32).fold(0, |mask, lane| mask | (warp[lane][0] ^ 1) << lane),
            ])
        },
    ));
    // Uniform predicates, which single edge values seldom are.
    for (mode, kind) in [
        ("all.pred", Kind::Pred),
        ("uni.pred", Kind::Pred),
        ("any.pred", Kind::Pred),
    ] {
        let text =
            format!("{{ .reg .pred t; setp.ge.u32 t, $0, 0; vote.sync.{mode} $d0, t, -1; }}");
        rows.push(warp_row(text, &[kind], &[Kind::I32], |_| {
            everywhere(vec![1])
        }));
        let expected = u64::from(mode == "uni.pred");
        let text =
            format!("{{ .reg .pred t; setp.lt.u32 t, $0, 0; vote.sync.{mode} $d0, t, -1; }}");
        rows.push(warp_row(text, &[kind], &[Kind::I32], move |_| {
            everywhere(vec![expected])
        }));
    }
    rows.push(warp_row(
        "activemask.b32 $d0;",
        &[Kind::I32],
        &[Kind::I32],
        |_| everywhere(vec![u64::MAX]),
    ));
    check(Arch::Sm80, rows);
}

#[test]
pub fn matches() {
    let mut rows = Vec::new();
    for (size, kind) in [("b32", Kind::I32), ("b64", Kind::I64), ("b32", Kind::Lane)] {
        // Few distinct values, so that lanes do match.
        let reduce = if size == "b64" {
            "and.b64 v, $0, 3;"
        } else {
            "and.b32 v, $0, 3;"
        };
        let text = format!("{{ .reg .{size} v; {reduce} match.any.sync.{size} $d0, v, -1; }}");
        rows.push(warp_row(text, &[Kind::I32], &[kind], |warp| {
            let same = |a: &Vec<u64>, b: &Vec<u64>| a[0] & 3 == b[0] & 3;
            let mask = |lane: &Vec<u64>| {
                (0..32).fold(0, |mask, other| {
                    mask | u64::from(same(lane, &warp[other])) << other
                })
            };
            warp.iter().map(|lane| Some(vec![mask(lane)])).collect()
        }));
        let text = format!("match.all.sync.{size} $d0|$d1, $0, -1;");
        rows.push(warp_row(text, &[Kind::I32, Kind::Pred], &[kind], |warp| {
            let all = warp.iter().all(|lane| lane == &warp[0]);
            everywhere(if all { vec![u64::MAX, 1] } else { vec![0, 0] })
        }));
        let text = format!(
            "{{ .reg .{size} v; xor.{size} v, $0, $0; match.all.sync.{size} $d0|$d1, v, -1; }}"
        );
        rows.push(warp_row(text, &[Kind::I32, Kind::Pred], &[kind], |_| {
            everywhere(vec![u64::MAX, 1])
        }));
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn reductions() {
    let redux = |op: &str, f: fn(&[u64]) -> u64| {
        let text = format!("redux.sync.{op} $d0, $0, 0xffffffff;");
        warp_row(text, &[Kind::I32], &[Kind::I32], move |warp| {
            everywhere(vec![f(&column(warp, 0))])
        })
    };
    let rows = vec![
        redux("add.u32", |v| v.iter().sum()),
        redux("add.s32", |v| v.iter().sum()),
        redux("min.u32", |v| *v.iter().min().unwrap()),
        redux("max.u32", |v| *v.iter().max().unwrap()),
        redux("min.s32", |v| {
            v.iter().map(|&x| x as i32).min().unwrap() as u64
        }),
        redux("max.s32", |v| {
            v.iter().map(|&x| x as i32).max().unwrap() as u64
        }),
        redux("and.b32", |v| v.iter().fold(u64::MAX, |a, b| a & b)),
        redux("or.b32", |v| v.iter().fold(0, |a, b| a | b)),
        redux("xor.b32", |v| v.iter().fold(0, |a, b| a ^ b)),
    ];
    check(Arch::Sm80, rows);
}

/// Instructions that only the even lanes execute, the others having branched around them.
#[test]
pub fn in_half_of_the_lanes() {
    let evens = |instruction: &str| {
        format!(
            "{{ .reg .pred odd; .reg .b32 lane; mov.u32 lane, %laneid; and.b32 lane, lane, 1;\n\
             setp.ne.u32 odd, lane, 0; mov.u32 $d0, 77;\n@odd bra SKIP;\n{instruction}\nSKIP: }}"
        )
    };
    let define = |f: fn(&[Vec<u64>], usize) -> u64| {
        move |warp: &[Vec<u64>]| -> Vec<Option<Vec<u64>>> {
            (0..32)
                .map(|lane| Some(vec![if lane % 2 == 0 { f(warp, lane) } else { 77 }]))
                .collect()
        }
    };
    let row = |instruction: &str, f: fn(&[Vec<u64>], usize) -> u64| {
        warp_row(evens(instruction), &[Kind::I32], &[Kind::I32], define(f))
    };
    let rows = vec![
        row(
            "shfl.sync.bfly.b32 $d0, $0, 2, 31, 0x55555555;",
            |warp, lane| warp[lane ^ 2][0],
        ),
        row("redux.sync.xor.b32 $d0, $0, 0x55555555;", |warp, _| {
            (0..32).step_by(2).fold(0, |a, l| a ^ warp[l][0])
        }),
        row("activemask.b32 $d0;", |_, _| 0x5555_5555),
        row(
            "{ .reg .pred p; setp.gt.s32 p, $0, 0; vote.sync.ballot.b32 $d0, p, 0x55555555; }",
            |warp, _| {
                (0..32)
                    .step_by(2)
                    .fold(0, |mask, l| mask | u64::from(warp[l][0] as i32 > 0) << l)
            },
        ),
    ];
    check(Arch::Sm80, rows);
}

#[test]
pub fn election() {
    let text = "elect.sync $d0|$d1, 0xfffffff0;";
    // Lanes 0 to 3 are not among the members, so they stay away.
    let text = format!(
        "{{ .reg .pred low; .reg .b32 lane; mov.u32 lane, %laneid; setp.lt.u32 low, lane, 4;\n\
         mov.u32 $d0, 99; setp.ne.u32 $d1, lane, lane;\n@low bra SKIP;\n{text}\nSKIP: }}"
    );
    let row = warp_row(text, &[Kind::I32, Kind::Pred], &[Kind::I32], |_| {
        (0..32)
            .map(|lane| {
                Some(if lane < 4 {
                    vec![99, 0]
                } else {
                    vec![4, u64::from(lane == 4)]
                })
            })
            .collect()
    });
    check(Arch::Sm90a, vec![row]);
}

/// Barriers of a block: who waits sees what those that arrived wrote, and how they voted.
#[test]
pub fn barriers() {
    let mut rows = Vec::new();
    for barrier in ["bar", "bar.cta", "barrier", "barrier.cta"] {
        let aligned = if barrier.starts_with("barrier") {
            ".aligned"
        } else {
            ""
        };
        let cells = ".shared .align 4 .b32 cells[128]; .reg .b32 at; mov.u32 at, cells; mad.lo.u32 at, %thread, 4, at;\n\
                     st.shared.b32 [at], $0; .reg .pred early; setp.lt.u32 early, %thread, 64;";
        // The upper half of the block reads what the lower one wrote.
        let read = "mov.b32 $d0, $0; @!early ld.shared.b32 $d0, [at+-256];";
        for meet in [
            format!("{barrier}.sync{aligned} 0;"),
            format!("{barrier}.sync{aligned} 5, 128;"),
            format!(
                "@early {barrier}.arrive{aligned} 3, 128; @!early {barrier}.sync{aligned} 3, 128;"
            ),
        ] {
            let text = format!("{{ {cells} {meet} {read} }}");
            let definition = |lanes: &[Vec<u64>]| {
                let from = |i: usize| if i < 64 { i } else { i - 64 };
                (0..lanes.len())
                    .map(|i| Some(lanes[from(i)].clone()))
                    .collect()
            };
            rows.push(cluster_row(
                text,
                &[Kind::I32],
                &[Kind::I32],
                Compare::Bits,
                definition,
            ));
        }
        let vote = "{ .reg .pred p, q; setp.lt.s32 p, $0, 0;";
        type Vote = fn(usize) -> u64;
        let votes: [(&str, &str, Vote); 3] = [
            ("popc", "u32 $d0, 0, p; }", |count| count as u64),
            ("and", "pred q, 0, p; selp.b32 $d0, 1, 0, q; }", |count| {
                u64::from(count == 128)
            }),
            (
                "or",
                "pred q, 1, 128, p; selp.b32 $d0, 1, 0, q; }",
                |count| u64::from(count > 0),
            ),
        ];
        for (op, end, result) in votes {
            let text = format!("{vote} {barrier}.red.{op}{aligned}.{end}");
            let definition = move |lanes: &[Vec<u64>]| {
                let count = lanes.iter().filter(|v| (v[0] as i32) < 0).count();
                vec![Some(vec![result(count)]); lanes.len()]
            };
            rows.push(cluster_row(
                text,
                &[Kind::I32],
                &[Kind::I32],
                Compare::Bits,
                definition,
            ));
        }
    }
    check(Arch::Sm80, rows);
}
