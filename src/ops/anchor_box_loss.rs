//! Box losses of a dense detector.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::{AnchorBoxLoss, Anchors};
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "anchor_box_loss";

/// The boxes that anchors are matched to, as [`match_anchors`](crate::ops::match_anchors) takes and gives them.
#[derive(Debug, Clone, Copy)]
pub struct BoxTargets<'a> {
    /// `[B, M, 4]` f32 `(x1, y1, x2, y2)` in pixels.
    pub boxes: &'a Tensor,
    /// `[B, R]` i32: index of an anchor's box. Any other number than `[0, M)` leaves the anchor out.
    pub matched: &'a Tensor,
    /// `[B]` i32: the loss of image `b` is divided by `max(1, foreground[b])`; none for 1.
    pub foreground: Option<&'a Tensor>,
}

/// Sum over the matched anchors of what their deltas miss, divided as `targets` and `params` say.
///
/// - `deltas`: of each level `[B, H, W, A * 4]`, `(dx, dy, dw, dh)`, as [`anchor_decode`](crate::ops::anchor_decode) takes them.
/// - `anchors`: levels, shapes and strides. The anchors themselves are never stored.
///
/// For an anchor of centre `(cx, cy)` and size `(w, h)` and a box of centre `(x, y)` and size `(u, v)`, L1 and smooth L1
/// compare the deltas with
///
/// ```text
/// ((x - cx) / w, (y - cy) / h, ln(u / w), ln(v / h))
/// ```
///
/// and GIoU compares the decoded box, with area of intersection `I`, of union `U` and of hull `C`:
///
/// ```text
/// 1 - I / (U + 1e-7) + (C - U) / (C + 1e-7)
/// ```
///
/// A matched box without width or height has an infinite or NaN L1 loss. Arithmetic is in f32, the sum in f64 in a fixed
/// order: the same on every run. torchvision's RetinaNet is had with `foreground` and `normalizer` the number of images.
///
/// 4 bytes an anchor are read, and the few matched rows.
///
/// # Errors
/// Shapes, types or devices that do not fit; a `beta` or `normalizer` out of its range.
///
/// Source: torchvision's `RetinaNetRegressionHead.compute_loss`, `BoxCoder.encode` and `generalized_box_iou_loss`.
pub fn anchor_box_loss(
    deltas: &[Tensor],
    targets: &BoxTargets<'_>,
    anchors: &Anchors,
    params: &AnchorBoxLoss,
) -> Result<Tensor> {
    let call = Call {
        deltas,
        targets,
        anchors,
        upstream: None,
        params,
        with_gradient: false,
    };
    Ok(call.run()?.0)
}

/// [`anchor_box_loss`] and its gradient with respect to `deltas`, in one pass.
///
/// The gradients have the shapes and type of the deltas, 0 where an anchor is left out, and are multiplied by `upstream`, a
/// `[1]` tensor of f32 on the same device (1 where it is `None`); the returned loss is not. Where the loss has a kink the
/// slope is 0 for L1, and for GIoU the mean of both sides, as PyTorch's maximum has it; a `dw` or `dh` above `ln(1000 / 16)`
/// has none.
///
/// Besides, the gradients are written: 4 elements an anchor.
///
/// # Errors
/// As [`anchor_box_loss`].
///
/// # Example
/// ```
/// use ocelli::ops::{BoxTargets, anchor_box_loss_with_gradient, match_anchors};
/// use ocelli::params::{AnchorBoxLoss, Anchors, BoxLoss};
/// use ocelli::{DType, Device, Tensor};
///
/// let anchors = Anchors::torchvision([16, 16], &[[2, 2]])?; // nine a cell
/// let boxes = Tensor::from_vec(vec![-12f32, -16., 20., 16.], &[1, 1, 4], &Device::Cpu)?;
/// let classes = Tensor::from_vec(vec![7], &[1, 1], &Device::Cpu)?;
/// let matches = match_anchors(&boxes, &classes, None, &anchors, &Default::default())?;
/// let targets = BoxTargets {
///     boxes: &boxes,
///     matched: &matches.matched,
///     foreground: Some(&matches.foreground),
/// };
/// let deltas = [Tensor::zeros(&[1, 2, 2, 36], DType::F32, &Device::Cpu)?];
/// let params = AnchorBoxLoss { loss: BoxLoss::Giou, ..Default::default() };
/// let (loss, gradients) =
///     anchor_box_loss_with_gradient(&deltas, &targets, &anchors, None, &params)?;
/// assert!(loss.to_vec::<f32>()?[0] < 1.0);
/// // The fourth anchor of the first cell lies 4 pixels to the left of the box.
/// assert!(gradients[0].to_vec::<f32>()?[3 * 4] < 0.0);
/// # Ok::<(), ocelli::Error>(())
/// ```
pub fn anchor_box_loss_with_gradient(
    deltas: &[Tensor],
    targets: &BoxTargets<'_>,
    anchors: &Anchors,
    upstream: Option<&Tensor>,
    params: &AnchorBoxLoss,
) -> Result<(Tensor, Vec<Tensor>)> {
    let call = Call {
        deltas,
        targets,
        anchors,
        upstream,
        params,
        with_gradient: true,
    };
    call.run()
}

