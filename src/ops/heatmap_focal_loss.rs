//! Heatmap focal loss.

use super::corner_embedding_loss::check_upstream;
use super::corner_targets::check_boxes;
use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{Corner, CornerTargets, HeatmapFocalLoss};
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "heatmap_focal_loss";

/// Where the targets of a heatmap come from.
#[derive(Debug, Clone, Copy)]
pub enum HeatmapTargets<'a> {
    /// A map of f32 in the shape of the logits.
    Map(&'a Tensor),
    /// Boxes, of which the targets are those of [`corner_targets`](super::corner_targets). They are
    /// rendered where they are used, and never stored.
    Boxes {
        /// `[B, M, 4]` f32.
        boxes: &'a Tensor,
        /// `[B, M]` i32.
        classes: &'a Tensor,
        /// Which corner of them.
        corner: Corner,
        /// How boxes become targets.
        rule: CornerTargets,
    },
}

/// Penalty-reduced focal loss of corner heatmaps, summed and divided by a normalizer.
///
/// For a logit `x`, `p = sigmoid(x)`, and its target `y`:
///
/// ```text
/// -(1 - p)^alpha ln(p)                  where y = 1
/// -(1 - y)^beta p^alpha ln(1 - p)       where y < 1
/// ```
///
/// | argument | shape | type |
/// |---|---|---|
/// | `logits` | `[B, H, W, K]` | f32, f16, bf16 |
/// | `targets` | a map of that shape, or boxes `[B, M, 4]` with classes `[B, M]` | f32, i32 |
/// | returned loss | `[1]` | f32 |
///
/// A target above 1, or NaN, leaves its logit out: it adds nothing, even where it is NaN. Boxes give the
/// targets, and to the last bit the loss, that a map of
/// [`corner_targets`](super::corner_targets) on the same device gives.
///
/// `-ln(1 - p)` is computed as a softplus, exact in both tails; an infinite logit gives the limit, NaN
/// gives NaN. With a `clamp` probabilities are held to `[clamp, 1 - clamp]` instead, and logits beyond get
/// no gradient, as in the official code. Arithmetic is in f32, the sum in f64 in a fixed order: the same
/// on every run.
///
/// The logits are read once, and so is a map; each tile of at least 8192 logits reads 16 bytes a box.
///
/// ```
/// use ocelli::ops::{HeatmapTargets, heatmap_focal_loss};
/// use ocelli::params::HeatmapFocalLoss;
/// use ocelli::{Device, Tensor};
///
/// let logits = Tensor::from_vec(vec![0f32, 0.], &[1, 1, 2, 1], &Device::Cpu)?;
/// let map = Tensor::from_vec(vec![1f32, 0.], &[1, 1, 2, 1], &Device::Cpu)?;
/// let params = HeatmapFocalLoss::default();
/// let loss = heatmap_focal_loss(&logits, &HeatmapTargets::Map(&map), &params)?;
/// assert!((loss.to_vec::<f32>()?[0] - 0.5 * 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Law and Deng, *CornerNet*, 2018, equation 1.
///
/// # Errors
/// [`Error::Input`] when shapes, types, devices or scalars do not fit; the environment family from the
/// device.
pub fn heatmap_focal_loss(
    logits: &Tensor,
    targets: &HeatmapTargets<'_>,
    params: &HeatmapFocalLoss,
) -> Result<Tensor> {
    let shape = checked(logits, targets, params)?;
    on_device!(&logits.device(),
        cpu => with_float!(OP, "logits", logits, T => {
            let bumps = bumps(targets, shape)?;
            let loss = cpu::heatmap_focal_loss::heatmap_focal_loss(
                logits.as_slice::<T>()?, shape, on_cpu(targets, &bumps)?, params, None)?;
            Ok(Tensor::from_cpu(vec![loss], &[1]))
        }),
        cuda(context) => with_float!(OP, "logits", logits, T => {
            let loss = crate::cuda::heatmap_focal_loss::run::<T>(
                context, (logits.as_cuda()?, shape), on_cuda(targets)?, params, None, None)?;
            Ok(Tensor::from_cuda(loss, &[1]))
        }),
    )
}

