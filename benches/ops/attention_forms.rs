//! Attention beside its plain form, at one size each: the next token of a long text, the gradient of a bias, and the
//! probabilities of one query.

use crate::bench::{Bench, Cost, normal};
use ocelli::ops::{
    AttentionMask, Upstream, attention, attention_backward, attention_probabilities,
};
use ocelli::params::{Attention, attention::Qkv};
use ocelli::{DType, Device, Tensor};

fn tensor(device: &Device, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let values = normal(1.0, shape.iter().product(), seed);
    let host = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
    let host = host.to_dtype(dtype).expect("a cast");
    host.to_device(device).expect("a copy")
}

/// The greatest difference to the same call on the CPU, which the tests hold to the reference.
fn check(here: &Tensor, expected: &Tensor, allowed: f32) {
    let values = |tensor: &Tensor| {
        let host = tensor.to_device(&Device::Cpu).expect("a copy");
        let host = host.to_dtype(DType::F32).expect("a cast");
        host.to_vec::<f32>().expect("values")
    };
    for (a, b) in values(here).iter().zip(values(expected)) {
        assert!((a - b).abs() <= allowed, "{a} for {b}");
    }
}

pub fn run(bench: &mut Bench) {
    decode(bench);
    bias(bench);
    probabilities(bench);
}

/// One query of 32 heads, four of which share each of 8 key heads.
fn decode(bench: &mut Bench) {
    let (dtype, keys) = (DType::F16, bench.size(8192));
    let elements = 8 * keys * 128;
    let cost = Cost {
        bytes: 2 * elements * dtype.size(),
        operations: 4.0 * (4 * elements) as f64,
    };
    let case = "[1, 1 of 8192, 32 of 8, 128] f16 forward";
    bench.costly_case("attention", case, cost, [false, true], |device| {
        let operands = |device: &Device| {
            [(1, 1, 32), (2, keys, 8), (3, keys, 8)]
                .map(|(seed, tokens, heads)| tensor(device, &[1, tokens, heads, 128], dtype, seed))
        };
        let call = |[q, k, v]: &[Tensor; 3]| {
            let (mask, params) = (AttentionMask::default(), Attention::default());
            let attended = attention(Qkv::Separate { q, k, v }, &mask, &params);
            attended.expect("an output").out
        };
        let here = operands(device);
        check(&call(&here), &call(&operands(&Device::Cpu)), 2e-3);
        move || drop(call(&here))
    });
}

/// A vision transformer's layer with a learnt bias, and its gradient.
fn bias(bench: &mut Bench) {
    let (dtype, tokens) = (DType::BF16, bench.size(577));
    let (batch, heads, dim) = (8, 12, 64);
    let elements = batch * tokens * heads * dim;
    let cost = Cost {
        bytes: (8 * elements + 2 * heads * tokens * tokens) * dtype.size(),
        operations: 10.0 * (elements * tokens) as f64,
    };
    let case = "[8, 577, 12, 64] bf16 backward of a bias, too";
    bench.costly_case("attention", case, cost, [false, true], |device| {
        let operands = |device: &Device| {
            [
                tensor(device, &[batch, tokens, 3, heads, dim], dtype, 1),
                tensor(device, &[batch, tokens, heads, dim], dtype, 2),
                tensor(device, &[1, heads, tokens, tokens], dtype, 3),
            ]
        };
        let [qkv, dout, bias] = operands(device);
        let params = Attention::default();
        let mask = AttentionMask {
            bias: Some(&bias),
            ..AttentionMask::default()
        };
        let attended = attention(Qkv::Packed(&qkv), &mask, &params).expect("an output");
        move || {
            let mask = AttentionMask {
                bias: Some(&bias),
                ..AttentionMask::default()
            };
            let upstream = Upstream {
                dout: &dout,
                dlse: None,
                dbias: true,
            };
            let gradient =
                attention_backward(Qkv::Packed(&qkv), &mask, &params, &attended, &upstream);
            drop(gradient.expect("a gradient"));
        }
    });
}

/// What the class token attends to.
fn probabilities(bench: &mut Bench) {
    let (dtype, tokens) = (DType::BF16, bench.size(577));
    let (batch, heads, dim) = (64, 12, 64);
    // The keys, and a number each.
    let bytes = batch * heads * tokens * (dim * dtype.size() + 4);
    let case = "[64, 577, 12, 64] bf16 of one query";
    bench.case("attention_probabilities", case, bytes, |device| {
        let operands = |device: &Device| {
            let rows = Tensor::from_vec(vec![0], &[1], device).expect("rows");
            let shape = [batch, tokens, 3, heads, dim];
            (tensor(device, &shape, dtype, 1), rows)
        };
        let call = |(qkv, rows): &(Tensor, Tensor)| {
            let (mask, params) = (AttentionMask::default(), Attention::default());
            attention_probabilities(Qkv::Packed(qkv), rows, &mask, &params).expect("probabilities")
        };
        let here = operands(device);
        check(&call(&here), &call(&operands(&Device::Cpu)), 1e-5);
        move || drop(call(&here))
    });
}
