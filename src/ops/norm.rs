//! Layer norm and group norm.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::error::{Error, Result};
use crate::params::GroupNorm;
use crate::tensor::{ShapeText, Tensor};

/// Layer norm of each row of `x`: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
///
/// - `x`: `[.., D]`, f32, f16 or bf16. Mean and variance (over D, not D - 1) are of its last axis.
/// - `weight`, `bias`: `[D]`, of the type of `x`.
///
/// The result has the shape and type of `x`. Moments are formed in f32 or better from differences to the
/// mean, the result is rounded once, and is bit-identical from run to run. NaN or an infinity makes its
/// row NaN. `x` is read once and written once.
///
/// # Errors
/// Shapes, types or devices that do not fit; an epsilon that is negative or not finite; on CUDA rows of
/// more than 12,288 elements.
///
/// # Example
/// ```
/// use ocelli::ops::layer_norm;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![1f32, 3.0], &[1, 2], &Device::Cpu)?;
/// let weight = Tensor::from_vec(vec![1f32, 10.0], &[2], &Device::Cpu)?;
/// let bias = Tensor::from_vec(vec![0f32, 5.0], &[2], &Device::Cpu)?;
/// let y = layer_norm(&x, &weight, &bias, 0.0)?;
/// assert_eq!(y.to_vec::<f32>()?, [-1.0, 15.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Ba, Kiros and Hinton, *Layer Normalization*, 2016.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    const OP: &str = "layer_norm";
    crate::params::norm::epsilon(OP, epsilon)?;
    let Some(&width) = x.shape().last() else {
        return Err(Error::input(OP, "x", "[.., D]", ShapeText(x.shape())));
    };
    affine(OP, x, width, weight, bias)?;
    if x.is_empty() {
        return Ok(x.clone());
    }
    on_device!(&x.device(),
        cpu => with_float!(OP, "x", x, T => {
            let mut out = vec![T::default(); x.len()];
            let (weight, bias) = (weight.as_slice()?, bias.as_slice()?);
            cpu::norm::layer_norm::<T>(x.as_slice()?, weight, bias, epsilon, &mut out)?;
            Ok(Tensor::from_cpu(out, x.shape()))
        }),
        cuda(context) => with_float!(OP, "x", x, T => {
            let inputs = [x.as_cuda()?, weight.as_cuda()?, bias.as_cuda()?];
            let out = crate::cuda::layer_norm::run::<T>(context, inputs, epsilon)?;
            Ok(Tensor::from_cuda(out, x.shape()))
        }),
    )
}

/// Group norm of images: each group of neighbouring channels of an image, over all of its pixels, as
/// `act((x - mean) / sqrt(variance + epsilon) * weight + bias)`.
///
/// - `x`: `[B, .., C]`, f32, f16 or bf16; all axes between the first and the last are pixels.
/// - `weight`, `bias`: `[C]`, of the type of `x`.
///
/// The result has the shape and type of `x`. Sums of values and squares are formed in f64, the result is
/// rounded once, and is bit-identical from run to run. NaN or an infinity makes its group NaN. `x` is
/// read twice and written once.
///
/// # Errors
/// Shapes, types or devices that do not fit; a number of groups that does not divide C; an epsilon that
/// is negative or not finite; on CUDA more than 3,072 channels or 65,535 images.
///
/// # Example
/// ```
/// use ocelli::ops::group_norm;
/// use ocelli::params::GroupNorm;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![1f32, 5.0, 3.0, 5.0], &[1, 1, 2, 2], &Device::Cpu)?;
/// let weight = Tensor::from_vec(vec![1f32, 1.0], &[2], &Device::Cpu)?;
/// let params = GroupNorm { groups: 2, epsilon: 1e-12, ..GroupNorm::default() };
/// let y = group_norm(&x, &weight, &weight, &params)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 2.0, 1.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Wu and He, *Group Normalization*, 2018.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    params: &GroupNorm,
) -> Result<Tensor> {
    const OP: &str = "group_norm";
    let [images, pixels @ .., channels] = x.shape() else {
        return Err(Error::input(OP, "x", "[B, .., C]", ShapeText(x.shape())));
    };
    let extents = [*images, pixels.iter().product(), *channels];
    params.check(*channels)?;
    affine(OP, x, *channels, weight, bias)?;
    if x.is_empty() {
        return Ok(x.clone());
    }
    on_device!(&x.device(),
        cpu => with_float!(OP, "x", x, T => {
            let mut out = vec![T::default(); x.len()];
            let (weight, bias) = (weight.as_slice()?, bias.as_slice()?);
            cpu::norm::group_norm::<T>(x.as_slice()?, weight, bias, extents[1], params, &mut out)?;
            Ok(Tensor::from_cpu(out, x.shape()))
        }),
        cuda(context) => with_float!(OP, "x", x, T => {
            let inputs = [x.as_cuda()?, weight.as_cuda()?, bias.as_cuda()?];
            let out = crate::cuda::group_norm::run::<T>(context, extents, inputs, params)?;
            Ok(Tensor::from_cuda(out, x.shape()))
        }),
    )
}

/// Checks a norm's weight and bias.
fn affine(
    op: &'static str,
    x: &Tensor,
    width: usize,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<()> {
    check::float(op, "x", x)?;
    for (argument, tensor) in [("weight", weight), ("bias", bias)] {
        check::shape(op, argument, tensor, &[width])?;
        check::dtype(op, argument, tensor, x.dtype())?;
        check::device(op, argument, tensor, &x.device())?;
    }
    Ok(())
}
