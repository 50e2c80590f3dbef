//! Smooth-L1 loss of corner offsets.

use super::corner_embedding_loss::{check_indices, check_upstream};
use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::CornerOffsetLoss;
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "corner_offset_loss";

/// The loss that teaches a CornerNet how far a corner lies from its cell's edge.
///
/// Of the n boxes of the batch, with the difference d of each offset from its target:
///
/// ```text
/// weight * sum of smooth_l1(d) / (n + 1e-4),    smooth_l1(d) = d^2 / 2 where |d| < 1, else |d| - 1/2
/// ```
///
/// | argument | shape | type |
/// |---|---|---|
/// | `offsets` | `[B, H, W, 2]`, x before y | f32, f16, bf16 |
/// | `indices` | `[B, M]`: the cell `y * W + x` of each box's corner, M at most 1024 | i32 |
/// | `targets` | `[B, M, 2]`, as of [`corner_targets`](super::corner_targets) | f32 |
/// | returned | `[1]` | f32 |
///
/// A box with an index outside `0..H * W` is left out, and its target not read. NaN gives NaN. Arithmetic
/// and sums are in f64, in a fixed order: the same on every run.
///
/// Source: Law and Deng, *CornerNet*, 2018, equation 3, and `models/py_utils/kp_utils.py` of
/// princeton-vl/CornerNet.
///
/// # Errors
/// [`Error::Input`] when shapes, types, devices or scalars do not fit; the environment family from the
/// device.
pub fn corner_offset_loss(
    offsets: &Tensor,
    indices: &Tensor,
    targets: &Tensor,
    params: &CornerOffsetLoss,
) -> Result<Tensor> {
    let [images, ..] = checked(offsets, indices, targets, params)?;
    on_device!(&offsets.device(),
        cpu => with_float!(OP, "offsets", offsets, T => {
            let (indices, targets) = (indices.as_slice()?, targets.as_slice()?);
            let loss = cpu::corner_losses::offset_loss(
                offsets.as_slice::<T>()?, indices, targets, images, params, None)?;
            Ok(Tensor::from_cpu(vec![loss], &[1]))
        }),
        cuda(context) => with_float!(OP, "offsets", offsets, T => {
            let boxes = (indices.as_cuda()?, targets.as_cuda()?, extents(offsets, indices));
            let loss = crate::cuda::corner_offset_loss::run::<T>(
                context, offsets.as_cuda()?, boxes, params, None, None)?;
            Ok(Tensor::from_cuda(loss, &[1]))
        }),
    )
}

/// [`corner_offset_loss`] and its gradient with respect to `offsets`.
///
/// The gradient has the shape and type of `offsets`, zero but at the boxes' cells, where those of several
/// boxes add up. It is multiplied by `upstream`, a `[1]` tensor of f32 on the same device (1 where it is
/// `None`); the loss is not.
///
/// # Errors
/// As [`corner_offset_loss`].
pub fn corner_offset_loss_with_gradient(
    offsets: &Tensor,
    indices: &Tensor,
    targets: &Tensor,
    upstream: Option<&Tensor>,
    params: &CornerOffsetLoss,
) -> Result<(Tensor, Tensor)> {
    let shape = checked(offsets, indices, targets, params)?;
    let device = offsets.device();
    check_upstream(OP, upstream, &device)?;
    on_device!(&device,
        cpu => with_float!(OP, "offsets", offsets, T => {
            let scale = upstream.map_or(Ok(1.0), |scalar| Ok(scalar.as_slice::<f32>()?[0]))?;
            let (indices, targets) = (indices.as_slice()?, targets.as_slice()?);
            let mut gradient = vec![T::default(); offsets.len()];
            let loss = cpu::corner_losses::offset_loss(
                offsets.as_slice::<T>()?, indices, targets, shape[0], params,
                Some((scale, &mut gradient)))?;
            Ok((Tensor::from_cpu(vec![loss], &[1]), Tensor::from_cpu(gradient, &shape)))
        }),
        cuda(context) => with_float!(OP, "offsets", offsets, T => {
            let boxes = (indices.as_cuda()?, targets.as_cuda()?, extents(offsets, indices));
            let upstream = upstream.map(Tensor::as_cuda).transpose()?;
            let mut gradient =
                crate::cuda::Buffer::uninitialised(context, offsets.dtype(), offsets.len())?;
            let loss = crate::cuda::corner_offset_loss::run::<T>(
                context, offsets.as_cuda()?, boxes, params, upstream, Some(&mut gradient))?;
            Ok((Tensor::from_cuda(loss, &[1]), Tensor::from_cuda(gradient, &shape)))
        }),
    )
}

/// Checks what both forms share and returns the shape of the offsets.
fn checked(
    offsets: &Tensor,
    indices: &Tensor,
    targets: &Tensor,
    params: &CornerOffsetLoss,
) -> Result<[usize; 4]> {
    params.check()?;
    let &[images, height, width, 2] = offsets.shape() else {
        let value = ShapeText(offsets.shape());
        return Err(Error::input(OP, "offsets", "[B, H, W, 2]", value));
    };
    check_indices(OP, "indices", indices, images)?;
    check::device(OP, "indices", indices, &offsets.device())?;
    check::dtype(OP, "targets", targets, DType::F32)?;
    check::shape(OP, "targets", targets, &[images, indices.shape()[1], 2])?;
    check::device(OP, "targets", targets, &offsets.device())?;
    Ok([images, height, width, 2])
}

#[cfg(feature = "cuda")]
fn extents(offsets: &Tensor, indices: &Tensor) -> crate::cuda::corner_embedding_loss::Extents {
    let shape = offsets.shape();
    crate::cuda::corner_embedding_loss::Extents {
        images: shape[0],
        cells: shape[1] * shape[2],
        boxes: indices.shape()[1],
    }
}
