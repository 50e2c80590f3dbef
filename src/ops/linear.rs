//! Linear layers.

use super::laid::Laid;
use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Activation;
use crate::tensor::{Device, ShapeText, Tensor};
use std::sync::Arc;

const OP: &str = "linear";

/// The weight of a linear layer, laid out once for the device that it serves.
///
/// On the CPU it is kept in f32, whatever its type; on CUDA in its type. Clones share it.
#[derive(Debug, Clone)]
pub struct LinearWeight {
    outputs: usize,
    inputs: usize,
    dtype: DType,
    laid: Laid<cpu::matmul::PackedWeight>,
}

impl LinearWeight {
    /// Lays out `weight`, `[outputs, inputs]` as PyTorch stores it, for `device`. This waits for the
    /// device where `weight` lies on one, and is meant to be done once, when a model is loaded.
    ///
    /// # Errors
    /// When `weight` has another rank, no inputs, or is of type i32; the environment family from the
    /// device.
    pub fn new(weight: &Tensor, device: &Device) -> Result<Self> {
        let [outputs, inputs] = match *weight.shape() {
            [outputs, inputs] if inputs > 0 => [outputs, inputs],
            _ => {
                let rule = "[outputs, inputs] with inputs >= 1";
                return Err(Error::input(OP, "weight", rule, ShapeText(weight.shape())));
            }
        };
        let host = weight.to_device(&Device::Cpu)?;
        let laid = with_float!(OP, "weight", host, T => {
            let values = host.as_slice::<T>()?;
            on_device!(device,
                cpu => {
                    let packed = cpu::linear::pack(values, outputs, inputs)?;
                    Ok(Laid::Cpu(Arc::new(packed)))
                },
                cuda(context) => {
                    let rows = crate::cuda::matmul::lay_out(values, [outputs, inputs, 1, 1])?;
                    let len = rows.len();
                    Ok(Laid::Cuda(context.clone(), Tensor::from_vec(rows, &[len], device)?))
                },
            )
        })?;
        Ok(Self {
            outputs,
            inputs,
            dtype: weight.dtype(),
            laid,
        })
    }

    /// Length of a result's rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of an input's rows.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

/// Linear layer `y = act(x W^T + bias + residual)`.
///
/// | argument | shape | |
/// |---|---|---|
/// | `x` | `[.., inputs]` | f32, f16 or bf16 |
/// | `weight` | `[outputs, inputs]` | of the type of `x`, laid out for its device |
/// | `bias` | `[outputs]` | of the type of `x` |
/// | `residual` | `[.., outputs]` | of the type of `x`; added before the activation |
/// | returned | `[.., outputs]` | of the type of `x` |
///
/// Sums are in f32, rounded once at the end. Each is formed in one order that depends on nothing but
/// the device: results are bit-identical from run to run, and on the CPU whatever the number of
/// threads. On CUDA, f32 operands are multiplied as sums of two tf32 numbers, with the error of an f32
/// product.
///
/// A NaN or infinity makes every result that depends on it NaN or infinite (before the activation);
/// which of the two is the device's choice. Of `relu`, NaN stays NaN.
///
/// `2 * rows * inputs * outputs` operations. On CUDA rows of whole 16 bytes are fastest (a multiple of
/// 8 inputs, of 4 in f32); others are read element by element. `x`, `bias` and `residual` are read in
/// place, and no workspace is taken.
///
/// # Errors
/// Shapes, types or devices that do not fit; on CUDA more than 2^31 rows, inputs or outputs.
///
/// # Example
/// ```
/// use ocelli::ops::{LinearWeight, linear};
/// use ocelli::params::Activation;
/// use ocelli::{Device, Tensor};
///
/// let weight = Tensor::from_vec(vec![1f32, 2., 3., -4.], &[2, 2], &Device::Cpu)?;
/// let weight = LinearWeight::new(&weight, &Device::Cpu)?;
/// let x = Tensor::from_vec(vec![1f32, 1.], &[1, 2], &Device::Cpu)?;
/// let y = linear(&x, &weight, None, None, Activation::Relu)?;
/// assert_eq!(y.to_vec::<f32>()?, [3.0, 0.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.linear`; the exact GELU of Hendrycks and Gimpel, 2016.
pub fn linear(
    x: &Tensor,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let shape = checked(x, weight, bias, residual)?;
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    if rows * weight.outputs == 0 {
        return Tensor::zeros(&shape, x.dtype(), &x.device());
    }
    with_float!(OP, "x", x, T => match &weight.laid {
        Laid::Cpu(packed) => {
            let terms = cpu::linear::Terms {
                bias: bias.map(Tensor::as_slice).transpose()?,
                residual: residual.map(Tensor::as_slice).transpose()?,
                activation,
            };
            let mut out = vec![T::default(); rows * weight.outputs];
            cpu::linear::linear(x.as_slice::<T>()?, packed, terms, &mut out)?;
            Ok(Tensor::from_cpu(out, &shape))
        }
        #[cfg(feature = "cuda")]
        Laid::Cuda(context, laid) => {
            use crate::cuda::matmul;
            let geometry = matmul::Geometry::linear(rows, weight.inputs, weight.outputs)?;
            let bias = bias.map(Tensor::as_cuda).transpose()?;
            let residual = residual.map(Tensor::as_cuda).transpose()?;
            let factors = [x.as_cuda()?, laid.as_cuda()?];
            let out = matmul::run::<T>(context, geometry, activation, factors, [bias, residual])?;
            Ok(Tensor::from_cuda(out, &shape))
        }
        #[cfg(not(feature = "cuda"))]
        Laid::Cuda(context, _) => match *context {},
    })
}

/// Checks everything and returns the shape of the result.
fn checked(
    x: &Tensor,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Vec<usize>> {
    let (inputs, outputs) = (weight.inputs, weight.outputs);
    let rows = match x.shape().split_last() {
        Some((&last, rows)) if last == inputs => rows,
        _ => {
            let rule = format!("[.., {inputs}]");
            return Err(Error::input(OP, "x", rule, ShapeText(x.shape())));
        }
    };
    let shape = [rows, &[outputs]].concat();
    terms(
        OP,
        x,
        weight.dtype,
        &weight.laid.device(),
        &shape,
        [bias, residual],
    )?;
    Ok(shape)
}

/// Checks types and devices of a layer's input, and its bias and residual for a result of `shape`.
pub(super) fn terms(
    op: &'static str,
    x: &Tensor,
    dtype: DType,
    device: &Device,
    shape: &[usize],
    [bias, residual]: [Option<&Tensor>; 2],
) -> Result<()> {
    check::device(op, "x", x, device)?;
    check::dtype(op, "x", x, dtype)?;
    let outputs = &shape[shape.len() - 1..];
    for (argument, term, shape) in [("bias", bias, outputs), ("residual", residual, shape)] {
        let Some(term) = term else { continue };
        check::shape(op, argument, term, shape)?;
        check::dtype(op, argument, term, dtype)?;
        check::device(op, argument, term, device)?;
    }
    Ok(())
}
