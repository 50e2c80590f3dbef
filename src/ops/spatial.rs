//! Pooling, upsampling and resizing of images.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::error::{Error, Result};
use crate::params::{MaxPool2d, ResizeBilinear};
use crate::tensor::{ShapeText, Tensor};

/// The largest of each window of `kernel` x `kernel` pixels, `stride` apart, channel by channel.
///
/// - `x`: `[B, H, W, C]`, f32, f16 or bf16.
/// - returned: `[B, H', W', C]`, `H' = (H + 2 padding - kernel) / stride + 1` rounded down, `W'` alike.
///
/// Windows reach `padding` pixels beyond the image, where there is nothing (not 0). NaN in a window gives
/// NaN. Results are exact.
///
/// # Errors
/// Shape or type that do not fit; a kernel or stride of 0; padding of more than half of the kernel; an
/// image that is smaller than a window.
///
/// # Example
/// ```
/// use ocelli::ops::max_pool2d;
/// use ocelli::params::MaxPool2d;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![1f32, -2.0, 3.0, 0.5], &[1, 2, 2, 1], &Device::Cpu)?;
/// let y = max_pool2d(&x, &MaxPool2d { kernel: 2, stride: 2, padding: 0 })?;
/// assert_eq!(y.to_vec::<f32>()?, [3.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.max_pool2d`, without its `ceil_mode` and dilation.
pub fn max_pool2d(x: &Tensor, params: &MaxPool2d) -> Result<Tensor> {
    const OP: &str = "max_pool2d";
    let input = images(OP, x)?;
    let [height, width] = params.output_extents([input[1], input[2]])?;
    let shape = [input[0], height, width, input[3]];
    if shape.contains(&0) {
        return Tensor::zeros(&shape, x.dtype(), &x.device());
    }
    on_device!(&x.device(),
        cpu => with_float!(OP, "x", x, T => {
            let mut out = vec![T::default(); shape.iter().product()];
            cpu::spatial::max_pool2d::<T>(x.as_slice()?, input, params, &mut out)?;
            Ok(Tensor::from_cpu(out, &shape))
        }),
        cuda(context) => with_float!(OP, "x", x, T => {
            let plan = crate::cuda::spatial::Plan::max_pool2d(input, params, x.dtype())?;
            let out = crate::cuda::spatial::run::<T>(context, &plan, x.as_cuda()?, None)?;
            Ok(Tensor::from_cuda(out, &shape))
        }),
    )
}

/// `skip` plus `x`, brought to its rows and columns by taking nearest pixels: the top-down step of a
/// feature pyramid, and the way up of an hourglass.
///
/// - `x`: `[B, H, W, C]`, f32, f16 or bf16.
/// - `skip`: `[B, H', W', C]`, of the type of `x`; any H' and W'.
/// - returned: as `skip`.
///
/// Row `i` is of row `floor(i * (H / H'))`, quotient and product rounded to f32, and columns alike. The
/// sum is in f32, rounded once.
///
/// # Errors
/// Shapes, types or devices that do not fit; an `x` without pixels for a `skip` that has some.
///
/// # Example
/// ```
/// use ocelli::ops::upsample_nearest_add;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![10f32, 20.0], &[1, 1, 2, 1], &Device::Cpu)?;
/// let skip = Tensor::from_vec(vec![1f32, 2.0, 3.0, 4.0], &[1, 1, 4, 1], &Device::Cpu)?;
/// let y = upsample_nearest_add(&x, &skip)?;
/// assert_eq!(y.to_vec::<f32>()?, [11.0, 12.0, 23.0, 24.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.interpolate` in mode `nearest`.
pub fn upsample_nearest_add(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    const OP: &str = "upsample_nearest_add";
    let input = images(OP, x)?;
    let output = match *skip.shape() {
        [images, height, width, channels] if images == input[0] && channels == input[3] => {
            [height, width]
        }
        _ => {
            let rule = format!("[{}, H', W', {}]", input[0], input[3]);
            return Err(Error::input(OP, "skip", rule, ShapeText(skip.shape())));
        }
    };
    check::dtype(OP, "skip", skip, x.dtype())?;
    check::device(OP, "skip", skip, &x.device())?;
    if skip.is_empty() {
        return Ok(skip.clone());
    }
    if x.is_empty() {
        return Err(Error::input(OP, "x", "not empty", ShapeText(x.shape())));
    }
    on_device!(&x.device(),
        cpu => with_float!(OP, "x", x, T => {
            let mut out = vec![T::default(); skip.len()];
            let (x, added) = (x.as_slice::<T>()?, skip.as_slice()?);
            cpu::spatial::upsample_nearest_add(x, input, added, output, &mut out)?;
            Ok(Tensor::from_cpu(out, skip.shape()))
        }),
        cuda(context) => with_float!(OP, "x", x, T => {
            let plan = crate::cuda::spatial::Plan::upsample_nearest_add(input, output, x.dtype())?;
            let added = Some(skip.as_cuda()?);
            let out = crate::cuda::spatial::run::<T>(context, &plan, x.as_cuda()?, added)?;
            Ok(Tensor::from_cuda(out, skip.shape()))
        }),
    )
}

