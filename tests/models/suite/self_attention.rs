//! The self-attention layer against `torch.nn.MultiheadAttention`.

use super::golden::{Golden, everywhere};
use ocelli::DType;
use ocelli::models::layers::{MultiheadAttention, Projection, SelfAttention};
use ocelli::ops::AttentionMask;

const WIDTH: usize = 48;
const HEADS: usize = 3;

fn golden() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/self_attention.safetensors"
    ))
}

#[test]
fn self_attention_is_torchs() {
    everywhere(|target, dtype| {
        let golden = golden();
        let mut weights = golden.weights(target, dtype);
        let names = Projection::torch("attention");
        let layer = SelfAttention::load(&mut weights, &names, "attention.out_proj", WIDTH, HEADS);
        let layer = layer.unwrap();
        weights.finish().unwrap();
        let x = golden.input("x", target, dtype);
        let kv_lengths = golden.input("lengths", target, dtype);
        let mask = AttentionMask {
            kv_lengths: Some(&kv_lengths),
            ..AttentionMask::default()
        };
        let full = AttentionMask::default();
        golden.check("self", &layer.forward(&x, None, &full).unwrap(), target);
        golden.check(
            "residual",
            &layer.forward(&x, Some(&x), &full).unwrap(),
            target,
        );
        golden.check("masked", &layer.forward(&x, None, &mask).unwrap(), target);
        let rows = golden.input("rows", target, dtype);
        let probabilities = layer.probabilities(&x, &rows, &mask).unwrap();
        assert_eq!(probabilities.dtype(), DType::F32);
        // Probabilities are f32 whatever the type of the projections, whose error they have.
        golden.check(
            "probabilities",
            &probabilities.to_dtype(dtype).unwrap(),
            target,
        );
    });
}

#[test]
fn attention_to_another_sequence_is_torchs() {
    everywhere(|target, dtype| {
        let golden = golden();
        let mut weights = golden.weights(target, dtype);
        let names = Projection::torch("attention");
        let out = "attention.out_proj";
        let layer = MultiheadAttention::load(&mut weights, &names, out, WIDTH, HEADS).unwrap();
        weights.finish().unwrap();
        let [x, memory] = ["x", "memory"].map(|name| golden.input(name, target, dtype));
        let out = layer.forward(&x, &memory, None, &AttentionMask::default());
        golden.check("cross", &out.unwrap(), target);
    });
}
