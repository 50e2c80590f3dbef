//! Probabilities of chosen queries: every device against the reference, row by row.

use super::case::{Case, Form, Operands, case};
use super::laid_out;
use super::naive::{score_size, sequences};
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

/// Sixteen units in the last place of f32, as in all budgets.
const UNITS: f64 = 16.0 * f32::EPSILON as f64;

/// [`score_size`] of each probability.
fn sizes<T: Float>(case: &Case, operands: &Operands<T>) -> Vec<f64> {
    let mut sizes = Vec::new();
    for (b, sequence) in sequences(case).iter().enumerate() {
        for h in 0..case.heads {
            for i in rows(case) {
                let i = usize::try_from(i).unwrap_or(usize::MAX);
                let size = |j| score_size(case, operands, [b, h, i, j], sequence);
                sizes.extend((0..case.keys).map(size));
            }
        }
    }
    sizes
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
    let sizes = sizes(case, &operands);
    let rows = actual
        .chunks(case.keys.max(1))
        .zip(exact.chunks(case.keys.max(1)));
    for (row, ((actual, exact), sizes)) in rows.zip(sizes.chunks(case.keys.max(1))).enumerate() {
        // Of a hidden key the bias, and so the size, is infinite.
        let parts = exact.iter().zip(sizes).filter(|(exact, _)| **exact > 0.0);
        let of_sum: f64 = parts.map(|(exact, size)| exact * size).sum();
        for (key, ((&actual, &exact), size)) in actual.iter().zip(exact).zip(sizes).enumerate() {
            // An error of a score, and one of the sum's logarithm, are relative errors of a probability.
            let allowed = match exact > 0.0 {
                true => UNITS * (size + of_sum) * exact + f64::from(f32::MIN_POSITIVE),
                false => 0.0,
            };
            let good = (f64::from(actual) - exact).abs() <= allowed;
            prop_assert!(
                good,
                "{target:?} {} row {row} key {key}: {actual} for {exact} within {allowed:e}",
                T::DTYPE
            );
        }
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

#[test]
fn a_score_that_is_no_number_breaks_its_row() {
    let mut case = Case {
        bias: Some([true, false]),
        ..Case::plain([1, 2, 9, 40, 16])
    };
    case.params.causal = true;
    for target in targets() {
        for number in [f32::INFINITY, f32::NAN] {
            let mut operands = Operands::<f32>::new(&case);
            // The middle query sees key 20, of its first head, and not the last one, of its second.
            for (head, key) in [(0, 20), (1, 39)] {
                let at = case.bias_at([0, head, 4, key]).unwrap();
                operands.bias[at] = number;
            }
            let actual = run(&case, &operands, &target.device());
            let exact = reference_inputs(&case, &operands, |inputs| {
                reference::attention_probabilities(inputs, &case.rule(), &rows(&case))
            });
            assert!(exact.iter().any(|p| p.is_nan()));
            let same = |(actual, exact): (&f32, &f64)| actual.is_nan() == exact.is_nan();
            assert!(actual.iter().zip(&exact).all(same), "{target:?} {number}");
            #[cfg(feature = "cuda")]
            if let Target::Cuda(device) = target {
                device.launches();
            }
        }
    }
}
