//! Soft non-maximum suppression.

use super::nms::checked_boxes;
use super::on_device;
use crate::cpu;
use crate::dtype::DType;
use crate::error::Result;
use crate::params::SoftNms;
use crate::tensor::Tensor;

const OP: &str = "soft_nms";

/// What [`soft_nms`] keeps.
#[derive(Debug, Clone)]
pub struct SoftKept {
    /// `[B, max_output]` i32: indices of the kept boxes of each image, best first, then -1.
    pub indices: Tensor,
    /// `[B, max_output]` f32: the scores left to them, then 0.
    pub scores: Tensor,
    /// `[B]` i32: how many are kept.
    pub count: Tensor,
}

/// Soft non-maximum suppression of each image of a batch, class by class.
///
/// Again and again the box with the highest score is kept, ties going to the lower index, and the score of every other
/// box of its class is multiplied by
///
/// ```text
/// linear      1 - IoU where IoU > iou_threshold, else 1
/// gaussian    exp(-IoU^2 / sigma)
/// ```
///
/// until `max_output` are kept or no score is above `score_threshold`. IoU is that of [`nms`](super::nms()), in f32 in the
/// same order of operations; with `inclusive`, widths and heights are `(high - low) + 1`, as in CornerNet, whose
/// `exp_soft_nms` is the gaussian form. The exponential is rounded to f32 once and each product again, on every device
/// with the same bits, so that all keep the same boxes with the same scores.
///
/// - `boxes`: `[B, N, 4]` f32, `(x1, y1, x2, y2)` in any unit (with `inclusive`, pixels).
/// - `scores`: `[B, N]` f32.
/// - `classes`: `[B, N]` i32, any value, or `None` for one class.
/// - `counts`: `[B]` i32, or `None`: only the first `counts[b]` boxes of image `b` take part, clamped to `[0, N]`; read on
///   the device.
///
/// A box with a NaN score or a coordinate that is not finite neither is kept nor lowers a score. One whose score is not
/// above the threshold, from the start or later, is out for good. (The original code tests only boxes that overlap a
/// kept one, and so keeps low scores that stand alone.) Boxes without area lower nothing. On CUDA nothing is
/// synchronised; every result is bit-identical from run to run.
///
/// Cost: one launch, a block an image; each kept box is tested against all open ones, so `kept * N` tests. Up to 5120
/// boxes an image stay in registers.
///
/// # Errors
/// Shapes, types or devices that do not fit; a threshold that is NaN, negative or infinite; a sigma that is not above 0;
/// `max_output` above `N`; more than 2^20 boxes an image.
///
/// # Example
/// ```
/// use ocelli::ops::soft_nms;
/// use ocelli::params::SoftNms;
/// use ocelli::{Device, Tensor};
///
/// let boxes = vec![0f32, 0., 10., 10., 0., 0., 10., 5., 20., 20., 30., 30.];
/// let boxes = Tensor::from_vec(boxes, &[1, 3, 4], &Device::Cpu)?;
/// let scores = Tensor::from_vec(vec![0.75f32, 0.5, 0.25], &[1, 3], &Device::Cpu)?;
/// let params = SoftNms { iou_threshold: 0.25, score_threshold: 0.125, ..SoftNms::default() };
/// let kept = soft_nms(&boxes, &scores, None, None, &params)?;
/// // Half of the second box lies in the first: its score falls to that of the third, and its index is lower.
/// assert_eq!(kept.indices.to_vec::<i32>()?, [0, 1, 2]);
/// assert_eq!(kept.scores.to_vec::<f32>()?, [0.75, 0.25, 0.25]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Bodla et al., *Soft-NMS: Improving Object Detection With One Line of Code*, 2017.
pub fn soft_nms(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
    params: &SoftNms,
) -> Result<SoftKept> {
    let [images, boxes_per_image] = checked_boxes(OP, boxes, scores, classes, counts)?;
    let max_output = params.check(boxes_per_image)?;
    let device = boxes.device();
    let (rows, row) = ([images, max_output], [images]);
    if images * max_output == 0 {
        return Ok(SoftKept {
            indices: Tensor::zeros(&rows, DType::I32, &device)?,
            scores: Tensor::zeros(&rows, DType::F32, &device)?,
            count: Tensor::zeros(&row, DType::I32, &device)?,
        });
    }
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
            let kept = cpu::soft_nms::soft_nms(batch, params)?;
            Ok(SoftKept {
                indices: Tensor::from_cpu(kept.indices, &rows),
                scores: Tensor::from_cpu(kept.scores, &rows),
                count: Tensor::from_cpu(kept.counts, &row),
            })
        },
        cuda(context) => {
            let classes = classes.map(Tensor::as_cuda).transpose()?;
            let counts = counts.map(Tensor::as_cuda).transpose()?;
            let inputs = [boxes.as_cuda()?, scores.as_cuda()?];
            let extents = [images, boxes_per_image, max_output];
            let [indices, scores, count] =
                crate::cuda::soft_nms::run(context, extents, params, inputs, classes, counts)?;
            Ok(SoftKept {
                indices: Tensor::from_cuda(indices, &rows),
                scores: Tensor::from_cuda(scores, &rows),
                count: Tensor::from_cuda(count, &row),
            })
        },
    )
}
