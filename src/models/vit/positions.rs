//! The learned terms of positions, and their fit to images of other sizes.

use crate::models::resample::{Filter, resample};

/// How positions of a grid of patches are made from those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interpolation {
    /// Not at all: images have the one size that the weights were trained at.
    None,
    /// Bicubic, as `torch.nn.functional.interpolate` to a size: Hugging Face.
    Bicubic,
    /// The same with antialiasing: timm, and DINOv2 with registers.
    Antialiased,
    /// Bicubic by the factors `(new + 0.1) / old`, which DINOv2 passes instead of the size so that rounding cannot lose
    /// a row: places lie a little closer together.
    Offset,
}

/// What [`Interpolation::Offset`] adds to the new extent.
const OFFSET: f64 = 0.1;

impl Interpolation {
    /// Positions `[H, W, D]` of the grid `from`, for the grid `to`.
    pub(super) fn apply(
        self,
        values: &[f32],
        from: [usize; 2],
        to: [usize; 2],
        width: usize,
    ) -> Vec<f32> {
        let filter = match self {
            Interpolation::Antialiased => Filter::BicubicAntialiased,
            _ => Filter::Bicubic,
        };
        let offset = if self == Interpolation::Offset {
            OFFSET
        } else {
            0.0
        };
        let step = [0, 1].map(|axis| from[axis] as f64 / (to[axis] as f64 + offset));
        resample(
            values,
            [from[0], from[1], width],
            to.map(|size| 0..size),
            step,
            filter,
        )
    }
}
