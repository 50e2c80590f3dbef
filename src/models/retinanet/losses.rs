//! What RetinaNet is trained with.

use super::HeadOutputs;
use crate::error::{Error, Result};
use crate::ops::{
    BoxTargets, anchor_box_loss_with_gradient, match_anchors, sigmoid_focal_loss_with_gradient,
};
use crate::params::{AnchorBoxLoss, Anchors, BoxLoss, MatchAnchors, SigmoidFocalLoss};
use crate::tensor::Tensor;

/// The objects in a batch of images; `M` is the largest number in one.
#[derive(Debug, Clone, Copy)]
pub struct GroundTruth<'a> {
    /// `[B, M, 4]` f32 `(x1, y1, x2, y2)` in pixels of the batch.
    pub boxes: &'a Tensor,
    /// `[B, M]` i32 in 0..classes.
    pub classes: &'a Tensor,
    /// `[B]` i32: how many of the M each image has; `None` for all.
    pub counts: Option<&'a Tensor>,
}

/// Scalars of the losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossParams {
    /// Which anchors are whose.
    pub matching: MatchAnchors,
    /// Of the classes; its `normalizer` divides besides the anchors and images.
    pub focal: SigmoidFocalLoss,
    /// Of the boxes: L1, or GIoU for torchvision's second version.
    pub boxes: BoxLoss,
}

impl Default for LossParams {
    /// Those of torchvision's first version.
    fn default() -> Self {
        Self {
            matching: MatchAnchors::default(),
            focal: SigmoidFocalLoss::default(),
            boxes: BoxLoss::L1,
        }
    }
}

/// Losses, and the gradient of their sum.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Focal loss of the classes.
    pub classification: f32,
    /// Loss of the matched anchors' boxes.
    pub boxes: f32,
    /// With respect to the head outputs, in their shapes and type.
    pub gradients: HeadOutputs,
}

impl HeadOutputs {
    /// RetinaNet's losses with their gradients: of each image the focal loss of all anchors that are matched or background,
    /// and the box loss of those that are matched, both divided by the number of matched anchors (at least 1); then the
    /// mean over the images.
    ///
    /// `anchors` are those of [`anchors`](Self::anchors) for training as torchvision does it. It waits for the device to
    /// learn how many anchors each image matched.
    ///
    /// # Errors
    /// Shapes, types or devices that do not fit; scalars out of their range.
    ///
    /// Source: torchvision's `RetinaNet.compute_loss`.
    pub fn losses(
        &self,
        anchors: &Anchors,
        truth: &GroundTruth<'_>,
        params: &LossParams,
    ) -> Result<Losses> {
        let GroundTruth {
            boxes,
            classes,
            counts,
        } = *truth;
        if self.logits.len() != anchors.levels().len() {
            let rule = format!("{} levels, as the anchors have", anchors.levels().len());
            let (op, value) = ("retinanet losses", self.logits.len());
            return Err(Error::input(op, "logits", rule, value));
        }
        let matches = match_anchors(boxes, classes, counts, anchors, &params.matching)?;
        let foreground = matches.foreground.to_vec::<i32>()?;
        let (classification, logits) =
            self.classification(anchors, &matches.labels, &foreground, &params.focal)?;
        let targets = BoxTargets {
            boxes,
            matched: &matches.matched,
            foreground: Some(&matches.foreground),
        };
        let of_boxes = AnchorBoxLoss {
            loss: params.boxes,
            normalizer: foreground.len().max(1) as f32,
        };
        let (loss, deltas) =
            anchor_box_loss_with_gradient(&self.deltas, &targets, anchors, None, &of_boxes)?;
        Ok(Losses {
            classification,
            boxes: loss.to_vec::<f32>()?[0],
            gradients: HeadOutputs { logits, deltas },
        })
    }

    /// Each image has a divisor of its own, so each of its levels is a call.
    fn classification(
        &self,
        anchors: &Anchors,
        labels: &Tensor,
        foreground: &[i32],
        params: &SigmoidFocalLoss,
    ) -> Result<(f32, Vec<Tensor>)> {
        let images = foreground.len();
        if images == 0 {
            return Ok((0.0, self.logits.clone()));
        }
        let labels = labels.reshape(&[labels.len()])?;
        let mut sum = 0.0;
        let mut gradients = Vec::new();
        let mut first = 0;
        for (logits, level) in self.logits.iter().zip(anchors.levels()) {
            let rows = level.count();
            let mut parts = Vec::new();
            for (image, &matched) in foreground.iter().enumerate() {
                let start = image * anchors.count() + first;
                let labels = labels.slice(start..start + rows)?;
                let of_image = logits.slice(image..image + 1)?;
                let classes = of_image.len() / rows.max(1);
                let scalars = SigmoidFocalLoss {
                    normalizer: params.normalizer * matched.max(1) as f32 * images as f32,
                    ..*params
                };
                let table = of_image.reshape(&[rows, classes])?;
                let (loss, gradient) =
                    sigmoid_focal_loss_with_gradient(&table, &labels, None, &scalars)?;
                sum += f64::from(loss.to_vec::<f32>()?[0]);
                parts.push(gradient.reshape(of_image.shape())?);
            }
            gradients.push(Tensor::concat(&parts)?.reshape(logits.shape())?);
            first += rows;
        }
        Ok((sum as f32, gradients))
    }
}
