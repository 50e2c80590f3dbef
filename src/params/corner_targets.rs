//! How boxes become targets of corner heatmaps.

use crate::error::{Error, Result};

/// Most boxes an image: a block of the kernels holds the nearby ones of an image on the chip.
pub(crate) const MAX_BOXES: usize = 1024;
/// Largest extent of a heatmap: squared distances of cells stay below 2^31.
pub(crate) const MAX_EXTENT: usize = 1 << 14;

/// Scalars of [corner targets](crate::ops::corner_targets).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerTargets {
    /// Height of the images that the boxes lie in; a heatmap's cell is `input_height / H` high.
    pub input_height: usize,
    /// Width of the images.
    pub input_width: usize,
    /// A corner moved by less than the radius of its bump still makes a box of at least this overlap.
    /// In (0, 1).
    pub gaussian_iou: f64,
}

impl CornerTargets {
    /// For images of this size, with CornerNet's overlap of 0.3.
    pub fn new(input_height: usize, input_width: usize) -> Self {
        Self {
            input_height,
            input_width,
            gaussian_iou: 0.3,
        }
    }

    /// Checks the scalars, and the extents of heatmaps and boxes, for `op`.
    pub(crate) fn check(&self, op: &'static str, [height, width]: [usize; 2]) -> Result<()> {
        let extents = [
            ("input_height", self.input_height),
            ("input_width", self.input_width),
        ];
        for (name, extent) in extents {
            if extent == 0 {
                return Err(Error::input(op, name, "above 0", extent));
            }
        }
        let iou = self.gaussian_iou;
        if !(iou > 0.0 && iou < 1.0) {
            return Err(Error::input(op, "gaussian_iou", "in (0, 1)", iou));
        }
        for (name, extent) in [("H", height), ("W", width)] {
            if extent > MAX_EXTENT {
                return Err(Error::input(
                    op,
                    name,
                    format!("at most {MAX_EXTENT}"),
                    extent,
                ));
            }
        }
        Ok(())
    }

    /// Cells a pixel, vertically and horizontally.
    pub(crate) fn ratios(&self, [height, width]: [usize; 2]) -> [f64; 2] {
        [
            height as f64 / self.input_height as f64,
            width as f64 / self.input_width as f64,
        ]
    }
}
