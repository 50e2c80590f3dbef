//! Mistakes are named.

use ocelli::ops::{Attended, AttentionMask, Sequences, Upstream, attention, attention_backward};
use ocelli::params::Attention;
use ocelli::params::attention::Qkv;
use ocelli::{DType, Device, Tensor};

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

fn floats(shape: &[usize]) -> Tensor {
    zeros(shape, DType::F32)
}

/// Checks what the forward pass says of these.
#[track_caller]
fn says([q, k, v]: [&Tensor; 3], mask: &AttentionMask<'_>, params: &Attention, expected: &str) {
    let error = attention(Qkv::Separate { q, k, v }, mask, params).unwrap_err();
    assert_eq!(error.to_string(), format!("attention: {expected}"));
}

#[test]
fn of_queries_keys_and_values() {
    let (q, k) = (floats(&[2, 5, 4, 16]), floats(&[2, 7, 2, 16]));
    let says = |qkv, expected| {
        says(
            qkv,
            &AttentionMask::default(),
            &Attention::default(),
            expected,
        )
    };
    let flat = floats(&[5, 4, 16]);
    says(
        [&flat, &k, &k],
        "q must be [B, N, heads, D], got [5, 4, 16]",
    );
    let odd = floats(&[2, 7, 2, 12]);
    says(
        [&q, &odd, &odd],
        "k must be [2, N, heads, 16], as q is, got [2, 7, 2, 12]",
    );
    says(
        [&odd; 3],
        "head_dim must be a multiple of 8 up to 256, got 12",
    );
    let three = floats(&[2, 7, 3, 16]);
    says(
        [&q, &k, &three],
        "v must be [2, 7, 2, 16], got [2, 7, 3, 16]",
    );
    says(
        [&q, &three, &three],
        "heads must be a multiple of the key and value heads, both at least 1, got 4 and 3",
    );
    let integers = zeros(&[2, 5, 4, 16], DType::I32);
    says([&integers, &k, &k], "k must be of type i32, got f32");
    let half = zeros(&[2, 7, 2, 16], DType::F16);
    says([&q, &half, &half], "k must be of type f32, got f16");
}

#[test]
fn of_masks_and_scalars() {
    let (q, k) = (floats(&[2, 5, 4, 16]), floats(&[2, 7, 2, 16]));
    let (none, plain) = (AttentionMask::default(), Attention::default());
    let says = |mask: AttentionMask<'_>, params, expected| {
        says([&q, &k, &k], &mask, &params, expected);
    };
    let bias = AttentionMask {
        bias: Some(&floats(&[2, 3, 5, 7])),
        ..none
    };
    says(
        bias,
        plain,
        "bias must be [2 or 1, 4 or 1, 5, 7], got [2, 3, 5, 7]",
    );
    let lengths = AttentionMask {
        kv_lengths: Some(&floats(&[2])),
        ..none
    };
    says(lengths, plain, "kv_lengths must be of type i32, got f32");
    let offsets = zeros(&[3], DType::I32);
    let sequences = Sequences {
        offsets_q: &offsets,
        offsets_k: &offsets,
        max_queries: 5,
        max_keys: 5,
    };
    let packed = AttentionMask {
        sequences: Some(sequences),
        ..none
    };
    says(packed, plain, "q must be [T, heads, D], got [2, 5, 4, 16]");
    let softcap = Attention {
        softcap: f32::NAN,
        ..plain
    };
    says(
        none,
        softcap,
        "softcap must be finite and above 0, or 0 for none, got NaN",
    );
}

#[test]
fn of_the_backward_pass() {
    let (q, k) = (floats(&[2, 5, 4, 16]), floats(&[2, 7, 2, 16]));
    let qkv = Qkv::Separate {
        q: &q,
        k: &k,
        v: &k,
    };
    let (none, plain) = (AttentionMask::default(), Attention::default());
    let attended = attention(qkv, &none, &plain).unwrap();
    let says = |attended: &Attended, upstream: Upstream<'_>, expected: &str| {
        let error = attention_backward(qkv, &none, &plain, attended, &upstream).unwrap_err();
        assert_eq!(error.to_string(), format!("attention: {expected}"));
    };
    let upstream = Upstream {
        dout: &q,
        dlse: None,
        dbias: false,
    };
    let wrong = Upstream {
        dout: &k,
        ..upstream
    };
    says(
        &attended,
        wrong,
        "dout must be [2, 5, 4, 16], got [2, 7, 2, 16]",
    );
    let wrong = Upstream {
        dbias: true,
        ..upstream
    };
    says(
        &attended,
        wrong,
        "dbias must be false where there is no bias, got true",
    );
    let wrong = Attended {
        lse: floats(&[2, 5, 4]),
        ..attended
    };
    says(&wrong, upstream, "lse must be [2, 4, 5], got [2, 5, 4]");
}
