//! Scalars of sigmoid focal loss.

use super::scalar;
use crate::error::Result;

/// Scalars of [sigmoid focal loss](crate::ops::sigmoid_focal_loss).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SigmoidFocalLoss {
    /// Weight of positives; negatives weigh `1 - alpha`. In `[0, 1]`.
    pub alpha: f32,
    /// Focusing exponent, at least 0. The kernels are fastest at 2.
    pub gamma: f32,
    /// Label smoothing `s` in `[0, 1)`: the target of a positive is `1 - s / 2`, of a negative `s /
    /// 2`, as in NVIDIA's apex. Weights and focusing go by the label alone.
    pub label_smoothing: f32,
    /// The sum is divided by this, usually the number of positive anchors. Above 0.
    pub normalizer: f32,
}

impl Default for SigmoidFocalLoss {
    /// RetinaNet's: alpha 0.25, gamma 2, no smoothing, normalizer 1.
    fn default() -> Self {
        Self {
            alpha: 0.25,
            gamma: 2.0,
            label_smoothing: 0.0,
            normalizer: 1.0,
        }
    }
}

impl SigmoidFocalLoss {
    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        const OP: &str = "sigmoid_focal_loss";
        let &Self {
            alpha,
            gamma,
            label_smoothing,
            normalizer,
        } = self;
        scalar(
            OP,
            "alpha",
            alpha,
            "in [0, 1]",
            (0.0..=1.0).contains(&alpha),
        )?;
        scalar(
            OP,
            "gamma",
            gamma,
            "finite and at least 0",
            gamma >= 0.0 && gamma.is_finite(),
        )?;
        let smooth = (0.0..1.0).contains(&label_smoothing);
        scalar(OP, "label_smoothing", label_smoothing, "in [0, 1)", smooth)?;
        // The reciprocal of a subnormal number would be infinite.
        let normal = normalizer > 0.0 && normalizer.is_normal();
        scalar(OP, "normalizer", normalizer, "finite and above 0", normal)
    }
}
