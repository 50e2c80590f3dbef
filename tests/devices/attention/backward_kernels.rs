//! The backward kernels by themselves: every way through them against the definition.

use super::backward_run::agree;
use super::problem::{Problem, all_rules, causal, dense, devices, dropping, odd_offsets, window};
use half::{bf16, f16};
use ocelli::DType;
use ocelli::cuda::Properties;
use ocelli::cuda::attention::backward::Plan;

fn problems(head_dim: usize) -> Vec<Problem> {
    vec![
        dense(1, 1, 1, 1, head_dim),
        dense(1, 2, 70, 130, head_dim),
        Problem {
            params: causal(),
            nan_keys: vec![100],
            nan_queries: vec![3],
            infinite_rows: vec![2, 20],
            ..dense(1, 1, 133, 129, head_dim)
        },
        Problem {
            params: window(),
            nan_keys: vec![70, 5],
            nan_gradients: vec![64],
            infinite_queries: vec![99],
            dlse: true,
            ..dense(1, 1, 140, 150, head_dim)
        },
        Problem {
            params: all_rules(),
            kv_heads: 2,
            bias: Some([1, 4]),
            kv_lengths: Some(vec![90, -3]),
            infinite_rows: vec![1, 70],
            ..dense(2, 4, 66, 99, head_dim)
        },
        Problem {
            params: dropping(),
            fused: true,
            dlse: true,
            ..dense(1, 2, 67, 67, head_dim)
        },
        Problem {
            bias: Some([2, 1]),
            ..dense(2, 2, 130, 70, head_dim)
        },
        Problem {
            offsets: Some(odd_offsets()),
            totals: [90, 95],
            kv_lengths: Some(vec![100, 17, 5, 9]),
            params: causal(),
            kv_heads: 1,
            ..dense(4, 2, 60, 50, head_dim)
        },
    ]
}

fn all_agree(head_dim: usize) {
    for device in devices() {
        for problem in problems(head_dim) {
            agree::<f16>(device, &problem);
            agree::<bf16>(device, &problem);
            agree::<f32>(device, &problem);
        }
    }
}

#[test]
fn every_way_agrees_with_the_definition_at_64() {
    all_agree(8);
    all_agree(64);
}

#[test]
fn every_way_agrees_with_the_definition_at_128() {
    all_agree(72);
    all_agree(128);
}

#[test]
fn every_way_agrees_with_the_definition_at_256() {
    all_agree(136);
    all_agree(256);
}

