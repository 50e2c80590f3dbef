//! Anchors of a feature pyramid, made from their index.

use crate::error::{Error, Result};

const OP: &str = "anchors";
/// Most levels of a pyramid: what the kernels' tables hold.
pub(crate) const MAX_LEVELS: usize = 8;
/// Most shapes over all levels: what the kernels' tables hold.
pub(crate) const MAX_SHAPES: usize = 128;
/// Largest side of an image: up to here every pixel is a number of `f32`.
const MAX_SIDE: usize = 1 << 24;

/// Anchors of one level of a feature pyramid.
///
/// Anchor `a` of the cell in row `y` and column `x` is `(x * stride_x - w, y * stride_y - h, x * stride_x + w, y *
/// stride_y + h)` in f32, where `(w, h)` is `half_sizes[a]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorLevel {
    /// Rows and columns of cells.
    pub grid: [usize; 2],
    /// Distance of rows and of columns in pixels.
    pub stride: [f32; 2],
    /// Half the width and half the height of each anchor of a cell, in the order of the head's channels.
    pub half_sizes: Vec<[f32; 2]>,
}

impl AnchorLevel {
    /// Number of anchors.
    pub fn count(&self) -> usize {
        self.grid[0] * self.grid[1] * self.half_sizes.len()
    }

    /// The anchor of this index in `[H, W, A]`, as `(x1, y1, x2, y2)`.
    pub fn anchor(&self, index: usize) -> [f32; 4] {
        let shapes = self.half_sizes.len();
        let [w, h] = self.half_sizes[index % shapes];
        let cell = index / shapes;
        let x = (cell % self.grid[1]) as f32 * self.stride[1];
        let y = (cell / self.grid[1]) as f32 * self.stride[0];
        [x - w, y - h, x + w, y + h]
    }
}

/// Anchors of a feature pyramid, never stored: every op makes them from their index.
#[derive(Debug, Clone, PartialEq)]
pub struct Anchors {
    image: [usize; 2],
    levels: Vec<AnchorLevel>,
}

impl Anchors {
    /// Anchors of these levels for images of this height and width.
    ///
    /// # Errors
    /// With no level or more than 8, more than 128 shapes in all, a level without shapes, a stride or size that is
    /// negative or not finite, a side above 2^24, or 2^31 anchors and more.
    pub fn new(image: [usize; 2], levels: Vec<AnchorLevel>) -> Result<Self> {
        let fail =
            |argument, rule: String, value: String| Err(Error::input(OP, argument, rule, value));
        if image.iter().any(|&side| side > MAX_SIDE) {
            return fail("image", "at most 2^24 a side".into(), format!("{image:?}"));
        }
        if levels.is_empty() || levels.len() > MAX_LEVELS {
            let rule = format!("1 to {MAX_LEVELS}");
            return fail("levels", rule, levels.len().to_string());
        }
        let shapes: usize = levels.iter().map(|level| level.half_sizes.len()).sum();
        if shapes > MAX_SHAPES || levels.iter().any(|level| level.half_sizes.is_empty()) {
            let rule = format!("at least 1 a level and at most {MAX_SHAPES} in all");
            return fail("half_sizes", rule, shapes.to_string());
        }
        let good = |x: &f32| x.is_finite() && *x >= 0.0;
        for level in &levels {
            let sizes = level.half_sizes.iter().flatten().chain(&level.stride);
            if let Some(bad) = sizes.into_iter().find(|&x| !good(x)) {
                let rule = "finite and at least 0".into();
                return fail("strides and sizes", rule, bad.to_string());
            }
        }
        let count = levels.iter().try_fold(0usize, |sum, level| {
            let cells = level.grid[0].checked_mul(level.grid[1])?;
            sum.checked_add(cells.checked_mul(level.half_sizes.len())?)
        });
        if count.is_none_or(|count| count > i32::MAX as usize) {
            let grids: Vec<_> = levels.iter().map(|level| level.grid).collect();
            return fail(
                "grids",
                "fewer than 2^31 anchors".into(),
                format!("{grids:?}"),
            );
        }
        Ok(Self { image, levels })
    }

