//! What the forward kernels move and multiply, by the simulator's counters, and their bank conflicts.

use super::forward_hopper::is_hopper;
use super::forward_run::run;
use super::problem::{Problem, causal, dense, simulated};
use crate::device::Cuda;
use half::{bf16, f16};
use ocelli::Float;
use ptxsim::report::LaunchReport;

/// The launches of a problem on the simulator.
pub(super) fn launches<T: Float>(
    device: &Cuda,
    problem: &Problem,
    method: &str,
) -> Vec<LaunchReport> {
    let outcome = run::<T>(device, problem);
    assert!(outcome.plan.contains(method), "{}", outcome.plan);
    outcome.reports
}

/// Bytes that a launch moves are within a twentieth of these that it reads through copies and
/// loads, and writes; and nothing in shared memory waits for a bank.
pub(super) fn hold(report: &LaunchReport, copied: usize, written: usize) {
    let counters = &report.counters;
    let within = |sectors: u64, bytes: usize| sectors * 32 <= bytes as u64 * 21 / 20;
    let [threads, engine] = [counters.async_copies, counters.bulk_loads];
    assert!(
        within(threads.sectors + engine.sectors, copied),
        "{}: {copied} {threads:?} {engine:?}",
        report.kernel,
    );
    assert!(
        within(counters.global_stores.sectors, written),
        "{}: {written} {:?}",
        report.kernel,
        counters.global_stores
    );
    for shared in [
        counters.shared_loads,
        counters.shared_stores,
        counters.matrix_loads,
    ] {
        assert_eq!(shared.conflicts, 0, "{}: {counters:#?}", report.kernel);
    }
}

#[test]
fn tiles_are_read_once_a_block() {
    for device in simulated().filter(|device| !is_hopper(device)) {
        for (head_dim, rows) in [(64, 128), (128, 128), (256, 64)] {
            let (queries, keys) = (256, 448);
            let problem = dense(1, 1, queries, keys, head_dim);
            let reports = launches::<bf16>(device, &problem, &format!("_d{head_dim}_"));
            let bytes = |tokens: usize| tokens * head_dim * 2;
            let copied = bytes(queries) + queries / rows * 2 * bytes(keys);
            hold(&reports[0], copied, bytes(queries) + queries * 4);
            // No tile of keys that a block does not see is read or multiplied.
            let causal = Problem {
                params: causal(),
                ..dense(1, 1, 448, 448, head_dim)
            };
            let report = &launches::<bf16>(device, &causal, &format!("_d{head_dim}_"))[0];
            let tiles = 448usize.div_ceil(rows);
            let seen: usize = (1..=tiles).map(|tile| (tile * rows).min(448)).sum();
            hold(report, bytes(448) + 2 * bytes(seen), bytes(448) + 448 * 4);
            // Warps of 32 or 16 rows leave out what lies behind their last row, 16 keys at a time.
            let warp = rows / 4;
            let pairs: usize = (1..=448 / warp).map(|i| warp * (i * warp)).sum();
            let operations = 4 * pairs as u64 * head_dim as u64;
            let done = report.counters.tensor_flops;
            assert!(
                done <= operations * 21 / 20,
                "{head_dim}: {done} {operations}"
            );
        }
    }
}

#[test]
fn a_short_sequence_is_read_once() {
    for device in simulated() {
        // Enough heads that one block a head fills the device.
        let problem = dense(8, 64, 50, 50, 64);
        let report = &launches::<f16>(device, &problem, "_short_")[0];
        let bytes = 8 * 64 * 50 * 64 * 2;
        // A head's log-sum-exps are 200 bytes at any multiple of 8: seven or eight sectors.
        hold(report, 3 * bytes, bytes + 8 * 64 * 8 * 32);
        // 50 queries and keys are multiplied as 64.
        assert_eq!(report.counters.tensor_flops, 8 * 64 * 4 * 64 * 64 * 64);
    }
}

#[test]
fn split_keys_are_read_once() {
    for device in simulated() {
        // Four query heads share a key head, and one read.
        let problem = Problem {
            kv_heads: 1,
            ..dense(1, 4, 1, 4096, 128)
        };
        let reports = launches::<bf16>(device, &problem, "_split_");
        let parts = 4 * reports[0].grid[0] as usize;
        let keys = 2 * 4096 * 128 * 2;
        let queries = 4 * 128 * 2 * reports[0].grid[0] as usize;
        let partial = 4 * parts * 128 * 4;
        // Each part's weights are 8 bytes of a sector.
        hold(&reports[0], keys + queries, partial + 4 * parts * 32);
        // The peaks once, then both weights.
        let weights = 4 * parts * (4 + 8);
        let read = reports[1].counters.global_loads.bytes as usize;
        assert_eq!(read, partial + weights);
    }
}

#[test]
fn f32_tiles_are_read_once_a_block() {
    for device in simulated() {
        for head_dim in [64, 128, 256] {
            let (queries, keys) = (128, 128);
            let problem = dense(1, 1, queries, keys, head_dim);
            let reports = launches::<f32>(device, &problem, "_f32 ");
            let bytes = |tokens: usize| tokens * head_dim * 4;
            let copied = bytes(queries) + 2 * 2 * bytes(keys);
            hold(&reports[0], copied, bytes(queries) + queries * 4);
        }
    }
}
