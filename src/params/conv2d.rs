//! Scalars of the two-dimensional convolution.

use super::Activation;
use crate::error::{Error, Result};

/// Scalars of a [two-dimensional convolution](crate::ops::conv2d()).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Rows and columns from one output to the next. At least 1.
    pub stride: usize,
    /// Rows and columns of zeros on each side of the image. Less than the kernel's extents.
    pub padding: usize,
    /// What the result goes through last.
    pub activation: Activation,
}

impl Default for Conv2d {
    /// Stride 1, no padding, no activation.
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            activation: Activation::None,
        }
    }
}

impl Conv2d {
    /// Checks the scalars for a kernel, and returns the extents of the output of an image of
    /// `extents`, both in rows and columns.
    pub(crate) fn output_extents(
        &self,
        extents: [usize; 2],
        kernel: [usize; 2],
    ) -> Result<[usize; 2]> {
        const OP: &str = "conv2d";
        /// The kernels number pixels in 31 bits.
        const LIMIT: usize = 1 << 15;
        let Self {
            stride, padding, ..
        } = *self;
        if stride == 0 || stride > LIMIT {
            return Err(Error::input(
                OP,
                "stride",
                "at least 1 and at most 2^15",
                stride,
            ));
        }
        if kernel.into_iter().any(|extent| padding >= extent) {
            let rule = format!("less than the kernel's {} x {}", kernel[0], kernel[1]);
            return Err(Error::input(OP, "padding", rule, padding));
        }
        let mut out = [0; 2];
        for ((out, extent), kernel) in out.iter_mut().zip(extents).zip(kernel) {
            let padded = extent + 2 * padding;
            if padded < kernel {
                let rule = format!("at least {kernel} rows and columns with its padding");
                return Err(Error::input(OP, "x", rule, padded));
            }
            *out = (padded - kernel) / stride + 1;
        }
        Ok(out)
    }
}