    /// RetinaNet's anchors as torchvision makes them: sizes `s`, `int(s * 2^(1/3))` and `int(s * 2^(2/3))` with `s` = 32
    /// on the first level, twice as large on each next; ratios (height to width) 0.5, 1 and 2, the ratio outermost; half
    /// sizes rounded to whole pixels, ties to even; strides `image / grid` rounded down, where `image` is the height and
    /// width of the padded batch.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn torchvision(image: [usize; 2], grids: &[[usize; 2]]) -> Result<Self> {
        let level = |(level, &grid): (usize, &[usize; 2])| {
            let size = 32.0 * f64::powi(2.0, level as i32);
            let sizes = [0.0, 1.0, 2.0].map(|third: f64| (size * (third / 3.0).exp2()) as f32);
            let pixels = |side: usize| (image[side] / grid[side].max(1)) as f32;
            AnchorLevel {
                grid,
                stride: [pixels(0), pixels(1)],
                half_sizes: torchvision_half_sizes(&sizes.map(f32::trunc), &[0.5, 1.0, 2.0]),
            }
        };
        Self::new(image, grids.iter().enumerate().map(level).collect())
    }

    /// RetinaNet's anchors as detectron2 makes them: sizes `s`, `s * 2^(1/3)` and `s * 2^(2/3)`, outermost; ratios
    /// (height to width) 0.5, 1 and 2; nothing is rounded; strides 8, 16, 32 and so on; no offset. `image` is what boxes
    /// are clipped to.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn detectron2(image: [usize; 2], grids: &[[usize; 2]]) -> Result<Self> {
        let level = |(level, &grid): (usize, &[usize; 2])| {
            let scale = f64::powi(2.0, level as i32);
            let half_sizes = [0.0, 1.0, 2.0].iter().flat_map(|third: &f64| {
                let side = 32.0 * scale * (third / 3.0).exp2();
                [0.5, 1.0, 2.0].map(|ratio: f64| {
                    let width = (side * side / ratio).sqrt();
                    [(width / 2.0) as f32, (ratio * width / 2.0) as f32]
                })
            });
            AnchorLevel {
                grid,
                stride: [8.0 * scale as f32; 2],
                half_sizes: half_sizes.collect(),
            }
        };
        Self::new(image, grids.iter().enumerate().map(level).collect())
    }

    /// Height and width of the images.
    pub fn image(&self) -> [usize; 2] {
        self.image
    }

    /// The levels, finest first.
    pub fn levels(&self) -> &[AnchorLevel] {
        &self.levels
    }

    /// Number of anchors of an image: those of the levels in order, each `[H, W, A]`.
    pub fn count(&self) -> usize {
        self.levels.iter().map(AnchorLevel::count).sum()
    }
}

/// Half widths and half heights of the anchors of a cell as torchvision's `AnchorGenerator` makes them in f32: ratios
/// (height to width) outermost, rounded to whole pixels, ties to even.
pub fn torchvision_half_sizes(sizes: &[f32], ratios: &[f32]) -> Vec<[f32; 2]> {
    let shape = |ratio: f32, size: f32| {
        let tall = ratio.sqrt();
        let half = |factor: f32| (factor * size / 2.0).round_ties_even();
        [half(1.0 / tall), half(tall)]
    };
    let of_ratio = |&ratio: &f32| sizes.iter().map(move |&size| shape(ratio, size));
    ratios.iter().flat_map(of_ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_sizes_are_torchvisions() {
        let grids = [[100, 168], [50, 84], [25, 42], [13, 21], [7, 11]];
        let anchors = Anchors::torchvision([800, 1344], &grids).unwrap();
        assert_eq!(anchors.count(), 201_600);
        let first = &anchors.levels()[0].half_sizes;
        assert_eq!(first[..4], [[23., 11.], [28., 14.], [35., 18.], [16., 16.]]);
        assert_eq!(anchors.levels()[2].half_sizes[5], [102., 102.]);
        assert_eq!(anchors.levels()[4].half_sizes[2], [574., 287.]);
        let strides: Vec<_> = anchors.levels().iter().map(|level| level.stride).collect();
        assert_eq!(strides[3..], [[61., 64.], [114., 122.]]);
    }

    #[test]
    fn bad_levels_are_named() {
        let level = |stride: f32, shapes: usize| AnchorLevel {
            grid: [2, 3],
            stride: [stride; 2],
            half_sizes: vec![[1.0, 2.0]; shapes],
        };
        let message = |levels| Anchors::new([8, 8], levels).unwrap_err().to_string();
        assert_eq!(message(vec![]), "anchors: levels must be 1 to 8, got 0");
        assert_eq!(
            message(vec![level(f32::NAN, 1)]),
            "anchors: strides and sizes must be finite and at least 0, got NaN"
        );
        assert_eq!(
            message(vec![level(1.0, 129)]),
            "anchors: half_sizes must be at least 1 a level and at most 128 in all, got 129"
        );
        let huge = AnchorLevel {
            grid: [1 << 40, 1 << 40],
            ..level(1.0, 1)
        };
        assert!(message(vec![huge]).contains("fewer than 2^31 anchors"));
    }
}
