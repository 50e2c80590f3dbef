//! Probabilities of chosen queries: every device against the reference, row by row.

use super::case::{Case, Form, Operands, case};
use super::laid_out;
use super::truth::reference_inputs;
use crate::device::{Target, targets};
use ocelli::ops::{AttentionMask, Sequences, attention_probabilities};
use ocelli::params::attention::Qkv;
use ocelli::testing::strategy::cases;
use ocelli::{DType, Device, Float, Tensor, reference};
use proptest::prelude::*;

/// Places of queries: the ends, one twice, and such as are none.
fn rows(case: &Case) -> Vec<i32> {
    let last = case.queries as i32 - 1;
    vec![
        0,
        last,
        last / 2,
        last / 2,
        -1,
        last + 1,
        i32::MAX,
        i32::MIN,
    ]
}

fn tensor<T: Float>(values: &[T], shape: &[usize], device: &Device) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, device).unwrap()
}

fn run<T: Float>(case: &Case, operands: &Operands<T>, device: &Device) -> Vec<f32> {
    let dims = |tokens: usize, heads: usize| match case.form {
        Form::Sequences => vec![tokens, heads, case.head_dim],
        Form::Separate => vec![case.batch, tokens / case.batch, heads, case.head_dim],
        Form::Projection => vec![case.batch, tokens / case.batch, 3, heads, case.head_dim],
    };
    let [tokens_q, tokens_k] = case.tokens();
    let of_queries = dims(tokens_q, case.heads);
    let of_keys = dims(tokens_k, case.kv_heads);
    let buffers = match laid_out(case, [&operands.q, &operands.k, &operands.v]) {
        Qkv::Separate { q, k, v } => Qkv::Separate {
            q: tensor(&q, &of_queries, device),
            k: tensor(&k, &of_keys, device),
            v: tensor(&v, &of_keys, device),
        },
        Qkv::Packed(all) => Qkv::Packed(tensor(&all, &of_queries, device)),
    };
    let qkv = match &buffers {
        Qkv::Separate { q, k, v } => Qkv::Separate { q, k, v },
        Qkv::Packed(all) => Qkv::Packed(all),
    };
    let integers =
        |values: Vec<i32>| Tensor::from_vec(values.clone(), &[values.len()], device).unwrap();
    let bias = case
        .bias_extents()
        .map(|[b, h]| tensor(&operands.bias, &[b, h, case.queries, case.keys], device));
    let lengths = case.has_kv_lengths.then(|| integers(case.kv_lengths()));
    let offsets = case.offsets().map(integers);
    let sequences = (case.form == Form::Sequences).then(|| Sequences {
        offsets_q: &offsets[0],
        offsets_k: &offsets[1],
        max_queries: case.queries,
        max_keys: case.keys,
    });
    let mask = AttentionMask {
        bias: bias.as_ref(),
        kv_lengths: lengths.as_ref(),
        sequences,
    };
    let result = attention_probabilities(qkv, &integers(rows(case)), &mask, &case.params).unwrap();
    assert_eq!(result.shape(), [case.batch, case.heads, 8, case.keys]);
    result.to_vec().unwrap()
}

fn check<T: Float>(target: &Target, case: &Case) -> Result<(), TestCaseError> {
    let operands = Operands::<T>::new(case);
    let device = target.device();
    let actual = run(case, &operands, &device);
    prop_assert_eq!(
        &actual,
        &run(case, &operands, &device),
        "{:?}: second run",
        target
    );
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    let exact = reference_inputs(case, &operands, |inputs| {
        reference::attention_probabilities(inputs, &case.rule(), &rows(case))
    });
    for (at, (&actual, &exact)) in actual.iter().zip(&exact).enumerate() {
        // A score's terms reach 500, of which a unit of f32 is 6e-5: sixteen, as in all budgets, are relative in a
        // probability.
        let good = (f64::from(actual) - exact).abs() <= 1e-3 * exact + 1e-30;
        prop_assert!(good, "{target:?} {} {at}: {actual} for {exact}", T::DTYPE);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(16)))]
    #[test]
    fn probabilities_agree_with_the_reference(case in case(), dtype in super::dtype()) {
        for target in targets() {
            match dtype {
                DType::F16 => check::<half::f16>(target, &case)?,
                DType::BF16 => check::<half::bf16>(target, &case)?,
                _ => check::<f32>(target, &case)?,
            }
        }
    }
}
