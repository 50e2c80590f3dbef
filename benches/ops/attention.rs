//! Attention at the shapes of vision transformers, and of long sequences on a GPU. Operations by FlashAttention's
//! convention: `4 B H Nq Nk D` forward, 2.5 times that backward, half of it where causal.

use crate::bench::{Bench, Cost};
use ocelli::ops::{Attended, AttentionMask, Upstream, attention, attention_backward};
use ocelli::params::{Attention, attention::Qkv};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};

/// Batch, heads, tokens, head dimension, causal, and whether a processor is asked, too.
const SHAPES: [(usize, usize, usize, usize, bool, bool); 15] = [
    (1, 12, 197, 64, false, true),
    (8, 12, 197, 64, false, true),
    (64, 12, 197, 64, false, false),
    (1, 12, 257, 64, false, true),
    (8, 12, 257, 64, false, true),
    (64, 16, 257, 64, false, false),
    (1, 12, 577, 64, false, true),
    (8, 12, 577, 64, false, true),
    (64, 16, 577, 64, false, false),
    (8, 6, 1370, 64, false, false),
    (16, 32, 1024, 64, false, false),
    (1, 32, 16384, 64, false, false),
    (4, 16, 4096, 128, false, false),
    (1, 16, 16384, 128, false, false),
    (1, 16, 16384, 128, true, false),
];

/// A projection `[B, N, 3, H, D]` and a gradient `[B, N, H, D]`.
fn inputs(
    device: &Device,
    [batch, tokens, heads, dim]: [usize; 4],
    dtype: DType,
) -> (Tensor, Tensor) {
    let tensor = |shape: &[usize], seed: u64| {
        let values = Data::Spread(1.0).values(shape.iter().product(), seed);
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
        tensor
            .to_dtype(dtype)
            .expect("a cast")
            .to_device(device)
            .expect("a copy")
    };
    (
        tensor(&[batch, tokens, 3, heads, dim], 1),
        tensor(&[batch, tokens, heads, dim], 2),
    )
}

fn forward(qkv: &Tensor, params: &Attention) -> Attended {
    attention(Qkv::Packed(qkv), &AttentionMask::default(), params).expect("an output")
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(qkv: &Tensor, params: &Attention) {
    let values = |qkv: &Tensor| {
        let out = forward(qkv, params)
            .out
            .to_device(&Device::Cpu)
            .expect("a copy");
        out.to_dtype(DType::F32)
            .expect("a cast")
            .to_vec::<f32>()
            .expect("an output")
    };
    let here = values(qkv);
    let expected = values(&qkv.to_device(&Device::Cpu).expect("a copy"));
    let error = here
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(error <= 0.02, "{error}");
}

pub fn run(bench: &mut Bench) {
    for (batch, heads, tokens, dim, causal, on_cpu) in SHAPES {
        let tokens = bench.size(tokens).max(3);
        let params = Attention {
            causal,
            ..Attention::default()
        };
        for dtype in [DType::F32, DType::BF16] {
            let elements = batch * tokens * heads * dim;
            let operations = 4.0 * (elements * tokens) as f64 / if causal { 2.0 } else { 1.0 };
            let mask = if causal { " causal" } else { "" };
            let case = format!("[{batch}, {tokens}, {heads}, {dim}]{mask} {dtype}");
            let shape = [batch, tokens, heads, dim];
            // f32 on a GPU is for its error, not for its speed.
            let devices = match dtype {
                DType::F32 => [on_cpu, false],
                _ => [on_cpu, true],
            };
            let rows = 4 * batch * heads * tokens;
            let cost = Cost {
                bytes: 4 * elements * dtype.size() + rows,
                operations,
            };
            bench.costly_case(
                "attention",
                &format!("{case} forward"),
                cost,
                devices,
                |device| {
                    let (qkv, _) = inputs(device, shape, dtype);
                    check(&qkv, &params);
                    move || drop(forward(&qkv, &params))
                },
            );
            let cost = Cost {
                bytes: 8 * elements * dtype.size() + rows,
                operations: 2.5 * operations,
            };
            bench.costly_case(
                "attention",
                &format!("{case} backward"),
                cost,
                devices,
                |device| {
                    let (qkv, dout) = inputs(device, shape, dtype);
                    let attended = forward(&qkv, &params);
                    move || {
                        let upstream = Upstream {
                            dout: &dout,
                            dlse: None,
                            dbias: false,
                        };
                        let (projection, mask) = (Qkv::Packed(&qkv), AttentionMask::default());
                        let gradient =
                            attention_backward(projection, &mask, &params, &attended, &upstream);
                        drop(gradient.expect("a gradient"));
                    }
                },
            );
        }
    }
}
