//! Pooling, upsampling and resizing of images `[B, H, W, C]` on the CPU, a row of the output a task.

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::{MaxPool2d, ResizeBilinear};
use rayon::prelude::*;

/// The largest of each window. See [`ops::max_pool2d`](crate::ops::max_pool2d()).
///
/// # Errors
/// When the lengths or scalars do not fit.
pub fn max_pool2d<T: Float>(
    x: &[T],
    input: [usize; 4],
    params: &MaxPool2d,
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "max_pool2d";
    let [images, height, width, channels] = input;
    let [out_height, out_width] = params.output_extents([height, width])?;
    length(OP, "x", x.len(), &input)?;
    length(
        OP,
        "out",
        out.len(),
        &[images, out_height, out_width, channels],
    )?;
    let window = |place: usize, extent: usize| {
        let first = place * params.stride;
        first.saturating_sub(params.padding)..(first + params.kernel - params.padding).min(extent)
    };
    let task = (out_width * channels).max(1);
    out.par_chunks_mut(task).enumerate().for_each_init(
        || (vec![0.0; channels], vec![0.0; channels]),
        |(largest, pixel), (line, out)| {
            let rows = window(line % out_height, height);
            for (x0, out) in out.chunks_mut(channels).enumerate() {
                largest.fill(f32::NEG_INFINITY);
                for row in rows.clone() {
                    let first = (line / out_height * height + row) * width;
                    for column in window(x0, width) {
                        T::widen(&x[(first + column) * channels..][..channels], pixel);
                        for (largest, &value) in largest.iter_mut().zip(&*pixel) {
                            // NaN wins, as it is neither larger nor not larger; and then stays.
                            let keep = value <= *largest || largest.is_nan();
                            *largest = if keep { *largest } else { value };
                        }
                    }
                }
                T::narrow(largest, out);
            }
        },
    );
    Ok(())
}

/// `skip` plus the nearest pixels of `x`. See
/// [`ops::upsample_nearest_add`](crate::ops::upsample_nearest_add()).
///
/// # Errors
/// When the lengths do not fit.
pub fn upsample_nearest_add<T: Float>(
    x: &[T],
    input: [usize; 4],
    skip: &[T],
    output: [usize; 2],
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "upsample_nearest_add";
    let [images, height, width, channels] = input;
    let [out_height, out_width] = output;
    length(OP, "x", x.len(), &input)?;
    length(
        OP,
        "skip",
        skip.len(),
        &[images, out_height, out_width, channels],
    )?;
    length(
        OP,
        "out",
        out.len(),
        &[images, out_height, out_width, channels],
    )?;
    let columns = nearest(width, out_width);
    let rows = nearest(height, out_height);
    let task = (out_width * channels).max(1);
    out.par_chunks_mut(task)
        .zip(skip.par_chunks(task))
        .enumerate()
        .for_each_init(
            || (vec![0.0; channels], vec![0.0; channels]),
            |(sum, added), (line, (out, skip))| {
                let first = (line / out_height * height + rows[line % out_height]) * width;
                let pixels = out.chunks_mut(channels).zip(skip.chunks(channels));
                for ((out, skip), column) in pixels.zip(&columns) {
                    T::widen(&x[(first + column) * channels..][..channels], sum);
                    T::widen(skip, added);
                    sum.iter_mut()
                        .zip(&*added)
                        .for_each(|(sum, added)| *sum += added);
                    T::narrow(sum, out);
                }
            },
        );
    Ok(())
}

/// The input that each output takes: in `f32` and this order, as PyTorch has it.
fn nearest(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    let place = |to: usize| ((to as f32 * scale).floor() as usize).min(from.saturating_sub(1));
    (0..to).map(place).collect()
}

