//! Scalars of non-maximum suppression.

use super::scalar;
use crate::error::{Error, Result};

/// Most boxes of an image: places and indices fit an `i32` with room for every sum of them.
pub(crate) const MAX_BOXES: usize = 1 << 20;

/// Scalars of [non-maximum suppression](crate::ops::nms).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nms {
    /// A box is dropped where a kept box of its class has a larger intersection over union. Finite, at least 0.
    pub iou_threshold: f32,
    /// Scores must be above this, where given.
    pub score_threshold: Option<f32>,
    /// Length of the output, at most the number of boxes of an image, which is the default.
    pub max_output: Option<usize>,
}

impl Default for Nms {
    /// An IoU threshold of 0.5, and no other limit.
    fn default() -> Self {
        Self {
            iou_threshold: 0.5,
            score_threshold: None,
            max_output: None,
        }
    }
}

impl Nms {
    /// Checks each scalar against its range and returns the length of the output for `boxes` boxes an image.
    pub(crate) fn check(&self, boxes: usize) -> Result<usize> {
        const OP: &str = "nms";
        check_threshold(OP, "iou_threshold", self.iou_threshold)?;
        if let Some(score) = self.score_threshold {
            scalar(OP, "score_threshold", score, "a number", !score.is_nan())?;
        }
        check_max_output(OP, boxes, self.max_output)
    }
}

/// A threshold must be finite and at least 0.
pub(super) fn check_threshold(op: &'static str, argument: &str, threshold: f32) -> Result<()> {
    let range = threshold >= 0.0 && threshold.is_finite();
    scalar(op, argument, threshold, "finite and at least 0", range)
}

/// The length of the output for `boxes` boxes an image, all of them by default.
pub(super) fn check_max_output(
    op: &'static str,
    boxes: usize,
    max_output: Option<usize>,
) -> Result<usize> {
    if boxes > MAX_BOXES {
        let rule = format!("at most {MAX_BOXES} an image");
        return Err(Error::input(op, "boxes", rule, boxes));
    }
    let max_output = max_output.unwrap_or(boxes);
    if max_output > boxes {
        let rule = format!("at most the {boxes} boxes of an image");
        return Err(Error::input(op, "max_output", rule, max_output));
    }
    Ok(max_output)
}
