//! The product that a linear layer or a convolution is.

use super::OP;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Conv2d;

/// Steps to which a row of the weight is filled up with zeros: 16 bytes of 16-bit elements.
const STEP_GROUP: usize = 8;
/// The kernel counts rows, outputs, steps and extents in 31 bits, and goes one tile beyond.
const LIMIT: usize = (1 << 31) - 256;

/// The extents of a convolution as a product `[M, K] x [K, N]`: M pixels of the outputs, N outputs
/// a pixel, K taps and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Images, rows, columns and channels of the input.
    pub(super) input: [usize; 4],
    /// Rows and columns of the kernel.
    pub(super) kernel: [usize; 2],
    pub(super) outputs: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Rows and columns of the output.
    pub(super) output: [usize; 2],
}

impl Geometry {
    /// A linear layer of `rows` of `inputs`: images of one pixel.
    ///
    /// # Errors
    /// When an extent is too large for the kernel, or there is nothing to compute.
    pub fn linear(rows: usize, inputs: usize, outputs: usize) -> Result<Self> {
        Self {
            input: [rows, 1, 1, inputs],
            kernel: [1, 1],
            outputs,
            stride: 1,
            padding: 0,
            output: [1, 1],
        }
        .checked()
    }

    /// A convolution of images `[B, H, W, C]` with a weight `[outputs, C, height, width]`.
    ///
    /// # Errors
    /// When the channels or scalars do not fit, an extent is too large for the kernel, or there is
    /// nothing to compute.
    pub fn conv2d(input: [usize; 4], weight: [usize; 4], params: &Conv2d) -> Result<Self> {
        let [_, height, width, channels] = input;
        let [outputs, of_weight, rows, columns] = weight;
        if channels != of_weight {
            let rule = format!("{of_weight} channels, as the weight has");
            return Err(Error::input(OP, "x", rule, channels));
        }
        let output = params.output_extents([height, width], [rows, columns])?;
        Self {
            input,
            kernel: [rows, columns],
            outputs,
            stride: params.stride,
            padding: params.padding,
            output,
        }
        .checked()
    }

    fn checked(self) -> Result<Self> {
        let limited = |argument: &str, extents: &[usize]| {
            let product = extents
                .iter()
                .try_fold(1usize, |all, &extent| all.checked_mul(extent));
            if product.is_some_and(|product| (1..=LIMIT).contains(&product)) {
                return Ok(());
            }
            let rule = format!("at least 1 and at most {LIMIT} in all");
            Err(Error::input(OP, argument, rule, format!("{extents:?}")))
        };
        limited(
            "pixels of the output",
            &[self.input[0], self.output[0], self.output[1]],
        )?;
        limited("outputs", &[self.outputs])?;
        limited(
            "kernel and channels",
            &[self.kernel[0], self.kernel[1], self.input[3]],
        )?;
        limited("pixels of an image", &[self.input[1], self.input[2]])?;
        Ok(self)
    }

    /// M: pixels of the outputs.
    pub fn rows(&self) -> usize {
        self.input[0] * self.output[0] * self.output[1]
    }

    /// N: outputs of a pixel.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// K: taps times channels.
    pub fn steps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.input[3]
    }

    /// Elements of the images.
    pub fn inputs_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements from one output's weights to the next.
    pub fn weight_pitch(&self) -> usize {
        self.steps().next_multiple_of(STEP_GROUP)
    }

    /// Elements of the laid out weight.
    pub fn weight_len(&self) -> usize {
        self.outputs * self.weight_pitch()
    }

    /// Elements of the output.
    pub fn outputs_len(&self) -> usize {
        self.rows() * self.outputs
    }
}

/// A weight `[outputs, channels, height, width]`, as PyTorch stores it (a linear layer's is `[outputs,
/// inputs, 1, 1]`), in the kernel's order: `[outputs, height * width * channels]`, each row filled up
/// with zeros to a multiple of 8.
///
/// # Errors
/// When the length does not fit.
pub fn lay_out<T: Float>(weight: &[T], extents: [usize; 4]) -> Result<Vec<T>> {
    let expected = extents
        .iter()
        .try_fold(1usize, |all, &extent| all.checked_mul(extent));
    if expected != Some(weight.len()) {
        let rule = format!("{extents:?}");
        return Err(Error::input(
            OP,
            "weight",
            rule,
            format!("{} elements", weight.len()),
        ));
    }
    let [outputs, channels, height, width] = extents;
    let (taps, steps) = (height * width, height * width * channels);
    let pitch = steps.next_multiple_of(STEP_GROUP);
    let mut laid_out = vec![T::default(); outputs * pitch];
    if steps == 0 {
        return Ok(laid_out);
    }
    for (from, to) in weight.chunks(steps).zip(laid_out.chunks_mut(pitch)) {
        for (step, value) in to[..steps].iter_mut().enumerate() {
            *value = from[step % channels * taps + step / channels];
        }
    }
    Ok(laid_out)
}
