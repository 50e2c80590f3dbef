//! Attention at the shapes of vision transformers, and of long sequences on a GPU. Operations by FlashAttention's
//! convention: `4 B H Nq Nk D` forward, 2.5 times that backward, half of it where causal.

use crate::bench::{Bench, Cost, normal};
use ocelli::ops::{Attended, AttentionMask, Upstream, attention, attention_backward};
use ocelli::params::{Attention, attention::Qkv};
use ocelli::{DType, Device, Tensor};

/// One shape.
struct Shape {
    batch: usize,
    heads: usize,
    tokens: usize,
    dim: usize,
    causal: bool,
    /// Whether the CPU is asked, too.
    on_cpu: bool,
}

/// Vision transformers: small, base and large, of images of 224 (patches of 16 and of 14), 384 and 518 pixels; then long
/// sequences.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for batch in [1, 8, 64] {
        for tokens in [197, 257, 577, 1370] {
            for heads in [6, 12, 16] {
                shapes.push(Shape {
                    batch,
                    heads,
                    tokens,
                    dim: 64,
                    causal: false,
                    on_cpu: batch == 1 || batch == 8 && heads == 12 && tokens < 1000,
                });
            }
        }
    }
    let long = [
        (16, 32, 1024, 64, false),
        (1, 32, 16384, 64, false),
        (1, 32, 16384, 64, true),
        (4, 16, 4096, 128, false),
        (1, 16, 16384, 128, false),
        (1, 16, 16384, 128, true),
        (1, 8, 16384, 256, false),
    ];
    shapes.extend(long.map(|(batch, heads, tokens, dim, causal)| Shape {
        batch,
        heads,
        tokens,
        dim,
        causal,
        on_cpu: false,
    }));
    shapes
}

/// A projection `[B, N, 3, H, D]` and a gradient `[B, N, H, D]`.
fn inputs(
    device: &Device,
    [batch, tokens, heads, dim]: [usize; 4],
    dtype: DType,
) -> (Tensor, Tensor) {
    let tensor = |shape: &[usize], seed: u64| {
        let values = normal(1.0, shape.iter().product(), seed);
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

/// The last sequence's answer against that of the CPU, which the tests hold to the reference.
fn check(qkv: &Tensor, params: &Attention) {
    let last = |tensor: &Tensor| {
        let batch = tensor.shape()[0];
        let last = tensor.slice(batch - 1..batch).expect("a sequence");
        last.to_device(&Device::Cpu).expect("a copy")
    };
    let values = |out: &Tensor| {
        let out = out.to_dtype(DType::F32).expect("a cast");
        out.to_vec::<f32>().expect("an output")
    };
    let here = values(&last(&forward(qkv, params).out));
    let expected = values(&forward(&last(qkv), params).out);
    let error = here
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(error <= 0.02, "{error}");
}

pub fn run(bench: &mut Bench) {
    for shape in shapes() {
        for dtype in [DType::F32, DType::BF16] {
            directions(bench, &shape, dtype);
        }
    }
}

fn directions(bench: &mut Bench, shape: &Shape, dtype: DType) {
    let &Shape {
        batch,
        heads,
        dim,
        causal,
        on_cpu,
        ..
    } = shape;
    let tokens = bench.size(shape.tokens).max(3);
    let params = Attention {
        causal,
        ..Attention::default()
    };
    let elements = batch * tokens * heads * dim;
    let operations = 4.0 * (elements * tokens) as f64 / if causal { 2.0 } else { 1.0 };
    let mask = if causal { " causal" } else { "" };
    let case = format!("[{batch}, {}, {heads}, {dim}]{mask} {dtype}", shape.tokens);
    let extents = [batch, tokens, heads, dim];
    // f32 on a GPU is for its error, not for its speed: one shape tells.
    let is_told = [batch, shape.tokens, heads] == [8, 577, 12];
    let devices = [on_cpu, dtype != DType::F32 || is_told];
    let rows = 4 * batch * heads * tokens;
    let cost = Cost {
        bytes: 4 * elements * dtype.size() + rows,
        operations,
    };
    let name = format!("{case} forward");
    bench.costly_case("attention", &name, cost, devices, |device| {
        let (qkv, _) = inputs(device, extents, dtype);
        check(&qkv, &params);
        move || drop(forward(&qkv, &params))
    });
    let cost = Cost {
        bytes: 8 * elements * dtype.size() + rows,
        operations: 2.5 * operations,
    };
    let name = format!("{case} backward");
    bench.costly_case("attention", &name, cost, devices, |device| {
        let (qkv, dout) = inputs(device, extents, dtype);
        let attended = forward(&qkv, &params);
        move || {
            let upstream = Upstream {
                dout: &dout,
                dlse: None,
                dbias: false,
            };
            let (projection, mask) = (Qkv::Packed(&qkv), AttentionMask::default());
            let gradient = attention_backward(projection, &mask, &params, &attended, &upstream);
            drop(gradient.expect("a gradient"));
        }
    });
}
