//! Anchor decoding.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::params::{AnchorDecode, Anchors};
use crate::tensor::{Device, Tensor};

const OP: &str = "anchor_decode";

/// What [`anchor_decode`] finds. `M` is the sum over the levels of `min(topk, H * W * A * K)`.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// `[B, M, 4]` f32 `(x1, y1, x2, y2)` in pixels: the candidates of each image, then zeros.
    pub boxes: Tensor,
    /// `[B, M]` f32, in (0, 1], then zeros.
    pub scores: Tensor,
    /// `[B, M]` i32, in [0, K), then -1.
    pub classes: Tensor,
    /// `[B]` i32: how many there are.
    pub count: Tensor,
}

/// From the head of a dense detector to the boxes that [`nms`](crate::ops::nms) takes: of each level and image the
/// `topk` best (anchor, class) pairs, decoded and clipped.
///
/// - `logits`: of each level `[B, H, W, A * K]`, the classes of an anchor together.
/// - `deltas`: of each level `[B, H, W, A * 4]` of the same type, `(dx, dy, dw, dh)`.
/// - `anchors`: levels, shapes and strides. The anchors themselves are never stored.
/// - `image_sizes`: `[B, 2]` i32, height and width in pixels that the boxes of an image are clipped to, where images were
///   padded to one size; `None` for the anchors' image. A negative one counts as 0.
///
/// A pair is a candidate where its score `sigmoid(logit)` is above `score_threshold`. The sigmoid grows strictly, so that
/// logits are compared, in f32, with `ln(t / (1 - t))` rounded to f32; a NaN logit is above nothing. The candidates of an
/// image are in the order of the levels, within a level of descending logit, ties (-0 and 0 is one) by ascending position
/// in `[H, W, A, K]`. With an anchor of centre `(cx, cy)` and size `(w, h)`, the box has
///
/// ```text
/// centre (dx * w + cx, dy * h + cy)     size (exp(min(dw, ln(1000 / 16))) * w, exp(min(dh, ln(1000 / 16))) * h)
/// ```
///
/// in f32 in this order, each corner then moved into the image. A NaN delta makes NaN corners, which `nms` never keeps.
///
/// Padding has class -1 and score 0; give `count` to `nms`, and it takes no part:
/// `nms(&c.boxes, &c.scores, Some(&c.classes), Some(&c.count), ..)`. Nothing is synchronised in between.
///
/// The logits are read once, however many pass the threshold; besides, at most `topk` deltas a level. CPU and CUDA give
/// the same bits, on every run.
///
/// # Errors
/// Shapes, types or devices that do not fit; a threshold outside [0, 1]; `topk` above 4096 where a level has more logits;
/// more than 2^30 logits a level and image.
///
/// # Example
/// ```
/// use ocelli::ops::{anchor_decode, nms};
/// use ocelli::params::{AnchorDecode, Anchors, Nms};
/// use ocelli::{DType, Device, Tensor};
///
/// let anchors = Anchors::torchvision([64, 64], &[[8, 8]])?; // nine a cell
/// let mut logits = vec![-9f32; 8 * 8 * 9 * 2];
/// logits[((3 * 8 + 4) * 9 + 3) * 2 + 1] = 2.0; // row 3, column 4, the square of 32 pixels, class 1
/// let logits = Tensor::from_vec(logits, &[1, 8, 8, 18], &Device::Cpu)?;
/// let deltas = Tensor::zeros(&[1, 8, 8, 36], DType::F32, &Device::Cpu)?;
/// let found = anchor_decode(&[logits], &[deltas], &anchors, None, &AnchorDecode::default())?;
/// assert_eq!(found.count.to_vec::<i32>()?, [1]);
/// assert_eq!(found.boxes.to_vec::<f32>()?[..4], [16., 8., 48., 40.]);
/// let kept = nms(&found.boxes, &found.scores, Some(&found.classes), Some(&found.count), &Nms::default())?;
/// assert_eq!(kept.count.to_vec::<i32>()?, [1]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: torchvision's `RetinaNet.postprocess_detections` and `BoxCoder`, detectron2's `RetinaNet.inference` (which
/// clips after suppression). Both leave the order of ties open.
pub fn anchor_decode(
    logits: &[Tensor],
    deltas: &[Tensor],
    anchors: &Anchors,
    image_sizes: Option<&Tensor>,
    params: &AnchorDecode,
) -> Result<Candidates> {
    let [images, classes] = checked(logits, deltas, anchors, image_sizes)?;
    let most: usize = params.check(anchors, classes)?.iter().sum();
    let device = logits[0].device();
    if images * most == 0 {
        return empty(images, most, &device);
    }
    let heads = [logits, deltas];
    let extents = [images, classes, most];
    with_float!(OP, "logits", logits[0], T => {
        decode::<T>(&device, heads, anchors, image_sizes, extents, params)
    })
}

