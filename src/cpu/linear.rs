//! Linear layers on the CPU.

use super::matmul::{Finish, PackedWeight, Rows, matmul};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Activation;
use std::borrow::Cow;

const OP: &str = "linear";

/// Packs a weight `[outputs, inputs]`, as PyTorch stores it.
///
/// # Errors
/// When the lengths do not fit each other.
pub fn pack<T: Float>(weight: &[T], outputs: usize, inputs: usize) -> Result<PackedWeight> {
    length("weight", weight.len(), outputs.checked_mul(inputs))?;
    Ok(PackedWeight::new(outputs, inputs, |output, input| {
        weight[output * inputs + input].to_f32()
    }))
}

/// What is added to the product, and what it goes through. See [`ops::linear`](crate::ops::linear()).
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a, T> {
    /// One an output.
    pub bias: Option<&'a [T]>,
    /// As long as the result.
    pub residual: Option<&'a [T]>,
    /// Applied last.
    pub activation: Activation,
}

/// `out = act(x * weight^T + bias + residual)` for rows of `weight.steps()` inputs. See
/// [`ops::linear`](crate::ops::linear()).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn linear<T: Float>(
    x: &[T],
    weight: &PackedWeight,
    terms: Terms<'_, T>,
    out: &mut [T],
) -> Result<()> {
    let (inputs, outputs) = (weight.steps(), weight.outputs());
    let count = out.len().checked_div(outputs).unwrap_or(0);
    length("out", out.len(), count.checked_mul(outputs))?;
    length("x", x.len(), count.checked_mul(inputs))?;
    let finish = terms.finish(OP, outputs, out.len())?;
    let rows = Rows {
        inputs: &widened(x),
        count,
        start: |row: usize| row * inputs,
        runs: 1,
        pitch: 0,
        len: inputs,
    };
    matmul(&rows, weight, &finish, out);
    Ok(())
}

impl<'a, T: Float> Terms<'a, T> {
    pub(super) fn finish(
        &self,
        op: &'static str,
        outputs: usize,
        len: usize,
    ) -> Result<Finish<'a, T>> {
        let fits = |argument: &str, terms: Option<&[T]>, expected| match terms {
            Some(terms) if terms.len() != expected => {
                let rule = format!("{expected} elements");
                Err(Error::input(op, argument, rule, terms.len()))
            }
            _ => Ok(()),
        };
        fits("bias", self.bias, outputs)?;
        fits("residual", self.residual, len)?;
        Ok(Finish {
            bias: self.bias,
            residual: self.residual,
            activation: self.activation,
        })
    }
}

/// The values as `f32`: themselves where they are.
pub(super) fn widened<T: Float>(values: &[T]) -> Cow<'_, [f32]> {
    if T::DTYPE == DType::F32 {
        return Cow::Borrowed(bytemuck::cast_slice(values));
    }
    let mut wide = vec![0.0; values.len()];
    T::widen(values, &mut wide);
    Cow::Owned(wide)
}

fn length(argument: &str, is: usize, expected: Option<usize>) -> Result<()> {
    if Some(is) == expected {
        return Ok(());
    }
    let rule = match expected {
        Some(expected) => format!("{expected} elements"),
        None => "of an addressable length".into(),
    };
    Err(Error::input(OP, argument, rule, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        let terms = |bias| Terms {
            bias,
            residual: None,
            activation: Activation::None,
        };
        let weight = pack(&[1f32; 6], 2, 3).unwrap();
        assert!(pack(&[1f32; 5], 2, 3).is_err());
        let mut out = [0f32; 4];
        linear(&[1f32; 6], &weight, terms(None), &mut out).unwrap();
        assert_eq!(out, [3.0; 4]);
        assert!(linear(&[1f32; 5], &weight, terms(None), &mut out).is_err());
        assert!(linear(&[1f32; 6], &weight, terms(None), &mut out[1..]).is_err());
        let error = linear(&[1f32; 6], &weight, terms(Some(&[1.0])), &mut out).unwrap_err();
        assert_eq!(error.to_string(), "linear: bias must be 2 elements, got 1");
    }
}