/// Bilinear resizing: rows of the input are blended, then the columns of the blend. See
/// [`ops::resize_bilinear`](crate::ops::resize_bilinear()).
///
/// # Errors
/// When the lengths or scalars do not fit.
pub fn resize_bilinear<T: Float>(
    x: &[T],
    input: [usize; 4],
    params: &ResizeBilinear,
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "resize_bilinear";
    let [images, height, width, channels] = input;
    params.check([height, width])?;
    length(OP, "x", x.len(), &input)?;
    length(
        OP,
        "out",
        out.len(),
        &[images, params.height, params.width, channels],
    )?;
    let taps = |from, to| {
        (0..to)
            .map(|place| Taps::new(place, from, to, params.antialias))
            .collect()
    };
    let rows: Vec<Taps> = taps(height, params.height);
    let columns: Vec<Taps> = taps(width, params.width);
    let pitch = width * channels;
    let task = (params.width * channels).max(1);
    out.par_chunks_mut(task).enumerate().for_each_init(
        || (vec![0.0; pitch], vec![0.0; pitch], vec![0.0; channels]),
        |(blend, line, pixel), (place, out)| {
            let image = place / params.height * height;
            let taps = &rows[place % params.height];
            blend.fill(0.0);
            for (row, weight) in (taps.first..).zip(&taps.weights) {
                T::widen(&x[(image + row) * pitch..][..pitch], line);
                blend
                    .iter_mut()
                    .zip(&*line)
                    .for_each(|(sum, x)| *sum += weight * x);
            }
            for (out, taps) in out.chunks_mut(channels).zip(&columns) {
                pixel.fill(0.0);
                let sources = blend[taps.first * channels..].chunks(channels);
                for (source, weight) in sources.zip(&taps.weights) {
                    pixel
                        .iter_mut()
                        .zip(source)
                        .for_each(|(sum, x)| *sum += weight * x);
                }
                T::narrow(pixel, out);
            }
        },
    );
    Ok(())
}

/// The inputs along one axis that an output is made of.
struct Taps {
    first: usize,
    /// Of the inputs from `first` on; their sum is 1.
    weights: Vec<f32>,
}

impl Taps {
    /// The weights, in whole numbers: with n inputs and m outputs, the center of output i lies at
    /// `(2 i + 1) n / (2 m)`, that of input j at `j + 1/2`, and the weight falls off to 0 at a
    /// distance of 1, or with antialiasing of n / m where that is more.
    fn new(place: usize, inputs: usize, outputs: usize, antialias: bool) -> Self {
        let (n, m) = (inputs as i64, outputs as i64);
        let center = (2 * place as i64 + 1) * n;
        let reach = if antialias { n.max(m) } else { m };
        let weight = |j: i64| 2 * reach - ((2 * j + 1) * m - center).abs();
        let first = ((center - 2 * reach - m).div_euclid(2 * m) + 1).max(0);
        let weights: Vec<i64> = (first..n)
            .map(weight)
            .take_while(|&weight| weight > 0)
            .collect();
        let sum = weights.iter().sum::<i64>() as f64;
        Self {
            first: first as usize,
            weights: weights
                .iter()
                .map(|&weight| (weight as f64 / sum) as f32)
                .collect(),
        }
    }
}

fn length(op: &'static str, argument: &str, is: usize, extents: &[usize]) -> Result<()> {
    let expected = extents
        .iter()
        .try_fold(1usize, |product, &extent| product.checked_mul(extent));
    if Some(is) == expected {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("{extents:?}"),
        format!("{is} elements"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_1_and_stay_inside() {
        for (inputs, outputs) in [(1, 1), (1, 9), (9, 1), (5, 8), (8, 5), (480, 37), (37, 480)] {
            for antialias in [false, true] {
                for place in 0..outputs {
                    let taps = Taps::new(place, inputs, outputs, antialias);
                    let sum: f32 = taps.weights.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-5 && !taps.weights.is_empty());
                    assert!(taps.first + taps.weights.len() <= inputs);
                }
            }
        }
    }
}