#[test]
fn short_sequences_agree_with_the_definition() {
    let short = |problem: Problem| Problem {
        multiprocessors: 1,
        ..problem
    };
    let problems = [
        short(dense(1, 1, 1, 1, 64)),
        short(dense(1, 2, 197, 197, 64)),
        short(Problem {
            kv_heads: 2,
            dlse: true,
            kv_lengths: Some(vec![50, 23]),
            nan_queries: vec![3],
            nan_keys: vec![10],
            nan_gradients: vec![80],
            ..dense(2, 4, 67, 50, 40)
        }),
        short(Problem {
            fused: true,
            ..dense(1, 2, 256, 256, 8)
        }),
        short(Problem {
            kv_lengths: Some(vec![133, 0]),
            infinite_queries: vec![65],
            infinite_rows: vec![7, 80],
            ..dense(2, 2, 67, 140, 64)
        }),
        short(Problem {
            kv_heads: 2,
            dlse: true,
            kv_lengths: Some(vec![50, 133]),
            nan_keys: vec![60, 275],
            nan_queries: vec![140],
            ..dense(2, 4, 130, 140, 40)
        }),
        short(Problem {
            offsets: Some([vec![3, 5, 4, 170, 400], vec![-1, 140, 180, 180, 299]]),
            totals: [190, 295],
            kv_lengths: Some(vec![200, 17, 5, 99]),
            nan_keys: vec![150, 160, 290],
            nan_queries: vec![1, 172],
            kv_heads: 1,
            ..dense(4, 2, 200, 180, 64)
        }),
        short(Problem {
            offsets: Some(odd_offsets()),
            totals: [90, 95],
            kv_lengths: Some(vec![100, 17, 5, 9]),
            kv_heads: 1,
            ..dense(4, 2, 60, 50, 64)
        }),
    ];
    for device in devices() {
        for problem in &problems {
            for reports in [
                agree::<f16>(device, problem),
                agree::<bf16>(device, problem),
            ] {
                // A GPU tells nothing of its launches.
                assert_eq!(reports.is_empty(), device.simulator.is_none());
                if let Some(report) = reports.get(1) {
                    let kernel = &report.kernel;
                    assert!(kernel.starts_with("attention_backward_short_"), "{kernel}");
                }
            }
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((9, 0), 132, 227 * 1024);
    let plan = |problem: &Problem, dtype| {
        let (geometry, gradients) = (problem.geometry(), problem.gradients());
        let dbias = problem.bias.is_some();
        Plan::new(&gpu, &geometry, &gradients, &problem.params, dtype, dbias)
    };
    let vit = dense(64, 12, 197, 197, 64);
    assert_eq!(
        plan(&vit, DType::BF16).unwrap().to_string(),
        "attention backward [64, 197, 12, 64] on [64, 197, 12, 64] bf16\n  \
         attention_backward_rows_bf16 <<<[1536, 1, 1], [128, 1, 1], 0 B>>>: 128 queries a block (a \
         group of statistics a block)\n  \
         attention_backward_short_sm90_bf16 <<<[768, 1, 1], [384, 1, 1], 199680 B>>>: 256 keys a \
         block at most, 128 queries a tile (all keys of a head in a block: each tensor is moved \
         once)"
    );
    let ampere = Properties::new((8, 0), 108, 163 * 1024);
    let (geometry, gradients) = (vit.geometry(), vit.gradients());
    let of_ampere = Plan::new(
        &ampere,
        &geometry,
        &gradients,
        &vit.params,
        DType::BF16,
        false,
    );
    assert!(of_ampere.unwrap().to_string().ends_with(
        "attention_backward_short_bf16 <<<[768, 1, 1], [416, 1, 1], 113664 B>>>: 256 keys a block \
         at most, 64 queries a tile (all keys of a head in a block: each tensor is moved once)"
    ));
    let windows = plan(&dense(512, 12, 49, 49, 64), DType::BF16).unwrap();
    assert!(
        windows
            .to_string()
            .contains("; not the kernels for sm_90a: few keys")
    );
    let stages = |problem: &Problem, dtype| {
        let text = plan(problem, dtype).unwrap().to_string();
        let symbol = |line: &str| {
            line.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        text.lines().skip(1).map(symbol).collect::<Vec<_>>()
    };
    let long = Problem {
        bias: Some([1, 1]),
        ..dense(1, 12, 577, 577, 256)
    };
    assert_eq!(
        stages(&long, DType::F16),
        [
            "attention_backward_rows_f16",
            "attention_backward_dk_d256_f16",
            "attention_backward_dv_d256_f16",
            "attention_backward_queries_d256_f16",
            "attention_backward_bias_d256_f16"
        ]
    );
    assert!(stages(&vit, DType::F32)[1].ends_with("keys_d64_f32"));
    let text = plan(&long, DType::F16).unwrap().to_string();
    let first = text.lines().next().unwrap_or_default();
    assert!(
        first.ends_with("; not the kernels for sm_90a: no registers for the sums of 256 columns")
    );
    assert_eq!(
        plan(&dense(1, 32, 16384, 16384, 64), DType::BF16)
            .unwrap()
            .to_string(),
        "attention backward [1, 16384, 32, 64] on [1, 16384, 32, 64] bf16\n  \
         attention_backward_rows_bf16 <<<[4096, 1, 1], [128, 1, 1], 0 B>>>: 128 queries a block (a \
         group of statistics a block)\n  \
         attention_backward_keys_sm90_d64_bf16 <<<[4096, 1, 1], [384, 1, 1], 134200 B>>>: 128 keys \
         a block, 128 queries a tile (sums, scores and slopes fill 192 registers of 240)\n  \
         attention_backward_queries_sm90_d64_bf16 <<<[4096, 1, 1], [384, 1, 1], 131128 B>>>: 128 \
         queries a block, 128 keys a tile (sums, scores and slopes fill 160 registers of 240)"
    );
    for capability in [(8, 0), (8, 9), (10, 0)] {
        let other = Properties::new(capability, 132, 227 * 1024);
        let problem = dense(1, 32, 1000, 1000, 128);
        let (geometry, gradients) = (problem.geometry(), problem.gradients());
        let plan = Plan::new(
            &other,
            &geometry,
            &gradients,
            &problem.params,
            DType::F16,
            false,
        );
        assert!(!plan.unwrap().to_string().contains("sm90"));
    }
    assert!(plan(&vit, DType::I32).is_err());
    let small = Properties::new((7, 5), 40, 64 * 1024);
    let (geometry, gradients) = (long.geometry(), long.gradients());
    let error = Plan::new(
        &small,
        &geometry,
        &gradients,
        &long.params,
        DType::F16,
        false,
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "attention: the GPU's shared memory must be at least 98560 bytes a block, got 65536"
    );
}
