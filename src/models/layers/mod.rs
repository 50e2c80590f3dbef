//! Layers with their weights: what the models are made of.
//!
//! A layer is loaded from [`Weights`] under the prefix of its tensors' names, as PyTorch writes them (`<prefix>.weight`,
//! `<prefix>.bias`), and runs on the device and in the type of the weights.

mod attention;
mod convolution;
mod norm;
mod rows;
mod transposed;

pub use attention::{MultiheadAttention, Projection, SelfAttention};
pub use convolution::Convolution;
pub use norm::{GroupNorm, LayerNorm};
pub use rows::rows;
pub use transposed::TransposedConvolution;

use crate::error::Result;
use crate::io::Weights;
use crate::ops::{LinearWeight, linear};
use crate::params::Activation;
use crate::tensor::Tensor;

/// `y = x W^T + b`, as `torch.nn.Linear`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: LinearWeight,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `<prefix>.weight` `[outputs, inputs]` and, where `bias`, `<prefix>.bias` `[outputs]`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
    ) -> Result<Self> {
        let matrix = weights.values(&format!("{prefix}.weight"), &[outputs, inputs]);
        let bias = bias
            .then(|| weights.values(&format!("{prefix}.bias"), &[outputs]))
            .map(|values| (values, outputs));
        Self::from_values(weights, matrix, [outputs, inputs], bias)
    }

    /// Loads a linear layer with bias and the factors `<scale>` `[outputs]` that its result is multiplied by, as one:
    /// rows of the matrix and the bias are scaled. `None` stands for factors of 1.
    ///
    /// # Errors
    /// From the device.
    pub fn load_scaled(
        weights: &mut Weights,
        prefix: &str,
        extents: [usize; 2],
        scale: Option<&str>,
    ) -> Result<Self> {
        let Some(scale) = scale else {
            return Self::load(weights, prefix, extents, true);
        };
        let [outputs, inputs] = extents;
        let factors = weights.values(scale, &[outputs]);
        let mut scaled = |name: &str, shape: &[usize], row: usize| {
            let mut values = weights.values(&format!("{prefix}.{name}"), shape)?;
            for (values, factor) in values.chunks_exact_mut(row.max(1)).zip(factors.as_ref()?) {
                values.iter_mut().for_each(|value| *value *= factor);
            }
            Some(values)
        };
        let matrix = scaled("weight", &extents, inputs);
        let bias = scaled("bias", &[outputs], 1);
        Self::from_values(weights, matrix, extents, Some((bias, outputs)))
    }

    /// Lays out values that are at hand; `bias` has its length beside it.
    fn from_values(
        weights: &Weights,
        matrix: Option<Vec<f32>>,
        extents: [usize; 2],
        bias: Option<(Option<Vec<f32>>, usize)>,
    ) -> Result<Self> {
        let matrix = weights.host_tensor(matrix, &extents)?;
        let bias = bias.map(|(values, outputs)| {
            let host = weights.host_tensor(values, &[outputs])?;
            host.to_device(weights.device())
        });
        Ok(Self {
            weight: LinearWeight::new(&matrix, weights.device())?,
            bias: bias.transpose()?,
        })
    }

    /// Elements of an output row.
    pub fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    /// `x` is `[.., inputs]`.
    ///
    /// # Errors
    /// As [`linear`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, None, Activation::None)
    }

    /// `activation(x W^T + b + residual)` in one pass.
    ///
    /// # Errors
    /// As [`linear`].
    pub fn forward_with(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        linear(x, &self.weight, self.bias.as_ref(), residual, activation)
    }
}
