//! The backward kernels by themselves: every way through them against the definition.

use super::backward_problem::{Problem, agree, dense};
use crate::device::{Cuda, Target, targets};
use half::{bf16, f16};
use ocelli::params::Attention;
use ocelli::params::attention::Dropout;

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

fn causal() -> Attention {
    Attention {
        causal: true,
        ..Default::default()
    }
}

fn dropping() -> Attention {
    let dropout = Dropout {
        probability: 0.3,
        seed: 0x1234_5678_9abc,
    };
    Attention {
        dropout: Some(dropout),
        ..Default::default()
    }
}

fn problems(head_dim: usize) -> Vec<Problem> {
    let window = Attention {
        window_left: Some(20),
        window_right: Some(9),
        ..Default::default()
    };
    vec![
        dense(1, 1, 1, 1, head_dim),
        dense(1, 2, 70, 130, head_dim),
        Problem {
            params: causal(),
            nan_keys: vec![100],
            nan_queries: vec![3],
            ..dense(1, 1, 133, 129, head_dim)
        },
        Problem {
            params: window,
            nan_keys: vec![70, 5],
            nan_gradients: vec![64],
            dlse: true,
            ..dense(1, 1, 140, 150, head_dim)
        },
        Problem {
            params: Attention {
                softcap: 3.0,
                scale: Some(-0.7),
                causal: true,
                ..dropping()
            },
            kv_heads: 2,
            kv_lengths: Some(vec![90, -3]),
            ..dense(2, 4, 66, 99, head_dim)
        },
        Problem {
            params: dropping(),
            fused: true,
            dlse: true,
            ..dense(1, 2, 67, 67, head_dim)
        },
        Problem {
            offsets: Some([vec![3, 5, 4, 70, 200], vec![-1, 40, 80, 80, 99]]),
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
