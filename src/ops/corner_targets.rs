//! Targets of corner heatmaps.

use super::{check, on_device};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::CornerTargets;
use crate::params::corner_targets::MAX_BOXES;
use crate::tensor::{ShapeText, Tensor, element_count};

const OP: &str = "corner_targets";

/// Targets of one corner of each box.
#[derive(Debug, Clone)]
pub struct TargetMaps {
    /// `[B, H, W, K]` f32: 1 at a corner, less around it, else 0.
    pub heat: Tensor,
    /// `[B, M, 2]` f32: how far the corner lies right of and below its cell's edge, in cells; 0 where the
    /// box is left out.
    pub offsets: Tensor,
    /// `[B, M]` i32: the corner's cell, `y * W + x`; -1 where the box is left out.
    pub indices: Tensor,
}

/// What a CornerNet is trained towards: heatmaps, offsets and cells of the top-left and of the
/// bottom-right corners.
///
/// A corner at pixel `(px, py)` lies at `(px * W / input_width, py * H / input_height)`; its cell is that
/// rounded down, its offset the rest. Around the cell the heatmap of the box's class is at least
///
/// ```text
/// exp(-(dx^2 + dy^2) / (2 sigma^2)),    |dx|, |dy| <= r,  sigma = (2 r + 1) / 6
/// ```
///
/// where `r` is the largest whole number of cells by which both corners may move so that the moved box
/// keeps an overlap of `gaussian_iou`. Bumps of one class are joined by the maximum.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `boxes` | `[B, M, 4]`, `(x1, y1, x2, y2)` in pixels, M at most 1024 | f32 |
/// | `classes` | `[B, M]` | i32 |
/// | `heatmap` | `[H, W, K]`, H and W at most 2^14 | |
/// | returned | of the top-left corners, of the bottom-right ones | |
///
/// A box is left out where its class is not in `0..K` (so -1 pads), a coordinate is not finite, its width
/// or height is negative, or one of its corners lies outside the heatmap.
///
/// The radius is that of the official code since its correction, the least root of three quadratics
/// `(b -+ sqrt(b^2 - 4ac)) / (2a)`. The older form that several other implementations (CenterNet's among
/// them) still use takes `(b + sqrt(b^2 - 4ac)) / 2` of all three, and gives larger bumps. Radii, cells
/// and offsets are computed in f64 and are the same on every device; the heatmaps differ in the last
/// bits of the exponential.
///
/// ```
/// use ocelli::params::CornerTargets;
/// use ocelli::{Device, Tensor, ops};
///
/// let boxes = Tensor::from_vec(vec![9f32, 21., 50., 60.], &[1, 1, 4], &Device::Cpu)?;
/// let classes = Tensor::from_vec(vec![1i32], &[1, 1], &Device::Cpu)?;
/// let rule = CornerTargets::new(64, 64);
/// let [top_left, _] = ops::corner_targets(&boxes, &classes, [16, 16, 2], &rule)?;
/// assert_eq!(top_left.indices.to_vec::<i32>()?, [5 * 16 + 2]);
/// assert_eq!(top_left.offsets.to_vec::<f32>()?, [0.25, 0.25]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Each heatmap is written once; besides, each tile of 8192 elements reads 16 bytes a box.
///
/// Source: Law and Deng, *CornerNet*, 2018, section 3.2; `sample/coco.py` and `sample/utils.py` of
/// princeton-vl/CornerNet at commit 3e71377.
///
/// # Errors
/// [`Error::Input`] when shapes, types, devices or scalars do not fit; the environment family from the
/// device.
pub fn corner_targets(
    boxes: &Tensor,
    classes: &Tensor,
    heatmap: [usize; 3],
    params: &CornerTargets,
) -> Result<[TargetMaps; 2]> {
    let [height, width, kinds] = heatmap;
    let of_image = check_boxes(OP, boxes, classes)?;
    params.check(OP, [height, width])?;
    let batch = classes.shape()[0];
    let shape = [batch, height, width, kinds];
    element_count(OP, "heatmap", &shape)?;
    let points = [batch, of_image, 2];
    on_device!(&boxes.device(),
        cpu => {
            let maps = cpu::corner_targets::corner_targets(
                boxes.as_slice()?, classes.as_slice()?, shape, params)?;
            Ok(maps.map(|maps| TargetMaps {
                heat: Tensor::from_cpu(maps.heat, &shape),
                offsets: Tensor::from_cpu(maps.offsets, &points),
                indices: Tensor::from_cpu(maps.indices, &points[..2]),
            }))
        },
        cuda(context) => {
            let maps = crate::cuda::corner_targets::run(
                context, boxes.as_cuda()?, classes.as_cuda()?, (shape, of_image), params)?;
            Ok(maps.map(|(heat, offsets, indices)| TargetMaps {
                heat: Tensor::from_cuda(heat, &shape),
                offsets: Tensor::from_cuda(offsets, &points),
                indices: Tensor::from_cuda(indices, &points[..2]),
            }))
        },
    )
}

/// Checks boxes and their classes for `op`, and returns how many there are an image.
pub(super) fn check_boxes(op: &'static str, boxes: &Tensor, classes: &Tensor) -> Result<usize> {
    let &[batch, of_image, 4] = boxes.shape() else {
        return Err(Error::input(
            op,
            "boxes",
            "[B, M, 4]",
            ShapeText(boxes.shape()),
        ));
    };
    check::dtype(op, "boxes", boxes, DType::F32)?;
    check::dtype(op, "classes", classes, DType::I32)?;
    check::shape(op, "classes", classes, &[batch, of_image])?;
    check::device(op, "classes", classes, &boxes.device())?;
    if of_image > MAX_BOXES {
        let rule = format!("[B, M, 4] with M <= {MAX_BOXES}");
        return Err(Error::input(op, "boxes", rule, of_image));
    }
    Ok(of_image)
}
