//! The kernels for compute capability 9.0: the bytes they move, their products, their plans.

use super::forward_budget::{hold, launches};
use super::forward_run::agree;
use super::problem::{Problem, causal, dense, simulated};
use crate::device::Cuda;
use half::{bf16, f16};
use ocelli::DType;
use ocelli::cuda::Properties;
use ocelli::cuda::attention::forward::Plan;
use ocelli::params::Attention;
use ocelli::params::attention::Dropout;

pub fn is_hopper(device: &Cuda) -> bool {
    device.context.properties().compute_capability == (9, 0)
}

fn hoppers() -> impl Iterator<Item = &'static Cuda> {
    simulated().filter(|device| is_hopper(device))
}

/// Columns, queries of a tile, keys of a tile.
const TILES: [[usize; 3]; 3] = [[64, 192, 128], [128, 128, 128], [256, 128, 80]];
/// Queries of a warpgroup.
const GROUP: usize = 64;

/// Multiplications and additions of a warpgroup's 64 queries and so many keys.
fn operations(keys: usize, head_dim: usize) -> u64 {
    4 * (GROUP * keys * head_dim) as u64
}

#[test]
fn tiles_are_read_once_a_block() {
    for device in hoppers() {
        for [head_dim, rows, tile_keys] in TILES {
            let (queries, keys) = (256, 448);
            let problem = dense(1, 1, queries, keys, head_dim);
            let reports = launches::<bf16>(device, &problem, &format!("_sm90_d{head_dim}_"));
            let bytes = |tokens: usize| tokens * head_dim * 2;
            let copied = bytes(queries) + queries.div_ceil(rows) * 2 * bytes(keys);
            hold(&reports[0], copied, bytes(queries) + queries * 4);
            assert_eq!(reports[0].counters.async_copies.requests, 0);
            assert_eq!(reports[0].counters.mma_instructions, 0);
            let done = reports[0].counters.tensor_flops;
            let padded = keys.next_multiple_of(tile_keys);
            let groups = (queries / GROUP) as u64;
            assert_eq!(done, groups * operations(padded, head_dim), "{head_dim}");
        }
    }
}

#[test]
fn tiles_that_nobody_sees_are_left_out() {
    for device in hoppers() {
        for [head_dim, rows, tile_keys] in TILES {
            let tokens = 448;
            let problem = Problem {
                params: causal(),
                ..dense(1, 1, tokens, tokens, head_dim)
            };
            let report = &launches::<f16>(device, &problem, &format!("_sm90_d{head_dim}_"))[0];
            let bytes = |tokens: usize| tokens * head_dim * 2;
            let copied: usize = (1..=tokens.div_ceil(rows))
                .map(|tile| (tile * rows).next_multiple_of(tile_keys).min(tokens))
                .sum();
            let written = bytes(tokens) + tokens * 4;
            hold(report, bytes(tokens) + 2 * bytes(copied), written);
            let seen = (1..=tokens / GROUP).map(|i| (i * GROUP).next_multiple_of(tile_keys));
            let done = report.counters.tensor_flops;
            assert_eq!(done, operations(seen.sum(), head_dim), "{head_dim}");
        }
    }
}

#[test]
fn a_head_of_few_keys_is_read_once() {
    for device in hoppers() {
        for (tokens, padded) in [(197, 208), (257, 272)] {
            // Enough heads that one block a head fills the device.
            let problem = dense(1, 132, tokens, tokens, 64);
            let method = format!("_short_sm90_k{padded}_");
            let report = &launches::<bf16>(device, &problem, &method)[0];
            let bytes = 132 * tokens * 64 * 2;
            // A head's log-sum-exps are no multiple of 32 bytes.
            hold(report, 3 * bytes, bytes + 132 * (tokens * 4 + 64));
            let groups = tokens.div_ceil(GROUP);
            let done = report.counters.tensor_flops;
            assert_eq!(done, 132 * groups as u64 * operations(padded, 64));
        }
    }
}

#[test]
fn few_keys_under_every_length() {
    for device in hoppers() {
        for (keys, lengths) in [(131, [131, 130]), (197, [64, 0]), (272, [999, 271])] {
            let problem = Problem {
                kv_lengths: Some(lengths.to_vec()),
                kv_heads: 1,
                // Behind the second sequence's length; the value alone, and the key too.
                nan_keys: vec![2 * keys - 1],
                ..dense(2, 3, 130, keys, 56)
            };
            let outcome = agree::<f16>(device, &problem);
            assert!(outcome.plan.contains("_short_sm90_"), "{}", outcome.plan);
        }
        // More units than the device has multiprocessors: a block takes several, of a tile or more.
        let outcome = agree::<bf16>(device, &dense(50, 3, 70, 140, 64));
        assert!(
            outcome.plan.contains("_short_sm90_k208_"),
            "{}",
            outcome.plan
        );
    }
}

