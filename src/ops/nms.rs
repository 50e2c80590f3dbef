//! Non-maximum suppression.

use super::{check, on_device};
use crate::error::{Error, Result};
use crate::tensor::{ShapeText, Tensor};
use crate::{DType, cpu};

/// Most boxes an image may have.
pub const NMS_MAX_BOXES: usize = 1 << 20;

/// Scalars of [`nms`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NmsParams {
    /// A box is dropped where a kept box of its class has a larger intersection over union. In `[0, inf)`; 0.5.
    pub iou_threshold: f32,
    /// Scores must be above this. None by default.
    pub score_threshold: Option<f32>,
    /// Length of the output, at most the number of boxes of an image, which is the default.
    pub max_output: Option<usize>,
}

impl Default for NmsParams {
    fn default() -> Self {
        Self {
            iou_threshold: 0.5,
            score_threshold: None,
            max_output: None,
        }
    }
}

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
/// more than [`NMS_MAX_BOXES`] boxes an image.
///
/// # Example
/// ```
/// use ocelli::ops::{NmsParams, nms};
/// use ocelli::{Device, Tensor};
///
/// let boxes = vec![0f32, 0., 10., 10., 1., 1., 11., 11., 20., 20., 30., 30.];
/// let boxes = Tensor::from_vec(boxes, &[1, 3, 4], &Device::Cpu)?;
/// let scores = Tensor::from_vec(vec![0.9f32, 0.8, 0.7], &[1, 3], &Device::Cpu)?;
/// let kept = nms(&boxes, &scores, None, None, &NmsParams::default())?;
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
    params: &NmsParams,
) -> Result<Kept> {
    let max_output = validate(boxes, scores, classes, counts, params)?;
    let device = boxes.device();
    let (images, boxes_per_image) = (boxes.shape()[0], boxes.shape()[1]);
    if images == 0 || boxes_per_image == 0 || max_output == 0 {
        return Ok(Kept {
            indices: Tensor::zeros(&[images, max_output], DType::I32, &device)?,
            count: Tensor::zeros(&[images], DType::I32, &device)?,
        });
    }
    on_device!(&device,
        cpu => on_cpu(boxes, scores, classes, counts, params, max_output),
        cuda(context) => on_cuda(context, boxes, scores, classes, counts, params, max_output),
    )
}

/// Checks everything and returns the length of the output.
fn validate(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
    params: &NmsParams,
) -> Result<usize> {
    let &[images, boxes_per_image, 4] = boxes.shape() else {
        return Err(Error::input(
            "nms",
            "boxes",
            "[B, N, 4]",
            ShapeText(boxes.shape()),
        ));
    };
    let per_box = [images, boxes_per_image];
    let others = [
        ("scores", Some(scores), DType::F32, "[B, N]", &per_box[..]),
        ("classes", classes, DType::I32, "[B, N]", &per_box[..]),
        ("counts", counts, DType::I32, "[B]", &per_box[..1]),
    ];
    check::dtype("nms", "boxes", boxes, DType::F32)?;
    for (argument, tensor, dtype, rule, shape) in others {
        let Some(tensor) = tensor else { continue };
        check::shape("nms", argument, tensor, rule, shape)?;
        check::dtype("nms", argument, tensor, dtype)?;
        check::device("nms", argument, tensor, &boxes.device())?;
    }
    let iou = params.iou_threshold;
    check::scalar(
        "nms",
        "iou_threshold",
        iou,
        "in [0, inf)",
        iou >= 0.0 && iou.is_finite(),
    )?;
    if let Some(score) = params.score_threshold {
        check::scalar("nms", "score_threshold", score, "a number", !score.is_nan())?;
    }
    if boxes_per_image > NMS_MAX_BOXES {
        return Err(Error::input(
            "nms",
            "N",
            format!("at most {NMS_MAX_BOXES}"),
            boxes_per_image,
        ));
    }
    let max_output = params.max_output.unwrap_or(boxes_per_image);
    if max_output > boxes_per_image {
        return Err(Error::input(
            "nms",
            "max_output",
            format!("at most N = {boxes_per_image}"),
            max_output,
        ));
    }
    Ok(max_output)
}

fn on_cpu(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
    params: &NmsParams,
    max_output: usize,
) -> Result<Kept> {
    let (images, per_image) = (boxes.shape()[0], boxes.shape()[1]);
    let inputs = cpu::nms::Batch {
        boxes: bytemuck::cast_slice(boxes.as_slice::<f32>()?),
        scores: scores.as_slice()?,
        classes: classes.map(Tensor::as_slice).transpose()?,
        counts: counts.map(Tensor::as_slice).transpose()?,
        boxes_per_image: per_image,
    };
    let rule = cpu::nms::Rule {
        iou_threshold: params.iou_threshold,
        score_threshold: params.score_threshold.unwrap_or(f32::NAN),
        max_output,
    };
    let mut indices = vec![0i32; images * max_output];
    let mut count = vec![0i32; images];
    cpu::nms::nms(inputs, rule, &mut indices, &mut count);
    Ok(Kept {
        indices: Tensor::from_cpu(indices, &[images, max_output]),
        count: Tensor::from_cpu(count, &[images]),
    })
}

#[cfg(feature = "cuda")]
fn on_cuda(
    context: &crate::cuda::Context,
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    counts: Option<&Tensor>,
    params: &NmsParams,
    max_output: usize,
) -> Result<Kept> {
    use crate::cuda::{Buffer, nms};
    let (images, per_image) = (boxes.shape()[0], boxes.shape()[1]);
    let plan = nms::Plan::new(context.properties(), images, per_image, max_output);
    let mut workspace = Buffer::workspace(context, plan.workspace_bytes())?;
    let mut indices = Buffer::uninitialised(context, DType::I32, images * max_output)?;
    let mut count = Buffer::uninitialised(context, DType::I32, images)?;
    let thresholds = nms::NmsThresholds {
        iou: params.iou_threshold,
        score: params.score_threshold,
    };
    let mut views = nms::NmsViews {
        boxes: boxes.as_cuda()?.view()?,
        scores: scores.as_cuda()?.view()?,
        classes: classes.map(|t| t.as_cuda()?.view()).transpose()?,
        counts: counts.map(|t| t.as_cuda()?.view()).transpose()?,
        indices: indices.view_mut()?,
        kept: count.view_mut()?,
    };
    nms::nms(
        context,
        &plan,
        thresholds,
        &mut views,
        &mut workspace.bytes_mut(),
    )?;
    Ok(Kept {
        indices: Tensor::from_cuda(indices, &[images, max_output]),
        count: Tensor::from_cuda(count, &[images]),
    })
}
