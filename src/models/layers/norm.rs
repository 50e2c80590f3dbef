//! Norms.

use crate::error::Result;
use crate::io::Weights;
use crate::ops;
use crate::params;
use crate::tensor::Tensor;

/// `torch.nn.LayerNorm` over the last axis.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl LayerNorm {
    /// Loads `<prefix>.weight` and `<prefix>.bias`, each `[width]`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(weights: &mut Weights, prefix: &str, width: usize, epsilon: f32) -> Result<Self> {
        Ok(Self {
            weight: weights.tensor(&format!("{prefix}.weight"), &[width])?,
            bias: weights.tensor(&format!("{prefix}.bias"), &[width])?,
            epsilon,
        })
    }

    /// `x` is `[.., width]`.
    ///
    /// # Errors
    /// As [`ops::layer_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

/// `torch.nn.GroupNorm` with an activation after it.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    params: params::GroupNorm,
}

impl GroupNorm {
    /// Loads `<prefix>.weight` and `<prefix>.bias`, each `[channels]`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        channels: usize,
        params: params::GroupNorm,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.tensor(&format!("{prefix}.weight"), &[channels])?,
            bias: weights.tensor(&format!("{prefix}.bias"), &[channels])?,
            params,
        })
    }

    /// `x` is `[B, .., channels]`.
    ///
    /// # Errors
    /// As [`ops::group_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, &self.params)
    }
}
