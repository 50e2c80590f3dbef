//! Anchor matching.

use super::{check, on_device};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{Anchors, MatchAnchors};
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "match_anchors";

/// What [`match_anchors`] gives. `R` is the number of anchors of an image.
#[derive(Debug, Clone)]
pub struct Matches {
    /// `[B, R]` i32: the class of the matched box; -1 for background; -2 for an anchor between the thresholds. As
    /// [`sigmoid_focal_loss`](crate::ops::sigmoid_focal_loss) takes them.
    pub labels: Tensor,
    /// `[B, R]` i32: the index of the matched box, or -1.
    pub matched: Tensor,
    /// `[B]` i32: how many anchors are matched.
    pub foreground: Tensor,
}

/// Matches each anchor of each image to the box that it overlaps most.
///
/// - `boxes`: `[B, M, 4]` f32 `(x1, y1, x2, y2)` in pixels.
/// - `classes`: `[B, M]` i32, copied to the labels as they are.
/// - `counts`: `[B]` i32, or `None`: only the first `counts[b]` boxes of image `b` take part, clamped to `[0, M]`.
/// - `anchors`: levels, shapes and strides. The anchors are made from their index, never stored, and no `M x R` matrix is.
///
/// An anchor's overlap is its largest IoU with a box, of several equal ones the first. It is matched to that box where
/// the overlap is at least `high_threshold`, background below `low_threshold`, and left out between. With
/// `low_quality`, besides, every anchor whose IoU with some box equals the largest of that box with any anchor is matched,
/// to the box that it itself overlaps most; so a box that meets no anchor at all matches every anchor. IoU is in f32 in
/// torchvision's order of operations, uncontracted, so that all devices give the same bits; two boxes that do not meet
/// have 0, whatever their areas. A box that is not finite takes no part.
///
/// 8 bytes an anchor are written, and the boxes read. Nothing is synchronised; every result is the same on every run.
///
/// # Errors
/// Shapes, types or devices that do not fit; thresholds outside [0, 1] or in the wrong order.
///
/// # Example
/// ```
/// use ocelli::ops::match_anchors;
/// use ocelli::params::{Anchors, MatchAnchors};
/// use ocelli::{Device, Tensor};
///
/// let anchors = Anchors::torchvision([16, 16], &[[2, 2]])?; // nine a cell
/// let boxes = Tensor::from_vec(vec![-16f32, -16., 16., 16.], &[1, 1, 4], &Device::Cpu)?;
/// let classes = Tensor::from_vec(vec![7], &[1, 1], &Device::Cpu)?;
/// let matches = match_anchors(&boxes, &classes, None, &anchors, &MatchAnchors::default())?;
/// // The box is the fourth anchor of the first cell.
/// assert_eq!(matches.labels.to_vec::<i32>()?[3], 7);
/// assert_eq!(matches.matched.to_vec::<i32>()?[3], 0);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: torchvision's `Matcher` and `box_iou`.
pub fn match_anchors(
    boxes: &Tensor,
    classes: &Tensor,
    counts: Option<&Tensor>,
    anchors: &Anchors,
    params: &MatchAnchors,
) -> Result<Matches> {
    let [images, boxes_per_image] = checked(boxes, classes, counts)?;
    params.check()?;
    let device = boxes.device();
    let (row, one) = ([images, anchors.count()], [images]);
    if images * anchors.count() == 0 {
        return Ok(Matches {
            labels: Tensor::zeros(&row, DType::I32, &device)?,
            matched: Tensor::zeros(&row, DType::I32, &device)?,
            foreground: Tensor::zeros(&one, DType::I32, &device)?,
        });
    }
    on_device!(&device,
        cpu => {
            let batch = cpu::match_anchors::Batch {
                boxes: boxes.as_slice()?,
                classes: classes.as_slice()?,
                counts: counts.map(Tensor::as_slice).transpose()?,
                images,
                boxes_per_image,
            };
            let found = cpu::match_anchors::match_anchors(batch, anchors, params)?;
            Ok(Matches {
                labels: Tensor::from_cpu(found.labels, &row),
                matched: Tensor::from_cpu(found.matched, &row),
                foreground: Tensor::from_cpu(found.foreground, &one),
            })
        },
        cuda(context) => {
            let counts = counts.map(Tensor::as_cuda).transpose()?;
            let inputs = [boxes.as_cuda()?, classes.as_cuda()?];
            let extents = [images, boxes_per_image];
            let [labels, matched, foreground] =
                crate::cuda::match_anchors::run(context, anchors, extents, params, inputs, counts)?;
            Ok(Matches {
                labels: Tensor::from_cuda(labels, &row),
                matched: Tensor::from_cuda(matched, &row),
                foreground: Tensor::from_cuda(foreground, &one),
            })
        },
    )
}

/// Checks the tensors and returns B and M.
fn checked(boxes: &Tensor, classes: &Tensor, counts: Option<&Tensor>) -> Result<[usize; 2]> {
    let &[images, boxes_per_image, 4] = boxes.shape() else {
        let value = ShapeText(boxes.shape());
        return Err(Error::input(OP, "boxes", "[B, M, 4]", value));
    };
    check::dtype(OP, "boxes", boxes, DType::F32)?;
    let per_box = [images, boxes_per_image];
    for (argument, tensor, shape) in [
        ("classes", Some(classes), &per_box[..]),
        ("counts", counts, &per_box[..1]),
    ] {
        let Some(tensor) = tensor else { continue };
        check::shape(OP, argument, tensor, shape)?;
        check::dtype(OP, argument, tensor, DType::I32)?;
        check::device(OP, argument, tensor, &boxes.device())?;
    }
    Ok(per_box)
}
