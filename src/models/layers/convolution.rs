//! Convolutions, with a batch norm folded in where one follows.

use crate::error::Result;
use crate::io::Weights;
use crate::ops::{Conv2dWeight, conv2d};
use crate::params::Conv2d;
use crate::tensor::Tensor;

/// A convolution of `[B, H, W, C]` with bias and activation, as `torch.nn.Conv2d` followed, where asked for, by
/// `torch.nn.BatchNorm2d` in inference.
#[derive(Debug, Clone)]
pub struct Convolution {
    weight: Conv2dWeight,
    bias: Option<Tensor>,
    params: Conv2d,
}

impl Convolution {
    /// Loads `<prefix>.weight` `[outputs, channels, height, width]` and, where `bias`, `<prefix>.bias` `[outputs]`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        extents: [usize; 4],
        bias: bool,
        params: Conv2d,
    ) -> Result<Self> {
        let outputs = extents[0];
        let kernel = weights.values(&format!("{prefix}.weight"), &extents);
        let bias = bias.then(|| weights.tensor(&format!("{prefix}.bias"), &[outputs]));
        let kernel = weights.host_tensor(kernel, &extents)?;
        Ok(Self {
            weight: Conv2dWeight::new(&kernel, weights.device())?,
            bias: bias.transpose()?,
            params,
        })
    }

    /// Loads a convolution without bias and the batch norm `<norm>.{weight, bias, running_mean, running_var}` after it,
    /// as one: with `g = weight / sqrt(running_var + epsilon)`, the filters times `g` and the bias `bias - running_mean * g`.
    ///
    /// # Errors
    /// From the device.
    pub fn load_normed(
        weights: &mut Weights,
        prefix: &str,
        norm: &str,
        extents: [usize; 4],
        epsilon: f64,
        params: Conv2d,
    ) -> Result<Self> {
        let outputs = extents[0];
        let kernel = weights.values(&format!("{prefix}.weight"), &extents);
        let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|name| weights.values(&format!("{norm}.{name}"), &[outputs]));
        let folded = (|| {
            let (kernel, scale, shift) = (kernel?, scale?, shift?);
            Some(fold(kernel, &scale, &shift, &mean?, &variance?, epsilon))
        })();
        let (kernel, bias) = folded.unzip();
        let bias = weights.host_tensor(bias, &[outputs])?;
        let kernel = weights.host_tensor(kernel, &extents)?;
        Ok(Self {
            weight: Conv2dWeight::new(&kernel, weights.device())?,
            bias: Some(bias.to_device(weights.device())?),
            params,
        })
    }

    /// `x` is `[B, H, W, C]`.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_add(x, None)
    }

    /// `activation(conv(x) + residual)` in one pass.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward_add(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        conv2d(x, &self.weight, self.bias.as_ref(), residual, &self.params)
    }
}

/// Filters and bias of a convolution with the batch norm after it. In f64: each is rounded once.
fn fold(
    kernel: Vec<f32>,
    scale: &[f32],
    shift: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f64,
) -> (Vec<f32>, Vec<f32>) {
    let factors: Vec<f64> = (scale.iter().zip(variance))
        .map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let filter = kernel.len() / factors.len().max(1);
    let kernel = kernel.iter().enumerate();
    let kernel = kernel.map(|(at, &value)| (f64::from(value) * factors[at / filter]) as f32);
    let bias = (shift.iter().zip(mean).zip(&factors))
        .map(|((&shift, &mean), factor)| (f64::from(shift) - f64::from(mean) * factor) as f32);
    (kernel.collect(), bias.collect())
}
