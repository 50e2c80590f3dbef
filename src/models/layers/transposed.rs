//! Transposed convolutions.

use super::rows;
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{Conv2dWeight, conv2d};
use crate::params::{Activation, Conv2d};
use crate::tensor::{ShapeText, Tensor};

/// A transposed convolution that doubles height and width, a batch norm and ReLU: `torch.nn.ConvTranspose2d` with
/// kernel 4, stride 2 and padding 1, `torch.nn.BatchNorm2d` in inference and `torch.nn.ReLU`.
///
/// The four outputs that a pixel becomes lie each on 2 x 2 of the 16 taps. All four are channels of one 3 x 3
/// convolution, whose rows are then put in their places: 9/4 of the products, in return for one dense kernel.
#[derive(Debug, Clone)]
pub struct TransposedConvolution {
    weight: Conv2dWeight,
    bias: Tensor,
    outputs: usize,
}

/// Rows and columns of the kernel.
const KERNEL: usize = 4;

impl TransposedConvolution {
    /// Loads `<prefix>.weight` `[channels, outputs, 4, 4]`, `<prefix>.bias` `[outputs]` and the batch norm
    /// `<norm>.{weight, bias, running_mean, running_var}`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        norm: &str,
        [channels, outputs]: [usize; 2],
        epsilon: f64,
    ) -> Result<Self> {
        let taps = [channels, outputs, KERNEL, KERNEL];
        let kernel = weights.values(&format!("{prefix}.weight"), &taps);
        let bias = weights.values(&format!("{prefix}.bias"), &[outputs]);
        let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|name| weights.values(&format!("{norm}.{name}"), &[outputs]));
        let folded = (|| {
            let (scale, variance, mean) = (scale?, variance?, mean?);
            let factors = scale.iter().zip(&variance);
            let factors = factors.map(|(&scale, &variance)| {
                f64::from(scale) / (f64::from(variance) + epsilon).sqrt()
            });
            let factors: Vec<f64> = factors.collect();
            let bias = (bias?.into_iter().zip(mean).zip(shift?).zip(&factors)).map(
                |(((bias, mean), shift), factor)| {
                    (f64::from(shift) + (f64::from(bias) - f64::from(mean)) * factor) as f32
                },
            );
            let bias: Vec<f32> = bias.collect();
            Some((unfold(&kernel?, &factors, channels), bias.repeat(4)))
        })();
        let (kernel, bias) = folded.unzip();
        let kernel = weights.host_tensor(kernel, &[4 * outputs, channels, 3, 3])?;
        let bias = weights.host_tensor(bias, &[4 * outputs])?;
        Ok(Self {
            weight: Conv2dWeight::new(&kernel, weights.device())?,
            bias: bias.to_device(weights.device())?,
            outputs,
        })
    }

    /// `[B, H, W, channels]` to `[B, 2 H, 2 W, outputs]`.
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let params = Conv2d {
            padding: 1,
            activation: Activation::Relu,
            ..Conv2d::default()
        };
        let &[images, height, width, _] = x.shape() else {
            let value = ShapeText(x.shape());
            let rule = "[B, H, W, C]";
            return Err(Error::input("transposed convolution", "x", rule, value));
        };
        // [B, H, W, 2, 2 C]: the rows and columns that a pixel becomes, of which the columns lie right.
        let doubled = conv2d(x, &self.weight, Some(&self.bias), None, &params)?;
        let places = (0..images * height).flat_map(|row| {
            (0..2).flat_map(move |below| (0..width).map(move |x| 2 * (row * width + x) + below))
        });
        let lines = rows(&doubled, 2 * self.outputs, places)?;
        lines.reshape(&[images, 2 * height, 2 * width, self.outputs])
    }
}

/// The 3 x 3 kernel `[2, 2, outputs, channels, 3, 3]`, times `factors` of the outputs, of a transposed one
/// `[channels, outputs, 4, 4]`.
///
/// Input `i` adds tap `k` to output `2 i - 1 + k`. So output `2 m + a` takes from input `m + t - 1` the tap
/// `k = a + 3 - 2 t`, where there is one.
fn unfold(kernel: &[f32], factors: &[f64], channels: usize) -> Vec<f32> {
    let outputs = factors.len();
    let tap = |of: usize, to: usize| (of + 3).checked_sub(2 * to).filter(|&tap| tap < KERNEL);
    let mut unfolded = Vec::with_capacity(36 * outputs * channels);
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (output, factor) in factors.iter().enumerate() {
            for channel in 0..channels {
                let taps = &kernel[(channel * outputs + output) * KERNEL * KERNEL..];
                for (y, x) in (0..9).map(|place| (place / 3, place % 3)) {
                    let value = match (tap(row, y), tap(column, x)) {
                        (Some(y), Some(x)) => f64::from(taps[y * KERNEL + x]) * factor,
                        _ => 0.0,
                    };
                    unfolded.push(value as f32);
                }
            }
        }
    }
    unfolded
}