/// Everything that a call is made with.
struct Call<'a> {
    deltas: &'a [Tensor],
    targets: &'a BoxTargets<'a>,
    anchors: &'a Anchors,
    upstream: Option<&'a Tensor>,
    params: &'a AnchorBoxLoss,
    with_gradient: bool,
}

impl Call<'_> {
    fn run(&self) -> Result<(Tensor, Vec<Tensor>)> {
        let extents = self.checked()?;
        self.params.check()?;
        with_float!(OP, "deltas", self.deltas[0], T => self.dispatch::<T>(extents))
    }

    fn dispatch<T: Float>(
        &self,
        [images, boxes_per_image]: [usize; 2],
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let device = &self.deltas[0].device();
        if images == 0 {
            let zeros = |level: &Tensor| Tensor::zeros(level.shape(), T::DTYPE, device);
            let wanted = if self.with_gradient { self.deltas } else { &[] };
            let gradients = wanted.iter().map(zeros).collect::<Result<_>>()?;
            return Ok((Tensor::zeros(&[1], DType::F32, device)?, gradients));
        }
        on_device!(device,
            cpu => {
                let slices = self.deltas.iter().map(Tensor::as_slice).collect::<Result<Vec<&[T]>>>()?;
                let batch = cpu::anchor_box_loss::Batch {
                    deltas: &slices,
                    boxes: self.targets.boxes.as_slice()?,
                    matched: self.targets.matched.as_slice()?,
                    foreground: self.targets.foreground.map(Tensor::as_slice).transpose()?,
                    images,
                    boxes_per_image,
                };
                let scale = self.upstream.map_or(Ok(1.0), |scalar| Ok(scalar.as_slice::<f32>()?[0]))?;
                let mut gradients: Vec<Vec<T>> = if self.with_gradient {
                    self.deltas.iter().map(|level| vec![T::default(); level.len()]).collect()
                } else {
                    Vec::new()
                };
                let wanted = self.with_gradient.then_some(&mut gradients[..]);
                let loss = cpu::anchor_box_loss::anchor_box_loss(batch, self.anchors, self.params, scale, wanted)?;
                let gradients = gradients.into_iter().zip(self.deltas);
                let gradients = gradients.map(|(values, level)| Tensor::from_cpu(values, level.shape()));
                Ok((Tensor::from_cpu(vec![loss], &[1]), gradients.collect()))
            },
            cuda(context) => {
                let buffers = self.deltas.iter().map(Tensor::as_cuda).collect::<Result<Vec<_>>>()?;
                let inputs = crate::cuda::anchor_box_loss::Inputs {
                    deltas: &buffers,
                    boxes: self.targets.boxes.as_cuda()?,
                    matched: self.targets.matched.as_cuda()?,
                    foreground: self.targets.foreground.map(Tensor::as_cuda).transpose()?,
                    upstream: self.upstream.map(Tensor::as_cuda).transpose()?,
                };
                let extents = [images, boxes_per_image];
                let (loss, gradients) = crate::cuda::anchor_box_loss::run::<T>(
                    context, self.anchors, extents, self.params, &inputs, self.with_gradient)?;
                let gradients = gradients.into_iter().zip(self.deltas);
                let gradients = gradients.map(|(buffer, level)| Tensor::from_cuda(buffer, level.shape()));
                Ok((Tensor::from_cuda(loss, &[1]), gradients.collect()))
            },
        )
    }

    /// Checks the tensors and returns B and M.
    fn checked(&self) -> Result<[usize; 2]> {
        let Self {
            deltas,
            targets,
            anchors,
            upstream,
            ..
        } = *self;
        let &[images, boxes_per_image, 4] = targets.boxes.shape() else {
            let value = ShapeText(targets.boxes.shape());
            return Err(Error::input(OP, "boxes", "[B, M, 4]", value));
        };
        check::head(OP, "deltas", deltas, anchors, Some([images, 4]))?;
        let rows = [images, anchors.count()];
        for (argument, tensor, dtype, shape) in [
            (
                "boxes",
                Some(targets.boxes),
                DType::F32,
                &[images, boxes_per_image, 4][..],
            ),
            ("matched", Some(targets.matched), DType::I32, &rows[..]),
            ("foreground", targets.foreground, DType::I32, &rows[..1]),
            ("upstream", upstream, DType::F32, &[1][..]),
        ] {
            let Some(tensor) = tensor else { continue };
            check::shape(OP, argument, tensor, shape)?;
            check::dtype(OP, argument, tensor, dtype)?;
            check::device(OP, argument, tensor, &deltas[0].device())?;
        }
        Ok([images, boxes_per_image])
    }
}
