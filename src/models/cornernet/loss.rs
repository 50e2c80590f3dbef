//! What a CornerNet is trained by.

use super::{CornerHeads, Outputs};
use crate::ops::{
    HeatmapTargets, TargetMaps, corner_embedding_loss_with_gradient,
    corner_offset_loss_with_gradient, corner_targets, heatmap_focal_loss_with_gradient,
};
use crate::params::{CornerEmbeddingLoss, CornerOffsetLoss, CornerTargets, HeatmapFocalLoss};
use crate::{Error, Result, Tensor};
use std::collections::BTreeSet;

const OP: &str = "cornernet loss";

/// Scalars of [`loss_with_gradient`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossRule {
    /// How boxes become targets.
    pub targets: CornerTargets,
    /// Exponents and clamp of the heatmaps' focal loss; its normalizer multiplies the number of positives.
    pub heat: HeatmapFocalLoss,
    /// Weights of pull and push.
    pub embedding: CornerEmbeddingLoss,
    /// Weight of the offsets.
    pub offset: CornerOffsetLoss,
}

impl LossRule {
    /// The official code's for images of this size: probabilities clamped at 1e-4, weights 0.1 of pull and push and 1 of
    /// offsets.
    pub fn new(input_height: usize, input_width: usize) -> Self {
        Self {
            targets: CornerTargets::new(input_height, input_width),
            heat: HeatmapFocalLoss {
                clamp: 1e-4,
                ..HeatmapFocalLoss::default()
            },
            embedding: CornerEmbeddingLoss::default(),
            offset: CornerOffsetLoss::default(),
        }
    }
}

/// The parts of the loss, weights included.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Losses {
    /// Focal loss of both heatmaps.
    pub heat: f32,
    /// Pull loss of the embeddings.
    pub pull: f32,
    /// Push loss of the embeddings.
    pub push: f32,
    /// Smooth-L1 loss of both offsets.
    pub offset: f32,
}

impl Losses {
    /// What is minimised.
    pub fn total(&self) -> f32 {
        self.heat + self.pull + self.push + self.offset
    }
}

/// The loss of a batch and its gradient with respect to every output of every stack (equation 1 of the paper and those
/// around it).
///
/// ```text
/// (sum over stacks of heat_tl + heat_br + pull + push + offset_tl + offset_br) / stacks
/// ```
///
/// - `outputs`: the heads of each stack, of one shape.
/// - `boxes`: `[B, M, 4]` f32 in pixels of the images, `classes`: `[B, M]` i32, -1 pads.
///
/// A focal loss is divided by the cells of the batch that are a corner of its class (not at all where there are none):
/// two corners in one cell count once, as in the official code. The gradients have the shapes and types of the outputs.
/// This waits for the device, to count the positives and to return the losses.
///
/// Source: `models/py_utils/kp_utils.py` and `AELoss` of princeton-vl/CornerNet.
///
/// # Errors
/// No stack; shapes, types, devices or scalars that do not fit; from the device.
pub fn loss_with_gradient(
    outputs: &[Outputs],
    boxes: &Tensor,
    classes: &Tensor,
    rule: &LossRule,
) -> Result<(Losses, Vec<Outputs>)> {
    let Some(first) = outputs.first() else {
        return Err(Error::input(OP, "outputs", "of at least 1 stack", 0));
    };
    let &[_, height, width, kinds] = first.top_left.heat.shape() else {
        let shape = format!("{:?}", first.top_left.heat.shape());
        return Err(Error::input(OP, "heat", "[B, H, W, K]", shape));
    };
    let targets = corner_targets(boxes, classes, [height, width, kinds], &rule.targets)?;
    let batch = Batch {
        positives: [
            positives(&targets[0], classes)?,
            positives(&targets[1], classes)?,
        ],
        targets,
        rule,
        share: 1.0 / outputs.len() as f32,
    };
    let mut losses = Losses::default();
    let gradients = outputs.iter().map(|stack| batch.stack(stack, &mut losses));
    let gradients = gradients.collect::<Result<_>>()?;
    Ok((losses, gradients))
}

/// Cells that are a corner of their class. A box that is left out has no cell.
fn positives(targets: &TargetMaps, classes: &Tensor) -> Result<usize> {
    let cells = targets.indices.to_vec::<i32>()?;
    let classes = classes.to_vec::<i32>()?;
    let of_image = targets.indices.shape()[1];
    let boxes = cells.iter().zip(&classes).enumerate();
    let corners = boxes.filter(|(_, (cell, _))| **cell >= 0);
    let places = corners.map(|(number, (cell, class))| (number / of_image, *cell, *class));
    Ok(places.collect::<BTreeSet<_>>().len())
}

/// What all stacks have in common.
struct Batch<'a> {
    targets: [TargetMaps; 2],
    positives: [usize; 2],
    rule: &'a LossRule,
    /// Of one stack in the loss.
    share: f32,
}

impl Batch<'_> {
    /// Adds the losses of one stack and returns their gradients.
    fn stack(&self, stack: &Outputs, losses: &mut Losses) -> Result<Outputs> {
        let heads = [&stack.top_left, &stack.bottom_right];
        let params = CornerEmbeddingLoss {
            pull_weight: self.rule.embedding.pull_weight * self.share,
            push_weight: self.rule.embedding.push_weight * self.share,
        };
        let (grouping, embeddings) = corner_embedding_loss_with_gradient(
            heads.map(|heads| &heads.embedding),
            [&self.targets[0].indices, &self.targets[1].indices],
            None,
            &params,
        )?;
        let grouping = grouping.to_vec::<f32>()?;
        losses.pull += grouping[0];
        losses.push += grouping[1];
        let [of_top_left, of_bottom_right] = embeddings;
        let mut corner = |number: usize, embedding| {
            let (heat, gradient) = self.heat(number, &heads[number].heat)?;
            let (offset, offset_gradient) = self.offset(number, &heads[number].offset)?;
            losses.heat += heat;
            losses.offset += offset;
            Ok::<_, Error>(CornerHeads {
                heat: gradient,
                embedding,
                offset: offset_gradient,
            })
        };
        Ok(Outputs {
            top_left: corner(0, of_top_left)?,
            bottom_right: corner(1, of_bottom_right)?,
        })
    }

    fn heat(&self, number: usize, logits: &Tensor) -> Result<(f32, Tensor)> {
        let params = HeatmapFocalLoss {
            normalizer: self.rule.heat.normalizer * self.positives[number].max(1) as f32
                / self.share,
            ..self.rule.heat
        };
        let targets = HeatmapTargets::Map(&self.targets[number].heat);
        let (loss, gradient) = heatmap_focal_loss_with_gradient(logits, &targets, None, &params)?;
        Ok((loss.to_vec::<f32>()?[0], gradient))
    }

    fn offset(&self, number: usize, offsets: &Tensor) -> Result<(f32, Tensor)> {
        let params = CornerOffsetLoss {
            weight: self.rule.offset.weight * self.share,
        };
        let TargetMaps {
            offsets: targets,
            indices,
            ..
        } = &self.targets[number];
        let (loss, gradient) =
            corner_offset_loss_with_gradient(offsets, indices, targets, None, &params)?;
        Ok((loss.to_vec::<f32>()?[0], gradient))
    }
}
