//! Conversion between float types: every device against the conversion of one number by the `half` crate.

#[cfg(feature = "cuda")]
mod cuda;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::testing::strategy::{Data, SplitMix, cases, data, size};
use ocelli::{DType, Float, Tensor};
use proptest::prelude::*;

/// `data` rounded to `S`, with numbers of any bits among them: all exponents, halfway cases, subnormals.
fn values<S: Float>(data: Data, len: usize, seed: u64) -> Vec<S> {
    let mut random = SplitMix(seed ^ 1);
    let mut values = data.values(len, seed);
    for value in values.iter_mut().step_by(3) {
        *value = match random.next() {
            bits if bits.is_multiple_of(2) => f32::from_bits(bits as u32),
            // Halfway between two bf16.
            bits => f32::from_bits(bits as u32 & 0xffff_0000 | 0x8000),
        };
    }
    values.into_iter().map(S::from_f32).collect()
}

/// Equal bits, or both NaN.
fn same<T: Float>(actual: &[T], expected: &[T]) -> Result<(), TestCaseError> {
    prop_assert_eq!(actual.len(), expected.len());
    for (place, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let equal = bytemuck::bytes_of(&actual) == bytemuck::bytes_of(&expected);
        let nan = actual.to_f32().is_nan() && expected.to_f32().is_nan();
        prop_assert!(equal || nan, "{place}: {actual:?} for {expected:?}");
    }
    Ok(())
}

fn check<S: Float, D: Float>(target: &Target, values: &[S]) -> Result<(), TestCaseError> {
    let expected: Vec<D> = values.iter().map(|x| D::from_f32(x.to_f32())).collect();
    let device = target.device();
    let tensor = Tensor::from_vec(values.to_vec(), &[values.len()], &device).unwrap();
    for _ in 0..2 {
        let cast = tensor.to_dtype(D::DTYPE).unwrap();
        assert_eq!(
            (cast.device(), cast.shape()),
            (device.clone(), tensor.shape())
        );
        same(&cast.to_vec::<D>().unwrap(), &expected)?;
    }
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]
    #[test]
    fn every_device_rounds_to_nearest_even(len in size(5000), data in data(), seed in any::<u64>()) {
        for target in targets() {
            check::<f32, f16>(target, &values(data, len, seed))?;
            check::<f32, bf16>(target, &values(data, len, seed))?;
            check::<f16, f32>(target, &values(data, len, seed))?;
            check::<f16, bf16>(target, &values(data, len, seed))?;
            check::<bf16, f32>(target, &values(data, len, seed))?;
            check::<bf16, f16>(target, &values(data, len, seed))?;
        }
    }
}

#[test]
fn integers_are_not_cast() {
    for target in targets() {
        let device = target.device();
        let integers = Tensor::from_vec(vec![1i32, 2], &[2], &device).unwrap();
        let floats = Tensor::from_vec(vec![1f32, 2.0], &[2], &device).unwrap();
        let rule = "to_dtype: dtype must be a float type for a float tensor, got ";
        for (tensor, dtype) in [(&integers, DType::F32), (&floats, DType::I32)] {
            let error = tensor.to_dtype(dtype).unwrap_err().to_string();
            assert_eq!(error, format!("{rule}{dtype}"));
        }
        assert_eq!(
            integers
                .to_dtype(DType::I32)
                .unwrap()
                .to_vec::<i32>()
                .unwrap(),
            [1, 2]
        );
    }
}