/// Bilinear resizing without aligned corners.
///
/// - `x`: `[B, H, W, C]`, f32, f16 or bf16.
/// - returned: `[B, height, width, C]`, of the type of `x`.
///
/// Pixel `i` of `n` has its center at `(i + 1/2) / n`. A result is the mean of the pixels by weights that
/// fall off linearly from its center, to 0 at a distance of one pixel of `x`, or with `antialias` of one
/// of the result where that is more: torchvision's transforms use it for images, its detectors do not.
/// Places are computed in whole numbers, so that the weights are those of the definition on every device;
/// PyTorch rounds them to f32. Sums are in f32.
///
/// # Errors
/// Shape or type that do not fit; extents of 0 or above 2^29.
///
/// # Example
/// ```
/// use ocelli::ops::resize_bilinear;
/// use ocelli::params::ResizeBilinear;
/// use ocelli::{Device, Tensor};
///
/// let x = Tensor::from_vec(vec![0f32, 8.0], &[1, 1, 2, 1], &Device::Cpu)?;
/// let params = ResizeBilinear { height: 1, width: 4, antialias: false };
/// let y = resize_bilinear(&x, &params)?;
/// assert_eq!(y.to_vec::<f32>()?, [0.0, 2.0, 6.0, 8.0]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: `torch.nn.functional.interpolate` in mode `bilinear` with `align_corners=False`.
pub fn resize_bilinear(x: &Tensor, params: &ResizeBilinear) -> Result<Tensor> {
    const OP: &str = "resize_bilinear";
    let input = images(OP, x)?;
    params.check([input[1], input[2]])?;
    let shape = [input[0], params.height, params.width, input[3]];
    if shape.contains(&0) {
        return Tensor::zeros(&shape, x.dtype(), &x.device());
    }
    on_device!(&x.device(),
        cpu => with_float!(OP, "x", x, T => {
            let mut out = vec![T::default(); shape.iter().product()];
            cpu::spatial::resize_bilinear::<T>(x.as_slice()?, input, params, &mut out)?;
            Ok(Tensor::from_cpu(out, &shape))
        }),
        cuda(context) => with_float!(OP, "x", x, T => {
            let plan = crate::cuda::spatial::Plan::resize_bilinear(input, params, x.dtype())?;
            let out = crate::cuda::spatial::run::<T>(context, &plan, x.as_cuda()?, None)?;
            Ok(Tensor::from_cuda(out, &shape))
        }),
    )
}

/// The extents of images, which must be of a float type.
fn images(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    let &[images, height, width, channels] = x.shape() else {
        return Err(Error::input(op, "x", "[B, H, W, C]", ShapeText(x.shape())));
    };
    check::float(op, "x", x)?;
    Ok([images, height, width, channels])
}
