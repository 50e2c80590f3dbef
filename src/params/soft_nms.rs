//! Scalars of soft non-maximum suppression.

use super::nms::{check_max_output, check_threshold};
use super::scalar;
use crate::error::{Error, Result};
use std::str::FromStr;

const OP: &str = "soft_nms";

/// How [soft non-maximum suppression](crate::ops::soft_nms) lowers the score of a box that overlaps a kept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SoftNmsMethod {
    /// By `1 - IoU` where the IoU is above the threshold.
    #[default]
    Linear,
    /// By `exp(-IoU^2 / sigma)`.
    Gaussian,
}

impl FromStr for SoftNmsMethod {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "linear" => Ok(Self::Linear),
            "gaussian" => Ok(Self::Gaussian),
            _ => Err(Error::input(OP, "method", "linear or gaussian", name)),
        }
    }
}

/// Scalars of [soft non-maximum suppression](crate::ops::soft_nms).
///
/// CornerNet's `exp_soft_nms` is `SoftNms { method: SoftNmsMethod::Gaussian, inclusive: true, ..SoftNms::default() }`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftNms {
    /// How scores are lowered.
    pub method: SoftNmsMethod,
    /// Width of the bell of [`SoftNmsMethod::Gaussian`]. Finite, above 0.
    pub sigma: f32,
    /// Overlap above which [`SoftNmsMethod::Linear`] lowers a score. Finite, at least 0.
    pub iou_threshold: f32,
    /// Scores must be above this, and stay so. Finite, at least 0.
    pub score_threshold: f32,
    /// Whether corners are the indices of pixels inside the box: widths and heights are then `high - low + 1`.
    pub inclusive: bool,
    /// Length of the output, at most the number of boxes of an image, which is the default.
    pub max_output: Option<usize>,
}

impl Default for SoftNms {
    /// Linear above an IoU of 0.5; sigma 0.5; scores above 0.001; continuous coordinates; all boxes.
    fn default() -> Self {
        Self {
            method: SoftNmsMethod::Linear,
            sigma: 0.5,
            iou_threshold: 0.5,
            score_threshold: 0.001,
            inclusive: false,
            max_output: None,
        }
    }
}

impl SoftNms {
    /// What is added to a width or height.
    pub(crate) fn extra(&self) -> f32 {
        if self.inclusive { 1.0 } else { 0.0 }
    }

    /// Checks each scalar against its range and returns the length of the output for `boxes` boxes an image.
    pub(crate) fn check(&self, boxes: usize) -> Result<usize> {
        let sigma = self.sigma;
        let range = sigma > 0.0 && sigma.is_finite();
        scalar(OP, "sigma", sigma, "finite and above 0", range)?;
        check_threshold(OP, "iou_threshold", self.iou_threshold)?;
        // A score below 0 would rise when multiplied by a weight.
        check_threshold(OP, "score_threshold", self.score_threshold)?;
        check_max_output(OP, boxes, self.max_output)
    }
}
