//! Scalars of anchor decoding.

use super::{Anchors, scalar};
use crate::error::{Error, Result};

const OP: &str = "anchor_decode";
/// Most candidates of a level: twice as many keys are sorted on chip.
const MAX_TOPK: usize = 4096;
/// Most logits of a level of an image: the kernel's indices, which run past the end by less than a tile, fit an `i32`.
const MAX_LOGITS: usize = 1 << 30;

/// Scalars of [anchor decoding](crate::ops::anchor_decode).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnchorDecode {
    /// Scores must be above this. In [0, 1].
    pub score_threshold: f32,
    /// Candidates of each level and image, at most 4096 where a level has more.
    pub topk: usize,
}

impl Default for AnchorDecode {
    /// RetinaNet's: scores above 0.05, the best 1000 of each level.
    fn default() -> Self {
        Self {
            score_threshold: 0.05,
            topk: 1000,
        }
    }
}

impl AnchorDecode {
    /// What logits must be above: `ln(t / (1 - t))`, rounded to f32.
    pub(crate) fn logit_threshold(&self) -> f32 {
        let threshold = f64::from(self.score_threshold);
        (threshold / (1.0 - threshold)).ln() as f32
    }

    /// Checks each scalar and returns the candidates of each level: `min(topk, H * W * A * K)`.
    pub(crate) fn check(&self, anchors: &Anchors, classes: usize) -> Result<Vec<usize>> {
        let threshold = self.score_threshold;
        let range = (0.0..=1.0).contains(&threshold);
        scalar(OP, "score_threshold", threshold, "in [0, 1]", range)?;
        let candidates = |count: usize| {
            let logits = count.checked_mul(classes);
            let Some(logits) = logits.filter(|&logits| logits <= MAX_LOGITS) else {
                let rule = "at most 2^30 a level and image";
                let value = format!("{count} x {classes}");
                return Err(Error::input(OP, "logits", rule, value));
            };
            let topk = self.topk.min(logits);
            if topk > MAX_TOPK {
                let rule = format!("at most {MAX_TOPK}");
                return Err(Error::input(OP, "topk", rule, topk));
            }
            Ok(topk)
        };
        let levels = anchors.levels().iter();
        levels.map(|level| candidates(level.count())).collect()
    }
}
