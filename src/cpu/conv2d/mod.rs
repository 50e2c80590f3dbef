//! Two-dimensional convolutions on the CPU: as a matrix product whose rows are gathered from a
//! padded copy of the images, or by Winograd's method where that is faster.

mod winograd;

use super::linear::{Terms, widened};
use super::matmul::{PackedWeight, Rows, matmul};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Conv2d;
use rayon::prelude::*;
use std::borrow::Cow;
use winograd::WinogradWeight;

const OP: &str = "conv2d";

/// A kernel, laid out for the product.
#[derive(Debug, Clone)]
pub struct Conv2dWeight {
    packed: PackedWeight,
    winograd: Option<WinogradWeight>,
    channels: usize,
    kernel: [usize; 2],
}

impl Conv2dWeight {
    /// Packs a weight `[outputs, channels, height, width]`, as PyTorch stores it.
    ///
    /// # Errors
    /// When the lengths do not fit each other.
    pub fn new<T: Float>(weight: &[T], extents: [usize; 4]) -> Result<Self> {
        let [outputs, channels, height, width] = extents;
        length("weight", weight.len(), &extents)?;
        let steps = channels * height * width;
        // A step counts through kernel rows, kernel columns and channels; PyTorch's weight through
        // channels, rows and columns.
        let packed = PackedWeight::new(outputs, steps, |output, step| {
            let (place, channel) = (step / channels, step % channels);
            weight[output * steps + channel * height * width + place].to_f32()
        });
        let winograd = WinogradWeight::suits(extents).then(|| WinogradWeight::new(weight, extents));
        Ok(Self {
            packed,
            winograd,
            channels,
            kernel: [height, width],
        })
    }

    /// Extents as PyTorch has them: `[outputs, channels, height, width]`.
    pub fn extents(&self) -> [usize; 4] {
        let [height, width] = self.kernel;
        [self.packed.outputs(), self.channels, height, width]
    }
}

/// `out = act(conv(x) + bias + residual)` for images `[B, H, W, C]` of `extents` `[B, H, W]`. See
/// [`ops::conv2d`](crate::ops::conv2d()).
///
/// # Errors
/// When the lengths or scalars do not fit each other.
pub fn conv2d<T: Float>(
    x: &[T],
    extents: [usize; 3],
    weight: &Conv2dWeight,
    terms: Terms<'_, T>,
    params: &Conv2d,
    out: &mut [T],
) -> Result<()> {
    let [images, height, width] = extents;
    let [out_height, out_width] = params.output_extents([height, width], weight.kernel)?;
    let outputs = weight.packed.outputs();
    length("x", x.len(), &[images, height, width, weight.channels])?;
    length("out", out.len(), &[images, out_height, out_width, outputs])?;
    let finish = terms.finish(OP, outputs, out.len())?;
    let source = Images {
        values: x,
        extents,
        channels: weight.channels,
    };
    if let Some(winograd) = &weight.winograd
        && params.stride == 1
        && winograd.wins([images, out_height, out_width])
    {
        winograd.convolve(
            &source,
            params.padding,
            [out_height, out_width],
            &finish,
            out,
        );
        return Ok(());
    }
    let padded = [height + 2 * params.padding, width + 2 * params.padding];
    let inputs = source.padded(params.padding, padded);
    let pitch = padded[1] * weight.channels;
    let per_image = out_height * out_width;
    let start = |row: usize| {
        let (image, pixel) = (row / per_image, row % per_image);
        let (y, x) = (
            pixel / out_width * params.stride,
            pixel % out_width * params.stride,
        );
        (image * padded[0] + y) * pitch + x * weight.channels
    };
    let rows = Rows {
        inputs: &inputs,
        count: images * per_image,
        start,
        runs: weight.kernel[0],
        pitch,
        len: weight.kernel[1] * weight.channels,
    };
    matmul(&rows, &weight.packed, &finish, out);
    Ok(())
}

/// `[B, H, W, C]`.
struct Images<'a, T> {
    values: &'a [T],
    /// B, H and W.
    extents: [usize; 3],
    channels: usize,
}

impl<T: Float> Images<'_, T> {
    /// The images as `f32` with `padding` zeros above and to the left, and zeros below and to the
    /// right up to `padded` rows and columns. Without padding, the values themselves where they are
    /// `f32`.
    fn padded(&self, padding: usize, padded: [usize; 2]) -> Cow<'_, [f32]> {
        let [images, height, width] = self.extents;
        if padded == [height, width] {
            return widened(self.values);
        }
        let pitch = padded[1] * self.channels;
        let mut wide = vec![0.0; images * padded[0] * pitch];
        let row = width * self.channels;
        wide.par_chunks_mut(pitch.max(1))
            .enumerate()
            .for_each(|(line, wide)| {
                let (image, y) = (line / padded[0], line % padded[0]);
                let Some(y) = y.checked_sub(padding).filter(|&y| y < height) else {
                    return;
                };
                let from = (image * height + y) * row;
                let to = padding * self.channels;
                T::widen(&self.values[from..from + row], &mut wide[to..to + row]);
            });
        Cow::Owned(wide)
    }
}

fn length(argument: &str, is: usize, extents: &[usize]) -> Result<()> {
    let expected = extents
        .iter()
        .try_fold(1usize, |product, &extent| product.checked_mul(extent));
    if Some(is) == expected {
        return Ok(());
    }
    Err(Error::input(
        OP,
        argument,
        format!("{extents:?}"),
        format!("{is} elements"),
    ))
}