fn decode<T: Float>(
    device: &Device,
    [logits, deltas]: [&[Tensor]; 2],
    anchors: &Anchors,
    image_sizes: Option<&Tensor>,
    [images, classes, most]: [usize; 3],
    params: &AnchorDecode,
) -> Result<Candidates> {
    let (row, corners) = ([images, most], [images, most, 4]);
    on_device!(device,
        cpu => {
            let logits = logits.iter().map(Tensor::as_slice).collect::<Result<Vec<&[T]>>>()?;
            let deltas = deltas.iter().map(Tensor::as_slice).collect::<Result<Vec<&[T]>>>()?;
            let batch = cpu::anchor_decode::Batch {
                logits: &logits,
                deltas: &deltas,
                image_sizes: image_sizes.map(Tensor::as_slice).transpose()?,
                images,
                classes,
            };
            let found = cpu::anchor_decode::anchor_decode(batch, anchors, params)?;
            Ok(Candidates {
                boxes: Tensor::from_cpu(found.boxes, &corners),
                scores: Tensor::from_cpu(found.scores, &row),
                classes: Tensor::from_cpu(found.classes, &row),
                count: Tensor::from_cpu(found.count, &[images]),
            })
        },
        cuda(context) => {
            let logits = logits.iter().map(Tensor::as_cuda).collect::<Result<Vec<_>>>()?;
            let deltas = deltas.iter().map(Tensor::as_cuda).collect::<Result<Vec<_>>>()?;
            let sizes = image_sizes.map(Tensor::as_cuda).transpose()?;
            let found = crate::cuda::anchor_decode::run::<T>(
                context, anchors, [images, classes], params, [&logits, &deltas], sizes)?;
            Ok(Candidates {
                boxes: Tensor::from_cuda(found.boxes, &corners),
                scores: Tensor::from_cuda(found.scores, &row),
                classes: Tensor::from_cuda(found.classes, &row),
                count: Tensor::from_cuda(found.count, &[images]),
            })
        },
    )
}

/// No candidates, where none are asked for or possible.
fn empty(images: usize, most: usize, device: &Device) -> Result<Candidates> {
    Ok(Candidates {
        boxes: Tensor::zeros(&[images, most, 4], DType::F32, device)?,
        scores: Tensor::zeros(&[images, most], DType::F32, device)?,
        classes: Tensor::zeros(&[images, most], DType::I32, device)?,
        count: Tensor::zeros(&[images], DType::I32, device)?,
    })
}

/// Checks everything and returns B and K.
fn checked(
    logits: &[Tensor],
    deltas: &[Tensor],
    anchors: &Anchors,
    image_sizes: Option<&Tensor>,
) -> Result<[usize; 2]> {
    let [images, classes] = check::head(OP, "logits", logits, anchors, None)?;
    let (dtype, device) = (logits[0].dtype(), logits[0].device());
    check::head(OP, "deltas", deltas, anchors, Some([images, 4]))?;
    check::dtype(OP, "deltas", &deltas[0], dtype)?;
    check::device(OP, "deltas", &deltas[0], &device)?;
    if let Some(sizes) = image_sizes {
        check::shape(OP, "image_sizes", sizes, &[images, 2])?;
        check::dtype(OP, "image_sizes", sizes, DType::I32)?;
        check::device(OP, "image_sizes", sizes, &device)?;
    }
    Ok([images, classes])
}
