//! Non-maximum suppression.

use super::{check, on_device};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Nms;
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "nms";

/// What [`nms`] keeps.
#[derive(Debug, Clone)]
pub struct Kept {
    /// `[B, max_output]` i32: indices of the kept boxes of each image, best first, then -1.
    pub indices: Tensor,
    /// `[B]` i32: how many are kept.
    pub count: Tensor,
}

/// Greedy non-maximum suppression of each image of a batch, class by class.
///
/// The boxes of an image are visited by descending score, ties by ascending index. A box is kept unless a box kept
/// before it, of the same class, has `IoU > iou_threshold` with it, where
///
/// ```text
/// IoU(a, b) = I / ((area(a) + area(b)) - I)      I = max(0, min(x2) - max(x1)) * max(0, min(y2) - max(y1))
/// ```
///
/// in f32, in this order, never contracted: every device keeps the same set, bit for bit. It stops at `max_output`.
///
/// - `boxes`: `[B, N, 4]` f32, `(x1, y1, x2, y2)` in any unit, area `(x2 - x1) * (y2 - y1)`, no `+1`.
/// - `scores`: `[B, N]` f32. -0 and 0 are a tie.
/// - `classes`: `[B, N]` i32, any value, or `None` for one class. They are compared, so negative coordinates are fine.
/// - `counts`: `[B]` i32, or `None`: only the first `counts[b]` boxes of image `b` take part, clamped to `[0, N]`.
///   It is read on the device, so that `nms` can follow an op that makes boxes without a host in between.
///
/// A box with a NaN score, a score not above `score_threshold`, or a coordinate that is not finite neither is kept nor
/// suppresses. Boxes without area suppress nothing. On CUDA nothing is synchronised and every result is
/// bit-identical from run to run.
///
/// # Errors
/// Shapes, types or devices that do not fit; a threshold that is NaN, negative or infinite; `max_output` above `N`;
/// more than 2^20 boxes an image.
///
/// # Example
/// ```
/// use ocelli::ops::nms;
/// use ocelli::params::Nms;
/// use ocelli::{Device, Tensor};
///
/// let boxes = vec![0f32, 0., 10., 10., 1., 1., 11., 11., 20., 20., 30., 30.];
/// let boxes = Tensor::from_vec(boxes, &[1, 3, 4], &Device::Cpu)?;
/// let scores = Tensor::from_vec(vec![0.9f32, 0.8, 0.7], &[1, 3], &Device::Cpu)?;
/// let kept = nms(&boxes, &scores, None, None, &Nms::default())?;
/// assert_eq!(kept.indices.to_vec::<i32>()?, [0, 2, -1]);
/// assert_eq!(kept.count.to_vec::<i32>()?, [2]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: the greedy rule of `torchvision.ops.nms`; classes as `batched_nms` means them.
pub fn nms(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
    params: &Nms,
) -> Result<Kept> {
    let [images, boxes_per_image] = checked_boxes(OP, boxes, scores, classes, counts)?;
    let max_output = params.check(boxes_per_image)?;
    let device = boxes.device();
    if images * max_output == 0 {
        return Ok(Kept {
            indices: Tensor::zeros(&[images, max_output], DType::I32, &device)?,
            count: Tensor::zeros(&[images], DType::I32, &device)?,
        });
    }
    let kept = |indices, count| Kept { indices, count };
    let (rows, row) = ([images, max_output], [images]);
    on_device!(&device,
        cpu => {
            let batch = cpu::nms::Batch {
                boxes: boxes.as_slice()?,
                scores: scores.as_slice()?,
                classes: classes.map(Tensor::as_slice).transpose()?,
                counts: counts.map(Tensor::as_slice).transpose()?,
                images,
                boxes_per_image,
            };
            let (indices, count) = cpu::nms::nms(batch, params)?;
            Ok(kept(Tensor::from_cpu(indices, &rows), Tensor::from_cpu(count, &row)))
        },
        cuda(context) => {
            let classes = classes.map(Tensor::as_cuda).transpose()?;
            let counts = counts.map(Tensor::as_cuda).transpose()?;
            let inputs = [boxes.as_cuda()?, scores.as_cuda()?];
            let extents = [images, boxes_per_image, max_output];
            let (indices, count) =
                crate::cuda::nms::run(context, extents, params, inputs, classes, counts)?;
            Ok(kept(Tensor::from_cuda(indices, &rows), Tensor::from_cuda(count, &row)))
        },
    )
}

/// Checks the tensors of an op on scored boxes and returns B and N.
pub(super) fn checked_boxes(
    op: &'static str,
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
) -> Result<[usize; 2]> {
    let &[images, boxes_per_image, 4] = boxes.shape() else {
        return Err(Error::input(
            op,
            "boxes",
            "[B, N, 4]",
            ShapeText(boxes.shape()),
        ));
    };
    check::dtype(op, "boxes", boxes, DType::F32)?;
    let per_box = [images, boxes_per_image];
    let others = [
        ("scores", Some(scores), DType::F32, &per_box[..]),
        ("classes", classes, DType::I32, &per_box[..]),
        ("counts", counts, DType::I32, &per_box[..1]),
    ];
    for (argument, tensor, dtype, shape) in others {
        let Some(tensor) = tensor else { continue };
        check::shape(op, argument, tensor, shape)?;
        check::dtype(op, argument, tensor, dtype)?;
        check::device(op, argument, tensor, &boxes.device())?;
    }
    Ok(per_box)
}
