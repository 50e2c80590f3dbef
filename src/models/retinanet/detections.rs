//! From head outputs to what was found.

use super::{HeadOutputs, ImageBatch};
use crate::error::{Error, Result};
use crate::models::Detection;
use crate::ops::{anchor_decode, nms};
use crate::params::{AnchorDecode, Nms};
use crate::tensor::{Device, ShapeText, Tensor};

/// Limits of what is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectionParams {
    /// Candidates of each level.
    pub decode: AnchorDecode,
    /// A box is dropped where a better one of its class has a larger intersection over union.
    pub iou_threshold: f32,
    /// Detections of an image at most.
    pub most: usize,
}

impl Default for DetectionParams {
    /// torchvision's: scores above 0.05, the best 1000 of each level, an IoU threshold of 0.5, 300 detections.
    fn default() -> Self {
        Self {
            decode: AnchorDecode::default(),
            iou_threshold: 0.5,
            most: 300,
        }
    }
}

impl HeadOutputs {
    /// What was found in each image of the batch, best first: the candidates of [`anchor_decode`], clipped to their image,
    /// then [`nms`] class by class, then scaled to the images as they were given. It waits for the device.
    ///
    /// # Errors
    /// Shapes that do not fit the batch; scalars out of their range.
    pub fn detections(
        &self,
        batch: &ImageBatch,
        params: &DetectionParams,
    ) -> Result<Vec<Vec<Detection>>> {
        let images = batch.sizes.len();
        let &[_, height, width, _] = batch.pixels.shape() else {
            let value = ShapeText(batch.pixels.shape());
            return Err(Error::input("detections", "pixels", "[B, H, W, 3]", value));
        };
        if batch.originals.len() != images {
            let (rule, is) = (format!("{images}, as sizes"), batch.originals.len());
            return Err(Error::input("detections", "originals", rule, is));
        }
        let anchors = self.anchors([height, width])?;
        let sizes = batch.sizes.iter().flatten().map(|&side| side as i32);
        let device = self.logits[0].device();
        let sizes = Tensor::from_vec(sizes.collect(), &[images, 2], &device)?;
        let (logits, deltas) = (&self.logits, &self.deltas);
        let found = anchor_decode(logits, deltas, &anchors, Some(&sizes), &params.decode)?;
        let most = params.most.min(found.scores.shape()[1]);
        let suppression = Nms {
            iou_threshold: params.iou_threshold,
            score_threshold: None,
            max_output: Some(most),
        };
        let (boxes, scores) = (&found.boxes, &found.scores);
        let (classes, count) = (Some(&found.classes), Some(&found.count));
        let kept = nms(boxes, scores, classes, count, &suppression)?;
        let (indices, count) = (kept.indices.to_vec::<i32>()?, kept.count.to_vec::<i32>()?);
        let host = (
            boxes.to_device(&Device::Cpu)?,
            scores.to_device(&Device::Cpu)?,
            found.classes.to_device(&Device::Cpu)?,
        );
        let candidates = scores.shape()[1];
        let per_image = (0..images).map(|image| {
            let kept = &indices[image * most..][..count[image] as usize];
            let place = |&index: &i32| image * candidates + index as usize;
            let scale = scale(batch, image);
            let detection = |place: usize| {
                let corners = &host.0.as_slice::<f32>()?[4 * place..4 * place + 4];
                Ok(Detection {
                    corners: std::array::from_fn(|i| corners[i] * scale[i % 2]),
                    score: host.1.as_slice::<f32>()?[place],
                    class: host.2.as_slice::<i32>()?[place] as usize,
                })
            };
            kept.iter().map(place).map(detection).collect()
        });
        per_image.collect()
    }
}

/// Factors of x and y from the batch's pixels to the given image's, as torchvision rounds them.
fn scale(batch: &ImageBatch, image: usize) -> [f32; 2] {
    let (size, original) = (batch.sizes[image], batch.originals[image]);
    [1, 0].map(|axis| original[axis] as f32 / size[axis] as f32)
}
