//! Layer norm and group norm on the CPU. Moments are summed in `f64` over 16 lanes, in a fixed order.

use super::avx2::with_avx2;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::GroupNorm;
use rayon::prelude::*;

/// Independent sums: four AVX2 registers of `f64`, so that additions overlap.
const LANES: usize = 16;
/// Elements of a task of the last pass.
const TASK: usize = 1 << 14;

/// Layer norm of rows of as many elements as `weight`. See
/// [`ops::layer_norm`](crate::ops::layer_norm()).
///
/// # Errors
/// When the lengths or the scalar do not fit.
pub fn layer_norm<T: Float>(
    x: &[T],
    weight: &[T],
    bias: &[T],
    epsilon: f32,
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "layer_norm";
    crate::params::norm::epsilon(OP, epsilon)?;
    let width = weight.len();
    length(OP, "bias", bias.len(), width)?;
    length(OP, "out", out.len(), x.len())?;
    length(
        OP,
        "x",
        x.len(),
        x.len().checked_div(width).unwrap_or(0) * width,
    )?;
    let (weight, bias) = (wide(weight), wide(bias));
    let rows = out
        .par_chunks_mut(width.max(1))
        .zip(x.par_chunks(width.max(1)));
    rows.for_each_init(
        || vec![0.0; width],
        |row, (out, x)| {
            T::widen(x, row);
            let mean = sum(row, f64::from) / width as f64;
            let squares = sum(row, |x| (f64::from(x) - mean) * (f64::from(x) - mean));
            let scale = 1.0 / (squares / width as f64 + f64::from(epsilon)).sqrt();
            let (mean, scale) = (mean as f32, scale as f32);
            for ((x, weight), bias) in row.iter_mut().zip(&weight).zip(&bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
            T::narrow(row, out);
        },
    );
    Ok(())
}

/// Group norm of images of `pixels` pixels. See [`ops::group_norm`](crate::ops::group_norm()).
///
/// # Errors
/// When the lengths or scalars do not fit.
pub fn group_norm<T: Float>(
    x: &[T],
    weight: &[T],
    bias: &[T],
    pixels: usize,
    params: &GroupNorm,
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "group_norm";
    let channels = weight.len();
    params.check(channels)?;
    length(OP, "bias", bias.len(), channels)?;
    length(OP, "out", out.len(), x.len())?;
    let image = pixels * channels;
    length(
        OP,
        "x",
        x.len(),
        x.len().checked_div(image).unwrap_or(0) * image,
    )?;
    let (weight, bias) = (wide(weight), wide(bias));
    for (x, out) in x.chunks(image.max(1)).zip(out.chunks_mut(image.max(1))) {
        let moments = group_moments(x, channels, params);
        let of_channel = |channel: usize| moments[channel * params.groups / channels];
        let means: Vec<f32> = (0..channels)
            .map(|channel| of_channel(channel)[0])
            .collect();
        let scales = weight.iter().enumerate();
        let scales: Vec<f32> = scales
            .map(|(channel, weight)| of_channel(channel)[1] * weight)
            .collect();
        let task = (TASK / channels).max(1) * channels;
        out.par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each_init(
                || vec![0.0; task],
                |block, (out, x)| {
                    let block = &mut block[..x.len()];
                    T::widen(x, block);
                    with_avx2(|| {
                        for pixel in block.chunks_mut(channels) {
                            let affine = means.iter().zip(&scales).zip(&bias);
                            for (x, ((mean, scale), shift)) in pixel.iter_mut().zip(affine) {
                                *x = (*x - mean) * scale + shift;
                            }
                        }
                    });
                    params.activation.apply(block);
                    T::narrow(block, out);
                },
            );
    }
    Ok(())
}

/// Mean and 1 / deviation of each group of an image. Squares of `f32` are exact in `f64`, and so is
/// their difference from the mean's, to many digits more than an `f32` has.
fn group_moments<T: Float>(x: &[T], channels: usize, params: &GroupNorm) -> Vec<[f32; 2]> {
    let task = (TASK / channels).max(1) * channels;
    let partial: Vec<[Vec<f64>; 2]> = x
        .par_chunks(task)
        .map(|x| {
            let mut block = vec![0.0; x.len()];
            T::widen(x, &mut block);
            let [mut sums, mut squares] = [0; 2].map(|_| vec![0.0f64; channels]);
            with_avx2(|| {
                for pixel in block.chunks(channels) {
                    for ((sum, square), &x) in sums.iter_mut().zip(&mut squares).zip(pixel) {
                        *sum += f64::from(x);
                        *square += f64::from(x) * f64::from(x);
                    }
                }
            });
            [sums, squares]
        })
        .collect();
    let width = channels / params.groups;
    let count = (x.len() / params.groups) as f64;
    let moments = |group: usize| {
        let members = group * width..(group + 1) * width;
        let total = |which: usize| -> f64 {
            let sums = partial.iter().map(|part| &part[which][members.clone()]);
            sums.flatten().sum()
        };
        let [sum, squares] = [0, 1].map(total);
        let mean = sum / count;
        let variance = squares / count - mean * mean;
        // NaN, which a comparison fails, stays NaN.
        let variance = if variance < 0.0 { 0.0 } else { variance };
        [
            mean as f32,
            (1.0 / (variance + f64::from(params.epsilon)).sqrt()) as f32,
        ]
    };
    (0..params.groups).map(moments).collect()
}

/// Sum of a function of each value.
#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut blocks = values.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += of(value);
        }
    }
    lanes.iter().sum::<f64>()
        + blocks
            .remainder()
            .iter()
            .map(|&value| of(value))
            .sum::<f64>()
}

fn wide<T: Float>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

fn length(op: &'static str, argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("{expected} elements"),
        is,
    ))
}