#[test]
fn blocks_that_stay_take_many_tiles() {
    for device in hoppers() {
        for head_dim in [64, 128, 256] {
            // 150 heads of two tiles, more than twice the multiprocessors.
            let problem = Problem {
                params: causal(),
                ..dense(1, 150, 193, 333, head_dim)
            };
            let outcome = agree::<bf16>(device, &problem);
            let method = format!("_sm90_d{head_dim}_");
            assert!(outcome.plan.contains(&method), "{}", outcome.plan);
        }
    }
}

/// A block that stays computes one sequence, then one of no keys, then another while the next queries come: at 256
/// columns outputs leave through the queries' place.
#[test]
fn blocks_that_stay_pass_over_sequences_without_keys() {
    for device in hoppers() {
        for head_dim in [128, 256] {
            let lengths = (0..300).map(|i| if (132..264).contains(&i) { 0 } else { 80 });
            let problem = Problem {
                kv_lengths: Some(lengths.collect()),
                ..dense(300, 1, 24, 80, head_dim)
            };
            let outcome = agree::<f16>(device, &problem);
            let method = format!("_sm90_d{head_dim}_");
            assert!(outcome.plan.contains(&method), "{}", outcome.plan);
        }
    }
}

/// Without a sequence, all tokens are of none: their outputs are zeros, and those of dense tensors do not exist.
#[test]
fn no_sequence_at_all() {
    for device in simulated() {
        for head_dim in [64, 128] {
            let packed = Problem {
                offsets: Some([vec![0], vec![0]]),
                totals: [5, 300],
                ..dense(0, 2, 5, 300, head_dim)
            };
            agree::<bf16>(device, &packed);
            agree::<bf16>(device, &dense(0, 2, 40, 300, head_dim));
        }
    }
}

fn plan_of(problem: &Problem, dtype: DType) -> String {
    let h200 = Properties::new((9, 0), 132, 227 * 1024);
    let plan = Plan::new(&h200, &problem.geometry(), &problem.params, dtype);
    plan.unwrap().to_string()
}

#[test]
fn a_plan_says_why_it_leaves_the_kernels_out() {
    let vit = plan_of(&dense(64, 12, 197, 197, 64), DType::BF16);
    assert_eq!(
        vit,
        "attention forward [64, 197, 12, 64] on [64, 197, 12, 64] bf16\n  \
         attention_forward_short_sm90_k208_bf16 <<<[132, 1, 1], [384, 1, 1], 155776 B>>>: one tile of \
         208 keys (no running softmax), 2 warpgroups take 64 queries at a time, parts of a head: 1 (to \
         fill the GPU)"
    );
    // One image: as many blocks as there are tiles.
    let single = plan_of(&dense(1, 12, 197, 197, 64), DType::BF16);
    assert!(single.contains("<<<[48, 1, 1], [384, 1, 1]"), "{single}");
    let long = Problem {
        params: causal(),
        ..dense(2, 16, 8192, 8192, 128)
    };
    let long = plan_of(&long, DType::F16);
    assert_eq!(
        long,
        "attention forward [2, 8192, 16, 128] on [2, 8192, 16, 128] f16\n  \
         attention_forward_sm90_d128_f16 <<<[132, 1, 1], [384, 1, 1], 196872 B>>>: 2 warpgroups of 64 \
         queries each (registers), 128 keys a tile copied by one warp (shared memory), scores of one \
         tile beside the product of the last, 2048 tiles in turn, head by head (L2 cache)"
    );
    let reason = |problem: &Problem, dtype, reason: &str| {
        let plan = plan_of(problem, dtype);
        assert!(plan.contains(reason), "{plan}");
    };
    let dropout = Attention {
        dropout: Some(Dropout {
            probability: 0.5,
            seed: 1,
        }),
        ..Default::default()
    };
    let wide = Problem {
        params: dropout,
        ..dense(1, 1, 500, 500, 160)
    };
    let why = "; not the kernels for sm_90a: no registers for dropout beside 256 columns";
    reason(&wide, DType::F16, why);
    reason(&dense(8, 64, 50, 50, 64), DType::F16, "sm_90a: few keys");
    reason(
        &dense(1, 4, 1, 4096, 128),
        DType::F16,
        "sm_90a: few queries",
    );
    let none = dense(1, 1, 300, 0, 64);
    reason(&none, DType::BF16, "sm_90a: few keys");
    let none = dense(1, 1, 300, 0, 128);
    reason(
        &none,
        DType::BF16,
        "no tensor map for these extents or strides",
    );
    // In single precision there is nothing to leave out.
    assert!(!plan_of(&dense(1, 1, 300, 300, 64), DType::F32).contains("sm_90a"));
}
