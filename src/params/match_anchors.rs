//! Scalars of anchor matching.

use super::scalar;
use crate::error::Result;

/// Scalars of [anchor matching](crate::ops::match_anchors).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchAnchors {
    /// An anchor is matched where its largest overlap is at least this. In [0, 1].
    pub high_threshold: f32,
    /// An anchor is background where its largest overlap is below this. In [0, `high_threshold`].
    pub low_threshold: f32,
    /// Whether the anchors that overlap a box most are matched whatever that overlap.
    pub low_quality: bool,
}

impl Default for MatchAnchors {
    /// RetinaNet's: matched from 0.5, background below 0.4, and the best of each box.
    fn default() -> Self {
        Self {
            high_threshold: 0.5,
            low_threshold: 0.4,
            low_quality: true,
        }
    }
}

impl MatchAnchors {
    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        const OP: &str = "match_anchors";
        let (high, low) = (self.high_threshold, self.low_threshold);
        let range = (0.0..=1.0).contains(&high);
        scalar(OP, "high_threshold", high, "in [0, 1]", range)?;
        let range = (0.0..=high).contains(&low);
        scalar(OP, "low_threshold", low, "in [0, high_threshold]", range)
    }
}