/// [`heatmap_focal_loss`] and its gradient with respect to `logits`, in one pass over them.
///
/// The gradient has the shape and type of `logits` and is multiplied by `upstream`, a `[1]` tensor of f32
/// on the same device (1 where it is `None`); the returned loss is not. `upstream` is read by the device
/// alone, so nothing waits for it.
///
/// # Errors
/// As [`heatmap_focal_loss`].
pub fn heatmap_focal_loss_with_gradient(
    logits: &Tensor,
    targets: &HeatmapTargets<'_>,
    upstream: Option<&Tensor>,
    params: &HeatmapFocalLoss,
) -> Result<(Tensor, Tensor)> {
    let shape = checked(logits, targets, params)?;
    let device = logits.device();
    check_upstream(OP, upstream, &device)?;
    on_device!(&device,
        cpu => with_float!(OP, "logits", logits, T => {
            let scale = upstream.map_or(Ok(1.0), |scalar| Ok(scalar.as_slice::<f32>()?[0]))?;
            let mut gradient = vec![T::default(); logits.len()];
            let bumps = bumps(targets, shape)?;
            let loss = cpu::heatmap_focal_loss::heatmap_focal_loss(
                logits.as_slice::<T>()?, shape, on_cpu(targets, &bumps)?, params,
                Some((scale, &mut gradient)))?;
            Ok((Tensor::from_cpu(vec![loss], &[1]), Tensor::from_cpu(gradient, &shape)))
        }),
        cuda(context) => with_float!(OP, "logits", logits, T => {
            let upstream = upstream.map(Tensor::as_cuda).transpose()?;
            let mut gradient =
                crate::cuda::Buffer::uninitialised(context, logits.dtype(), logits.len())?;
            let loss = crate::cuda::heatmap_focal_loss::run::<T>(
                context, (logits.as_cuda()?, shape), on_cuda(targets)?, params, upstream,
                Some(&mut gradient))?;
            Ok((Tensor::from_cuda(loss, &[1]), Tensor::from_cuda(gradient, &shape)))
        }),
    )
}

/// Checks what both forms share and returns the shape of the logits.
fn checked(
    logits: &Tensor,
    targets: &HeatmapTargets<'_>,
    params: &HeatmapFocalLoss,
) -> Result<[usize; 4]> {
    params.check()?;
    let Ok(shape) = <[usize; 4]>::try_from(logits.shape()) else {
        let value = ShapeText(logits.shape());
        return Err(Error::input(OP, "logits", "[B, H, W, K]", value));
    };
    match targets {
        HeatmapTargets::Map(map) => {
            check::dtype(OP, "target", map, DType::F32)?;
            check::shape(OP, "target", map, &shape)?;
            check::device(OP, "target", map, &logits.device())?;
        }
        HeatmapTargets::Boxes {
            boxes,
            classes,
            rule,
            ..
        } => {
            let of_image = check_boxes(OP, boxes, classes)?;
            check::shape(OP, "boxes", boxes, &[shape[0], of_image, 4])?;
            check::device(OP, "boxes", boxes, &logits.device())?;
            rule.check(OP, [shape[1], shape[2]])?;
        }
    }
    Ok(shape)
}

/// The bumps of boxes on the CPU; none of a map.
fn bumps(
    targets: &HeatmapTargets<'_>,
    shape: [usize; 4],
) -> Result<Vec<cpu::corner_targets::Bump>> {
    match targets {
        HeatmapTargets::Map(_) => Ok(Vec::new()),
        HeatmapTargets::Boxes {
            boxes,
            classes,
            corner,
            rule,
        } => {
            let number = usize::from(*corner == Corner::BottomRight);
            cpu::corner_targets::bumps_of(
                boxes.as_slice()?,
                classes.as_slice()?,
                shape,
                rule,
                number,
            )
        }
    }
}

fn on_cpu<'a>(
    targets: &HeatmapTargets<'a>,
    bumps: &'a [cpu::corner_targets::Bump],
) -> Result<cpu::heatmap_focal_loss::Targets<'a>> {
    use cpu::heatmap_focal_loss::Targets;
    Ok(match targets {
        HeatmapTargets::Map(map) => Targets::Map(map.as_slice()?),
        HeatmapTargets::Boxes { .. } => Targets::Bumps(bumps),
    })
}

#[cfg(feature = "cuda")]
fn on_cuda<'a>(
    targets: &HeatmapTargets<'a>,
) -> Result<crate::cuda::heatmap_focal_loss::TargetBuffers<'a>> {
    use crate::cuda::heatmap_focal_loss::TargetBuffers;
    Ok(match *targets {
        HeatmapTargets::Map(map) => TargetBuffers::Map(map.as_cuda()?),
        HeatmapTargets::Boxes {
            boxes,
            classes,
            corner,
            rule,
        } => TargetBuffers::Boxes {
            boxes: boxes.as_cuda()?,
            classes: classes.as_cuda()?,
            corner,
            rule,
        },
    })
}
