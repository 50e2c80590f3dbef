//! The kernels agree bit for bit, whatever vectors they are made of.

use super::*;
use crate::params::attention::{Dropout, Layout};

/// Output, log-sum-exp and all gradients with these kernels. `given` is what the backward pass has as the log-sum-exp of
/// row 7.
fn run(kernels: &Kernels<f32>, given: Option<f32>) -> Vec<Vec<f32>> {
    let (queries, keys, dim) = (53, 150, 24);
    let (of_queries, of_keys) = (
        Layout::contiguous(queries, 4, dim),
        Layout::contiguous(keys, 2, dim),
    );
    let geometry = Geometry {
        batch: 1,
        heads: 4,
        kv_heads: 2,
        queries,
        keys,
        head_dim: dim,
        packed: None,
        bias: Some([1, 1]),
        q: of_queries,
        k: of_keys,
        v: of_keys,
        out: of_queries,
    };
    let dropout = Some(Dropout {
        probability: 0.2,
        seed: 3,
    });
    let params = Attention {
        causal: true,
        softcap: 2.0,
        dropout,
        ..Attention::default()
    };
    let values = |len: usize, seed: usize| -> Vec<f32> {
        (0..len).map(|i| ((i * 31 + seed) as f32).sin()).collect()
    };
    let (q, k, v) = (
        values(queries * 4 * dim, 1),
        values(keys * 2 * dim, 2),
        values(keys * 2 * dim, 3),
    );
    let (bias, dout) = (values(queries * keys, 4), values(q.len(), 5));
    let mask = Mask {
        bias: Some(&bias[..]),
        ..Mask::default()
    };
    let qkv = Qkv::Separate {
        q: &q[..],
        k: &k[..],
        v: &v[..],
    };
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; 4 * queries]);
    forward_with(kernels, &geometry, &params, qkv, &mask, &mut out, &mut lse).unwrap();
    lse[7] = given.unwrap_or(lse[7]);
    let inputs = Inputs {
        qkv,
        mask,
        out: &out,
        lse: &lse,
        dout: &dout,
        dlse: None,
    };
    let layouts = GradientLayouts {
        dout: of_queries,
        dq: of_queries,
        dk: of_keys,
        dv: of_keys,
    };
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let mut dbias = vec![0.0; bias.len()];
    let gradients = Qkv::Separate {
        q: &mut dq[..],
        k: &mut dk[..],
        v: &mut dv[..],
    };
    backward_with(
        kernels,
        &geometry,
        &layouts,
        &params,
        &inputs,
        gradients,
        Some(&mut dbias),
    )
    .unwrap();
    vec![out, lse, dq, dk, dv, dbias]
}

fn bits(results: Vec<Vec<f32>>) -> Vec<u32> {
    results.into_iter().flatten().map(f32::to_bits).collect()
}

#[test]
fn the_vectors_of_a_processor_change_no_bit() {
    let best = bits(run(&kernels(), None));
    assert!(best.iter().any(|&bits| bits != 0));
    assert_eq!(bits(run(&portable(), None)), best);
}

#[test]
fn a_log_sum_exp_that_is_no_number_breaks_its_row() {
    for kernels in [kernels(), portable()] {
        for given in [f32::INFINITY, f32::NAN] {
            let results = run(&kernels, Some(given));
            let bad = |part: usize| results[part].iter().filter(|x| x.is_nan()).count();
            // One query of 24 elements sees 105 keys.
            assert_eq!([2, 3, 4, 5].map(bad), [24, 105 * 24, 105 * 24, 105]);
        }
    }
}
