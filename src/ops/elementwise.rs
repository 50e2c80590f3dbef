//! Activations, image normalisation, embeddings and position terms.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Activation;
use crate::tensor::{ShapeText, Tensor};

/// An [`Activation`] of each element of `x`, f32, f16 or bf16; computed in f32 and rounded once.
///
/// A layer that ends with one does it in passing: see [`linear`](super::linear()),
/// [`conv2d`](super::conv2d()) and [`group_norm`](super::group_norm()).
///
/// # Errors
/// When `x` is of type i32.
///
/// # Example
/// ```
/// use ocelli::params::Activation;
/// use ocelli::{Device, Tensor, ops};
///
/// let x = Tensor::from_vec(vec![-1f32, 2.0], &[2], &Device::Cpu)?;
/// let y = ops::activation(&x, Activation::Relu)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 2.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    const OP: &str = "activation";
    with_float!(OP, "x", x, T => {
        if x.is_empty() || activation == Activation::None {
            return Ok(x.clone());
        }
        on_device!(&x.device(),
            cpu => {
                let mut out = vec![T::default(); x.len()];
                cpu::elementwise::activation::<T>(x.as_slice()?, activation, &mut out)?;
                Ok(Tensor::from_cpu(out, x.shape()))
            },
            cuda(context) => {
                let x_buffer = x.as_cuda()?;
                let out = crate::cuda::elementwise::run_activation::<T>(context, x_buffer, activation)?;
                Ok(Tensor::from_cuda(out, x.shape()))
            },
        )
    })
}

/// `(x - mean) / deviation`, channel by channel.
///
/// - `x`: `[.., C]`, f32, f16 or bf16.
/// - `mean`, `deviation`: C numbers, in the unit of `x`. ImageNet's, for images in 0..1: `[0.485, 0.456,
///   0.406]` and `[0.229, 0.224, 0.225]`.
///
/// The deviation is used as its reciprocal in f32, which may change the last bit.
///
/// # Errors
/// When lengths or types do not fit, a mean is not finite, or a deviation is not finite and above 0.
///
/// # Example
/// ```
/// use ocelli::ops::normalize_image;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![0.5f32, 1.0], &[1, 1, 1, 2], &Device::Cpu)?;
/// let y = normalize_image(&x, &[0.25, 0.5], &[0.25, 0.5])?;
/// assert_eq!(y.to_vec::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torchvision.transforms.functional.normalize`.
pub fn normalize_image(x: &Tensor, mean: &[f32], deviation: &[f32]) -> Result<Tensor> {
    const OP: &str = "normalize_image";
    let channels = x.shape().last().copied().unwrap_or(0);
    if channels == 0 || mean.len() != channels {
        let rule = format!("[.., {}], as there are means", mean.len().max(1));
        return Err(Error::input(OP, "x", rule, ShapeText(x.shape())));
    }
    if deviation.len() != channels {
        let rule = format!("{channels} numbers");
        return Err(Error::input(OP, "deviation", rule, deviation.len()));
    }
    if let Some(mean) = mean.iter().find(|mean| !mean.is_finite()) {
        return Err(Error::input(OP, "mean", "finite", mean));
    }
    // The reciprocal of a subnormal number would be infinite.
    let bad = deviation
        .iter()
        .find(|value| !(value.is_normal() && **value > 0.0));
    if let Some(deviation) = bad {
        return Err(Error::input(
            OP,
            "deviation",
            "finite and above 0",
            deviation,
        ));
    }
    with_float!(OP, "x", x, T => {
        if x.is_empty() {
            return Ok(x.clone());
        }
        on_device!(&x.device(),
            cpu => {
                let mut out = vec![T::default(); x.len()];
                cpu::elementwise::normalize_image::<T>(x.as_slice()?, mean, deviation, &mut out)?;
                Ok(Tensor::from_cpu(out, x.shape()))
            },
            cuda(context) => {
                let scale: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
                let x_buffer = x.as_cuda()?;
                let out = crate::cuda::elementwise::run_normalize_image::<T>(context, x_buffer, mean, &scale)?;
                Ok(Tensor::from_cuda(out, x.shape()))
            },
        )
    })
}

