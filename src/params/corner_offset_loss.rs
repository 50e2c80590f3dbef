//! The scalar of the loss of corner offsets.

use super::scalar;
use crate::error::Result;

/// Scalar of [corner offset loss](crate::ops::corner_offset_loss).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerOffsetLoss {
    /// Multiplies the loss. Finite and at least 0.
    pub weight: f32,
}

impl Default for CornerOffsetLoss {
    /// CornerNet's: 1.
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl CornerOffsetLoss {
    /// Checks the scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        let holds = self.weight >= 0.0 && self.weight.is_finite();
        scalar(
            "corner_offset_loss",
            "weight",
            self.weight,
            "finite and at least 0",
            holds,
        )
    }
}
