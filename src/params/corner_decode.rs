//! Scalars of corner decoding.

use super::scalar;
use crate::error::{Error, Result};

const OP: &str = "corner_decode";

/// Scalars of [corner decoding](crate::ops::corner_decode).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerDecode {
    /// Corners of each kind that are paired, in 1..=512; all where the map has fewer.
    pub topk: usize,
    /// Side of the window of which a peak is the maximum: odd, in 1..=15.
    pub kernel: usize,
    /// Embeddings of a pair must not be farther apart. Not NaN.
    pub ae_threshold: f32,
    /// Length of the output, in 1..=4096.
    pub num_dets: usize,
}

impl Default for CornerDecode {
    /// What CornerNet is evaluated with: 100 corners of each kind, 3 x 3 peaks, embeddings within 0.5, 1000 boxes.
    fn default() -> Self {
        Self {
            topk: 100,
            kernel: 3,
            ae_threshold: 0.5,
            num_dets: 1000,
        }
    }
}

impl CornerDecode {
    /// Cells on each side of a peak that it is not lower than.
    pub(crate) fn radius(&self) -> usize {
        self.kernel / 2
    }

    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |argument: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::input(OP, argument, format!("in [1, {most}]"), value))
        };
        within("topk", self.topk, 512)?;
        within("num_dets", self.num_dets, 4096)?;
        if self.kernel.is_multiple_of(2) || self.kernel > 15 {
            let rule = "odd and at most 15";
            return Err(Error::input(OP, "kernel", rule, self.kernel));
        }
        let threshold = self.ae_threshold;
        scalar(
            OP,
            "ae_threshold",
            threshold,
            "a number",
            !threshold.is_nan(),
        )
    }
}
