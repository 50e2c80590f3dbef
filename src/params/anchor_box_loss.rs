//! Scalars of the box losses.

use super::scalar;
use crate::error::Result;

/// What a box loss measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BoxLoss {
    /// `|d|` for each difference `d` of a delta from that which encodes the box. RetinaNet's.
    L1,
    /// `d^2 / (2 beta)` where `|d| < beta`, else `|d| - beta / 2`. With `beta` 0 it is [`L1`](Self::L1).
    SmoothL1 {
        /// Where the parabola ends. Finite, at least 0.
        beta: f32,
    },
    /// 1 minus the generalised IoU of the decoded box with the matched one. That of torchvision's second RetinaNet.
    Giou,
}

/// Scalars of the [box losses](crate::ops::anchor_box_loss).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnchorBoxLoss {
    /// What is measured.
    pub loss: BoxLoss,
    /// What the sum is divided by, for example the number of images. Finite, above 0.
    pub normalizer: f32,
}

impl Default for AnchorBoxLoss {
    /// L1, not divided.
    fn default() -> Self {
        Self {
            loss: BoxLoss::L1,
            normalizer: 1.0,
        }
    }
}

impl AnchorBoxLoss {
    /// Where the parabola of smooth L1 ends; none for GIoU.
    pub(crate) fn beta(&self) -> Option<f32> {
        match self.loss {
            BoxLoss::L1 => Some(0.0),
            BoxLoss::SmoothL1 { beta } => Some(beta),
            BoxLoss::Giou => None,
        }
    }

    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        const OP: &str = "anchor_box_loss";
        let normalizer = self.normalizer;
        let range = normalizer > 0.0 && normalizer.is_finite();
        scalar(OP, "normalizer", normalizer, "finite and above 0", range)?;
        let beta = self.beta().unwrap_or(0.0);
        let range = beta >= 0.0 && beta.is_finite();
        scalar(OP, "beta", beta, "finite and at least 0", range)
    }
}
