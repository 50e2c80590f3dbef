//! Scalars of the pull and push losses of corner embeddings.

use super::scalar;
use crate::error::Result;

/// Scalars of [corner embedding loss](crate::ops::corner_embedding_loss).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerEmbeddingLoss {
    /// Multiplies the pull loss. Finite and at least 0.
    pub pull_weight: f32,
    /// Multiplies the push loss. Finite and at least 0.
    pub push_weight: f32,
}

impl Default for CornerEmbeddingLoss {
    /// CornerNet's: 0.1 both.
    fn default() -> Self {
        Self {
            pull_weight: 0.1,
            push_weight: 0.1,
        }
    }
}

impl CornerEmbeddingLoss {
    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        let weights = [
            ("pull_weight", self.pull_weight),
            ("push_weight", self.push_weight),
        ];
        for (name, weight) in weights {
            let holds = weight >= 0.0 && weight.is_finite();
            scalar(
                "corner_embedding_loss",
                name,
                weight,
                "finite and at least 0",
                holds,
            )?;
        }
        Ok(())
    }
}
