//! The backward kernels for compute capability 9.0: what they move and multiply.

use super::backward_run::agree;
use super::problem::{Problem, causal, dense, simulated};
use half::bf16;
use ocelli::params::Attention;
use ptxsim::report::LaunchReport;

/// The kernel's own part of a symbol: `keys` of `attention_backward_keys_d64_f16`.
fn is_of(report: &LaunchReport, stage: &str) -> bool {
    report
        .kernel
        .starts_with(&format!("attention_backward_{stage}_"))
}

/// Products that wgmma makes: four for keys, three for queries, each of the 64-row tiles that some
/// row of it sees, whole ones at once and others by parts.
#[test]
fn hopper_multiplies_what_is_seen() {
    for device in simulated() {
        if device.context.properties().compute_capability != (9, 0) {
            continue;
        }
        for (head_dim, columns, step) in [(64, [128, 128], [32, 64]), (128, [64, 128], [32, 64])] {
            let tokens = 512;
            for params in [Attention::default(), causal()] {
                let is_causal = params.causal;
                let problem = Problem {
                    params,
                    ..dense(1, 2, tokens, tokens, head_dim)
                };
                let reports = agree::<bf16>(device, &problem);
                for (side, (stage, products)) in
                    [("keys", 4), ("queries", 3)].into_iter().enumerate()
                {
                    let report = reports.iter().find(|report| is_of(report, stage)).unwrap();
                    assert!(report.kernel.contains("_sm90_"), "{}", report.kernel);
                    let pairs = match is_causal {
                        true => seen_pairs(side == 0, tokens, columns[side], step[side]),
                        false => tokens * tokens,
                    };
                    let operations = 2 * products * 2 * pairs * head_dim;
                    let counters = &report.counters;
                    assert_eq!(
                        counters.tensor_flops, operations as u64,
                        "{}",
                        report.kernel
                    );
                    assert_eq!(counters.mma_instructions, 0, "{}", report.kernel);
                    // nvcc's PTX of the queries at 128 loads the accumulators that the first product sets from local memory;
                    // ptxas drops that, its code has no such load.
                    if (stage, head_dim) != ("queries", 128) {
                        assert_eq!(counters.local_bytes, 0, "{}", report.kernel);
                    }
                }
            }
        }
    }
}

/// Where a block holds all keys, five products of whole tiles of 64, and each tensor is moved once.
#[test]
fn hopper_moves_short_sequences_once() {
    for device in simulated() {
        if device.context.properties().compute_capability != (9, 0) {
            continue;
        }
        let (heads, tokens, head_dim) = (2, 197, 64);
        let problem = Problem {
            multiprocessors: 1,
            ..dense(1, heads, tokens, tokens, head_dim)
        };
        let report = &agree::<bf16>(device, &problem)[1];
        assert!(is_of(report, "short_sm90"), "{}", report.kernel);
        let counters = &report.counters;
        let (padded, tensor) = (256, heads * tokens * head_dim * 2);
        let operations = 5 * 2 * heads * padded * padded * head_dim;
        assert_eq!(counters.tensor_flops, operations as u64);
        assert_eq!(counters.shared_stores.conflicts, 0);
        assert_eq!(counters.shared_loads.conflicts, 0);
        let statistics = 2 * heads * padded * 4;
        assert_eq!(counters.bulk_loads.bytes, (4 * tensor + statistics) as u64);
        assert_eq!(counters.global_stores.bytes, 3 * tensor as u64);
    }
}

/// Pairs of 64 rows and a step of columns, of which some see each other under a causal mask.
fn seen_pairs(key_rows: bool, tokens: usize, columns: usize, step: usize) -> usize {
    let mut pairs = 0;
    for row in (0..tokens).step_by(64) {
        for tile in (0..tokens).step_by(columns) {
            let (first, last) = (tile, tile + columns - 1);
            // Keys see the queries from their own on, queries the keys up to their own.
            let whole = if key_rows {
                row + 63 <= first
            } else {
                last <= row
            };
            let step = if whole { columns } else { step };
            for column in (tile..tile + columns).step_by(step) {
                let seen = match key_rows {
                    true => row < column + step,
                    false => column < row + 64,
                };
                pairs += if seen { 64 * step } else { 0 };
            }
        }
    }
    pairs
}
