//! Moves of matrices: PTX ISA, "ldmatrix", "stmatrix", "movmatrix".

use crate::harness::{check, warp_row};
use crate::values::Kind;
use ptxsim::sim::Arch;

/// Rows of 16 bytes of a block's tile, one a lane; `p` is the lane's own.
const TILE: &str = "{ .shared .align 16 .b8 tile[2048]; .reg .b32 p; mov.u32 p, tile; mad.lo.u32 p, %thread, 16, p;";

/// The 16-bit element at a row and column of matrix `j` whose rows the lanes hold.
fn element(warp: &[Vec<u64>], j: usize, row: usize, column: usize) -> u64 {
    warp[8 * j + row][column / 2] >> (16 * (column % 2)) & 0xFFFF
}

#[test]
pub fn matrix_loads() {
    let mut rows = Vec::new();
    for (count, names) in [(1, "{$d0}"), (2, "{$d0, $d1}"), (4, "{$d0, $d1, $d2, $d3}")] {
        for (suffix, transposed) in [("", false), (".trans", true)] {
            let text = format!(
                "{TILE} st.shared.v4.b32 [p], {{$0, $1, $2, $3}}; bar.warp.sync -1;\n\
                 ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {names}, [p]; }}"
            );
            rows.push(warp_row(
                text,
                &vec![Kind::I32; count],
                &[Kind::I32; 4],
                move |warp| {
                    let register = |lane: usize, j: usize| {
                        let at = |e: usize| {
                            let (row, column) = (lane / 4, 2 * (lane % 4) + e);
                            if transposed {
                                element(warp, j, column, row)
                            } else {
                                element(warp, j, row, column)
                            }
                        };
                        at(0) | at(1) << 16
                    };
                    (0..32)
                        .map(|lane| Some((0..count).map(|j| register(lane, j)).collect()))
                        .collect()
                },
            ));
        }
    }
    check(Arch::Sm80, rows);
}

#[test]
pub fn matrix_stores() {
    let mut rows = Vec::new();
    for (suffix, transposed) in [("", false), (".trans", true)] {
        let text = format!(
            "{TILE} stmatrix.sync.aligned.m8n8.x4{suffix}.shared.b16 [p], {{$0, $1, $2, $3}}; bar.warp.sync -1;\n\
             ld.shared.v4.b32 {{$d0, $d1, $d2, $d3}}, [p]; }}"
        );
        rows.push(warp_row(
            text,
            &[Kind::I32; 4],
            &[Kind::I32; 4],
            move |warp| {
                let word = |lane: usize, word: usize| {
                    let half = |e: usize| {
                        let (row, column) = (lane % 8, 2 * word + e);
                        let (row, column) = if transposed {
                            (column, row)
                        } else {
                            (row, column)
                        };
                        warp[4 * row + column / 2][lane / 8] >> (16 * (column % 2)) & 0xFFFF
                    };
                    half(0) | half(1) << 16
                };
                (0..32)
                    .map(|lane| Some((0..4).map(|w| word(lane, w)).collect()))
                    .collect()
            },
        ));
    }
    check(Arch::Sm90a, rows);
}

#[test]
pub fn transposition() {
    let text = "movmatrix.sync.aligned.m8n8.trans.b16 $d0, $0;";
    let row = warp_row(text, &[Kind::I32], &[Kind::I32], |warp| {
        let half = |row: usize, column: usize| {
            warp[4 * row + column / 2][0] >> (16 * (column % 2)) & 0xFFFF
        };
        let register = |lane: usize| {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            half(column, row) | half(column + 1, row) << 16
        };
        (0..32).map(|lane| Some(vec![register(lane)])).collect()
    });
    check(Arch::Sm80, vec![row]);
}