/// A row of `table` for each index.
///
/// - `table`: `[V, D]`, f32, f16 or bf16.
/// - `indices`: any shape, i32. An index outside of 0..V gives a row of zeros, on every device.
/// - returned: the shape of `indices`, then D.
///
/// # Errors
/// Shapes, types or devices that do not fit.
///
/// # Example
/// ```
/// use ocelli::ops::embedding;
/// use ocelli::{Device, Tensor};
///
/// let table = Tensor::from_vec(vec![1f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
/// let indices = Tensor::from_vec(vec![1i32, 7], &[2], &Device::Cpu)?;
/// let rows = embedding(&table, &indices)?;
/// assert_eq!(rows.to_vec::<f32>()?, [3.0, 4.0, 0.0, 0.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.embedding`, which fails on a bad index.
pub fn embedding(table: &Tensor, indices: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    let &[_, width] = table.shape() else {
        return Err(Error::input(
            OP,
            "table",
            "[V, D]",
            ShapeText(table.shape()),
        ));
    };
    check::dtype(OP, "indices", indices, DType::I32)?;
    check::device(OP, "indices", indices, &table.device())?;
    let shape = [indices.shape(), &[width]].concat();
    with_float!(OP, "table", table, T => {
        if table.is_empty() || indices.is_empty() {
            return Tensor::zeros(&shape, table.dtype(), &table.device());
        }
        on_device!(&table.device(),
            cpu => {
                let mut out = vec![T::default(); indices.len() * width];
                let indices = indices.as_slice()?;
                cpu::elementwise::embedding::<T>(table.as_slice()?, width, indices, &mut out)?;
                Ok(Tensor::from_cpu(out, &shape))
            },
            cuda(context) => {
                let (table, indices) = (table.as_cuda()?, indices.as_cuda()?);
                let out = crate::cuda::elementwise::run_embedding::<T>(context, table, width, indices)?;
                Ok(Tensor::from_cuda(out, &shape))
            },
        )
    })
}

/// The tokens of each sequence, behind those of `prefix` where it is given, plus a term for each position.
///
/// - `x`: `[B, N, D]`, f32, f16 or bf16.
/// - `prefix`: `[S, D]`, such as a class token: the same for each sequence.
/// - `positions`: `[S + N, D]`; a position without a term has zeros.
/// - returned: `[B, S + N, D]`. Sums are in f32, rounded once.
///
/// # Errors
/// Shapes, types or devices that do not fit.
///
/// # Example
/// ```
/// use ocelli::ops::add_positions;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![1f32, 2.0], &[2, 1, 1], &Device::Cpu)?;
/// let class = Tensor::from_vec(vec![7f32], &[1, 1], &Device::Cpu)?;
/// let positions = Tensor::from_vec(vec![0.5f32, 10.0], &[2, 1], &Device::Cpu)?;
/// let y = add_positions(&x, Some(&class), &positions)?;
/// assert_eq!(y.to_vec::<f32>()?, [7.5, 11.0, 7.5, 12.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021, equation 1.
pub fn add_positions(x: &Tensor, prefix: Option<&Tensor>, positions: &Tensor) -> Result<Tensor> {
    const OP: &str = "add_positions";
    let &[sequences, tokens, width] = x.shape() else {
        return Err(Error::input(OP, "x", "[B, N, D]", ShapeText(x.shape())));
    };
    let before = match prefix.map(Tensor::shape) {
        None => 0,
        Some(&[before, of_prefix]) if of_prefix == width => before,
        Some(shape) => {
            return Err(Error::input(
                OP,
                "prefix",
                format!("[S, {width}]"),
                ShapeText(shape),
            ));
        }
    };
    check::shape(OP, "positions", positions, &[before + tokens, width])?;
    for (argument, tensor) in [("prefix", prefix), ("positions", Some(positions))] {
        let Some(tensor) = tensor else { continue };
        check::dtype(OP, argument, tensor, x.dtype())?;
        check::device(OP, argument, tensor, &x.device())?;
    }
    let shape = [sequences, before + tokens, width];
    with_float!(OP, "x", x, T => {
        if shape.contains(&0) {
            return Tensor::zeros(&shape, x.dtype(), &x.device());
        }
        on_device!(&x.device(),
            cpu => {
                let mut out = vec![T::default(); shape.iter().product()];
                let prefix = prefix.map_or(Ok(&[][..]), Tensor::as_slice)?;
                let (x, positions) = (x.as_slice::<T>()?, positions.as_slice()?);
                cpu::elementwise::add_positions(x, prefix, positions, &mut out)?;
                Ok(Tensor::from_cpu(out, &shape))
            },
            cuda(context) => {
                let prefix = prefix.map(Tensor::as_cuda).transpose()?;
                let (x, positions) = (x.as_cuda()?, positions.as_cuda()?);
                let out = crate::cuda::elementwise::run_add_positions::<T>(
                    context, x, prefix, positions, [sequences, width])?;
                Ok(Tensor::from_cuda(out, &shape))
            },
        )
    })
}
