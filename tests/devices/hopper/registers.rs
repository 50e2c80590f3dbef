//! Registers that some warpgroups hand to others.

use super::launch::{Call, Memory, WARPGROUP, hoppers};

/// Kernels, warpgroups that take registers, and numbers that a thread of these holds.
const SHARES: [(&str, usize, usize); 3] = [
    ("hopper_share_registers_2x240", 2, 208),
    ("hopper_share_registers_2x232", 2, 200),
    ("hopper_share_registers_3x160", 3, 132),
];
const BLOCKS: usize = 3;

#[test]
fn a_thread_holds_more_than_its_equal_share() {
    for hopper in hoppers() {
        for (symbol, groups, live) in SHARES {
            let threads = (groups + 1) * WARPGROUP;
            let numbers: Vec<f32> = (0..live * threads).map(|i| (i * 7 % 101) as f32).collect();
            let from = Memory::holding(&hopper, &numbers);
            let element = |i: usize| {
                let (row, thread) = (i / threads % live, i % threads);
                let column = |row: usize| numbers[row * threads + thread];
                match (thread < groups * WARPGROUP, row) {
                    (true, _) => (live - 1 - row..live).map(column).sum(),
                    (false, 0) => column(0),
                    (false, _) => 0.0,
                }
            };
            let expected: Vec<f32> = (0..BLOCKS * live * threads).map(element).collect();
            for _ in 0..2 {
                let out = Memory::<f32>::unwritten(&hopper, expected.len());
                let call = Call {
                    blocks: BLOCKS,
                    threads,
                    ..Call::warpgroup(symbol, 0)
                };
                hopper.launch(call, &[from.argument(), out.argument()]);
                assert!(out.read() == expected, "{symbol}");
            }
        }
        hopper.check();
    }
}
