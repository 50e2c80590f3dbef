//! Two-dimensional convolutions.

use super::laid::Laid;
use super::linear::terms;
use super::{on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Conv2d;
use crate::tensor::{Device, ShapeText, Tensor};
use std::sync::Arc;

const OP: &str = "conv2d";

/// The weight of a two-dimensional convolution, laid out once for the device that it serves.
///
/// On the CPU it is kept in f32, whatever its type, and for kernels of 3 x 3 a second time, transformed
/// for Winograd's method (four times as large); on CUDA in its type. Clones share it.
#[derive(Debug, Clone)]
pub struct Conv2dWeight {
    /// Outputs, channels, rows and columns.
    extents: [usize; 4],
    dtype: DType,
    laid: Laid<cpu::conv2d::Conv2dWeight>,
}

impl Conv2dWeight {
    /// Lays out `weight`, `[outputs, channels, height, width]` as PyTorch stores it, for `device`.
    /// This waits for the device where `weight` lies on one, and is meant to be done once, when a
    /// model is loaded.
    ///
    /// # Errors
    /// When `weight` has another rank, no channels or taps, or is of type i32; the environment family
    /// from the device.
    pub fn new(weight: &Tensor, device: &Device) -> Result<Self> {
        let extents = match *weight.shape() {
            [outputs, c, h, w] if c * h * w > 0 => [outputs, c, h, w],
            _ => {
                let rule =
                    "[outputs, channels, height, width] with channels, height and width >= 1";
                return Err(Error::input(OP, "weight", rule, ShapeText(weight.shape())));
            }
        };
        let host = weight.to_device(&Device::Cpu)?;
        let laid = with_float!(OP, "weight", host, T => {
            let values = host.as_slice::<T>()?;
            on_device!(device,
                cpu => {
                    let packed = cpu::conv2d::Conv2dWeight::new(values, extents)?;
                    Ok(Laid::Cpu(Arc::new(packed)))
                },
                cuda(context) => {
                    let rows = crate::cuda::matmul::lay_out(values, extents)?;
                    let len = rows.len();
                    Ok(Laid::Cuda(context.clone(), Tensor::from_vec(rows, &[len], device)?))
                },
            )
        })?;
        Ok(Self {
            extents,
            dtype: weight.dtype(),
            laid,
        })
    }

    /// Extents as PyTorch has them: outputs, channels, rows and columns.
    pub fn extents(&self) -> [usize; 4] {
        self.extents
    }
}

/// Two-dimensional convolution of images `[B, H, W, C]`.
///
/// ```text
/// y[b, i, j, n] = act(sum over u, v, c of x[b, i * stride + u - padding, j * stride + v - padding, c]
///                                         * weight[n, c, u, v] + bias[n] + residual[b, i, j, n])
/// ```
///
/// with zeros outside of an image: PyTorch's convolution of one group and dilation 1, with the channels
/// last in `x` and `y`.
///
/// | argument | shape | |
/// |---|---|---|
/// | `x` | `[B, H, W, C]` | f32, f16 or bf16 |
/// | `weight` | `[N, C, height, width]` | of the type of `x`, laid out for its device |
/// | `bias` | `[N]` | of the type of `x` |
/// | `residual` | as the result | of the type of `x`; added before the activation |
/// | returned | `[B, H', W', N]`, `H' = (H + 2 padding - height) / stride + 1` rounded down, `W'` alike | of the type of `x` |
///
/// Sums are in f32, rounded once at the end, and bit-identical from run to run, on the CPU whatever the
/// number of threads. On the CPU kernels of 3 x 3 and stride 1 go by Winograd's method F(4 x 4, 3 x 3)
/// where it is faster, and round in another place: the error is relative to the values around.
///
/// A NaN or infinity makes every result that depends on it NaN or infinite (before the activation);
/// which of the two is the device's choice, and by Winograd's method it may reach results up to 3
/// pixels farther. Of `relu`, NaN stays NaN.
///
/// `2 * B * H' * W' * N * C * height * width` operations; no matrix of patches is stored. On the CPU a
/// padded copy of `x` is. On CUDA channels of whole 16 bytes are fastest (a multiple of 8, of 4 in f32);
/// others are read element by element.
///
/// # Errors
/// Shapes, types or devices that do not fit; a stride of 0; padding of the kernel's extent or more; an
/// image that is smaller than the kernel with its padding; on CUDA more than 2^31 pixels in `x` or the
/// result.
///
/// # Example
/// ```
/// use ocelli::ops::{Conv2dWeight, conv2d};
/// use ocelli::params::Conv2d;
/// use ocelli::{Device, Tensor};
///
/// let weight = Tensor::from_vec(vec![1f32; 9], &[1, 1, 3, 3], &Device::Cpu)?;
/// let weight = Conv2dWeight::new(&weight, &Device::Cpu)?;
/// let x = Tensor::from_vec(vec![1f32; 16], &[1, 4, 4, 1], &Device::Cpu)?;
/// let params = Conv2d { stride: 2, padding: 1, ..Conv2d::default() };
/// let y = conv2d(&x, &weight, None, None, &params)?;
/// assert_eq!(y.shape(), [1, 2, 2, 1]);
/// assert_eq!(y.to_vec::<f32>()?, [4.0, 6.0, 6.0, 9.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.conv2d`; Lavin and Gray, *Fast Algorithms for Convolutional Neural
/// Networks*, 2016.
pub fn conv2d(
    x: &Tensor,
    weight: &Conv2dWeight,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    params: &Conv2d,
) -> Result<Tensor> {
    let (input, shape) = checked(x, weight, bias, residual, params)?;
    let len = shape.iter().product();
    if len == 0 {
        return Tensor::zeros(&shape, x.dtype(), &x.device());
    }
    with_float!(OP, "x", x, T => match &weight.laid {
        Laid::Cpu(packed) => {
            let terms = cpu::linear::Terms {
                bias: bias.map(Tensor::as_slice).transpose()?,
                residual: residual.map(Tensor::as_slice).transpose()?,
                activation: params.activation,
            };
            let mut out = vec![T::default(); len];
            let [images, height, width, _] = input;
            let extents = [images, height, width];
            cpu::conv2d::conv2d(x.as_slice::<T>()?, extents, packed, terms, params, &mut out)?;
            Ok(Tensor::from_cpu(out, &shape))
        }
        #[cfg(feature = "cuda")]
        Laid::Cuda(context, laid) => {
            use crate::cuda::matmul;
            let geometry = matmul::Geometry::conv2d(input, weight.extents, params)?;
            let added = [bias.map(Tensor::as_cuda).transpose()?, residual.map(Tensor::as_cuda).transpose()?];
            let factors = [x.as_cuda()?, laid.as_cuda()?];
            let out = matmul::run::<T>(context, geometry, params.activation, factors, added)?;
            Ok(Tensor::from_cuda(out, &shape))
        }
        #[cfg(not(feature = "cuda"))]
        Laid::Cuda(context, _) => match *context {},
    })
}

/// Checks everything and returns the shapes of the input and the result.
fn checked(
    x: &Tensor,
    weight: &Conv2dWeight,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    params: &Conv2d,
) -> Result<([usize; 4], [usize; 4])> {
    let [outputs, channels, height, width] = weight.extents;
    let input = match *x.shape() {
        [images, rows, columns, last] if last == channels => [images, rows, columns, last],
        _ => {
            let rule = format!("[B, H, W, {channels}]");
            return Err(Error::input(OP, "x", rule, ShapeText(x.shape())));
        }
    };
    let [out_height, out_width] = params.output_extents([input[1], input[2]], [height, width])?;
    let shape = [input[0], out_height, out_width, outputs];
    terms(
        OP,
        x,
        weight.dtype,
        &weight.laid.device(),
        &shape,
        [bias, residual],
    )?;
    Ok((input, shape))
}
