//! The forward kernels by themselves: every way through them against the definition.

use super::forward_run::agree;
use super::problem::{Problem, all_rules, causal, dense, devices, dropping, odd_offsets, window};
use half::{bf16, f16};
use ocelli::DType;
use ocelli::cuda::Properties;
use ocelli::cuda::attention::forward::Plan;
use ocelli::params::Attention;

/// Problems that a plan gives to this kernel; the list says which.
fn problems() -> Vec<(&'static str, Problem)> {
    let mut list = Vec::new();
    // Two hundred keys and more of 64 columns are more than half of a multiprocessor holds.
    for (method, head_dim, more) in [
        ("short", 8, 0),
        ("short", 64, 0),
        ("d64", 56, 300),
        ("d64", 64, 300),
        ("d128", 72, 0),
        ("d128", 128, 0),
        ("d256", 136, 0),
        ("d256", 256, 0),
    ] {
        let mut add = |problem| list.push((method, problem));
        add(dense(1, 1, 1, 1 + more, head_dim));
        add(Problem {
            infinite_queries: vec![5],
            ..dense(2, 2, 70, 130 + more, head_dim)
        });
        add(Problem {
            params: causal(),
            nan_keys: vec![100 + more, 7],
            nan_queries: vec![3],
            ..dense(1, 1, 133, 129 + more, head_dim)
        });
        add(Problem {
            params: window(),
            nan_keys: vec![70 + more, 5],
            ..dense(1, 1, 140, 150 + more, head_dim)
        });
        add(Problem {
            params: all_rules(),
            kv_heads: 2,
            bias: Some([1, 4]),
            kv_lengths: Some(vec![90, -3]),
            infinite_queries: vec![30],
            ..dense(2, 4, 66, 99 + more, head_dim)
        });
        add(Problem {
            params: dropping(),
            fused: true,
            ..dense(1, 2, 67 + more, 67 + more, head_dim)
        });
        add(Problem {
            offsets: Some(odd_offsets()),
            totals: [90, 95],
            kv_lengths: Some(vec![100, 17, 5, 9]),
            params: causal(),
            kv_heads: 1,
            ..dense(4, 2, 60, 50 + more, head_dim)
        });
    }
    for head_dim in [40, 64, 128, 256] {
        let mut add = |problem| list.push(("split", problem));
        add(dense(1, 1, 1, 515, head_dim));
        add(Problem {
            kv_heads: 2,
            params: causal(),
            infinite_queries: vec![1],
            ..dense(2, 8, 3, 700, head_dim)
        });
        add(Problem {
            kv_heads: 1,
            params: Attention {
                causal: true,
                window_left: Some(300),
                ..Default::default()
            },
            nan_keys: vec![100, 397],
            nan_queries: vec![1],
            ..dense(1, 5, 7, 599, head_dim)
        });
        add(Problem {
            params: all_rules(),
            kv_heads: 2,
            bias: Some([2, 1]),
            kv_lengths: Some(vec![533, 0]),
            ..dense(2, 6, 9, 600, head_dim)
        });
        add(Problem {
            offsets: Some([vec![1, 2, 2, 19], vec![0, 70, 0, 900]]),
            totals: [20, 700],
            params: causal(),
            kv_heads: 1,
            ..dense(3, 2, 16, 600, head_dim)
        });
    }
    list
}

#[test]
fn every_kernel_agrees_with_the_definition() {
    for device in devices() {
        for (i, (method, problem)) in problems().into_iter().enumerate() {
            // The 16-bit types take turns; f32 has one kernel for what is short, long and split.
            let plan = if i % 2 == 0 {
                agree::<f16>(device, &problem).plan
            } else {
                agree::<bf16>(device, &problem).plan
            };
            let for_hopper = method == "short" && plan.contains("_sm90_d64_");
            assert!(
                plan.contains(&format!("_{method}_")) || for_hopper,
                "{plan}"
            );
            if !["short", "split"].contains(&method) {
                let plan = agree::<f32>(device, &problem).plan;
                assert!(plan.contains("_f32 "), "{plan}");
            }
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((8, 0), 132, 227 * 1024);
    let plan = |problem: &Problem, dtype| {
        Plan::new(&gpu, &problem.geometry(), &problem.params, dtype)
            .unwrap()
            .to_string()
    };
    let vit = plan(&dense(64, 12, 197, 197, 64), DType::BF16);
    assert_eq!(
        vit,
        "attention forward [64, 197, 12, 64] on [64, 197, 12, 64] bf16\n  \
         attention_forward_short_d64_bf16 <<<[768, 1, 1], [128, 1, 1], 61440 B>>>: 208 keys stay \
         in shared memory (two blocks fit), 4 warps take 16 queries at a time, blocks a head: 1 (to \
         fill the GPU)"
    );
    // One image: as many blocks as give each warp one tile.
    let single = plan(&dense(1, 12, 197, 197, 64), DType::BF16);
    assert!(single.contains("<<<[48, 1, 1], [128, 1, 1]"), "{single}");
    let large = plan(&dense(8, 12, 577, 577, 64), DType::BF16);
    assert!(
        large.contains("attention_forward_d64_bf16 <<<[480, 1, 1]"),
        "{large}"
    );
    let decode = Problem {
        kv_heads: 8,
        ..dense(1, 32, 1, 8192, 128)
    };
    let plan_of = Plan::new(&gpu, &decode.geometry(), &decode.params, DType::F16).unwrap();
    let text = plan_of.to_string();
    assert!(
        text.contains("attention_split_d128_f16 <<<[128, 1, 1], [128"),
        "{text}"
    );
    assert_eq!(plan_of.workspace_bytes(), 32 * 64 * (128 * 4 + 8));
    assert!(Plan::new(&gpu, &decode.geometry(), &decode.params, DType::I32).is_err());
}
