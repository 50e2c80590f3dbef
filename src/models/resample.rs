//! Separable resampling on the host, with the filters of PyTorch and Pillow.
//!
//! For what is done once, as positions of a Vision Transformer, or before a model, as an image that timm's weights want
//! bicubic. On a device: [`ops::resize_bilinear`](crate::ops::resize_bilinear()).

use crate::error::{Error, Result};
use crate::tensor::{ShapeText, Tensor};
use std::ops::Range;

/// A filter of resampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Keys' cubic with a = -0.75 on four pixels, those beyond the border repeated:
    /// `torch.nn.functional.interpolate(mode="bicubic")`.
    Bicubic,
    /// The triangle on two pixels, widened where the result is smaller, pixels beyond the border left out:
    /// `mode="bilinear", antialias=True`, and Pillow's `BILINEAR`.
    BilinearAntialiased,
    /// Keys' cubic with a = -0.5, widened where the result is smaller, pixels beyond the border left out:
    /// `mode="bicubic", antialias=True`, and Pillow's `BICUBIC`.
    BicubicAntialiased,
}

/// Rows and columns of an image `[H, W, 3]`.
pub(crate) fn pixel_extents(op: &'static str, image: &Tensor) -> Result<[usize; 2]> {
    match *image.shape() {
        [height, width, 3] if height > 0 && width > 0 => Ok([height, width]),
        ref shape => {
            let rule = "[H, W, 3] with pixels";
            Err(Error::input(op, "image", rule, ShapeText(shape)))
        }
    }
}

/// The rows and columns `window` of images `[H, W, C]` of `extents` resized, `[rows, columns, C]`.
///
/// `step` is the distance of two results in pixels of the image, row and column: `H` and `W` over the resized rows and
/// columns, unless one has a reason. Sums are in f64.
///
/// # Panics
/// When `values` does not have the extents.
pub(crate) fn resample(
    values: &[f32],
    extents: [usize; 3],
    [rows, columns]: [Range<usize>; 2],
    step: [f64; 2],
    filter: Filter,
) -> Vec<f32> {
    let [height, width, channels] = extents;
    assert_eq!(values.len(), height * width * channels);
    let count = rows.len();
    let blended = along(values, [1, height, width * channels], rows, step[0], filter);
    let all = along(&blended, [count, width, channels], columns, step[1], filter);
    all.into_iter().map(|value| value as f32).collect()
}

/// `[outer, n, inner]` to `[outer, window, inner]`.
fn along<T: Copy + Into<f64>>(
    values: &[T],
    [outer, n, inner]: [usize; 3],
    window: Range<usize>,
    step: f64,
    filter: Filter,
) -> Vec<f64> {
    let size = window.len();
    let mut out = vec![0.0; outer * size * inner];
    for (row, at) in window.enumerate() {
        for (pixel, weight) in filter.weights(at, n, step) {
            for block in 0..outer {
                let from = &values[(block * n + pixel) * inner..][..inner];
                let to = &mut out[(block * size + row) * inner..][..inner];
                for (to, &from) in to.iter_mut().zip(from) {
                    *to += weight * from.into();
                }
            }
        }
    }
    out
}

impl Filter {
    /// Pixels of `0..n` and their weights in result `at`.
    fn weights(self, at: usize, n: usize, step: f64) -> Vec<(usize, f64)> {
        let center = (at as f64 + 0.5) * step;
        let last = n as f64 - 1.0;
        match self {
            Filter::Bicubic => {
                let first = (center - 0.5).floor();
                let weights = (-1..3).map(|tap| {
                    let place = first + f64::from(tap);
                    let pixel = place.clamp(0.0, last) as usize;
                    (pixel, cubic(place + 0.5 - center, -0.75))
                });
                weights.collect()
            }
            Filter::BilinearAntialiased => {
                widened(center, n, step, 1.0, |x| (1.0 - x.abs()).max(0.0))
            }
            Filter::BicubicAntialiased => widened(center, n, step, 2.0, |x| cubic(x, -0.5)),
        }
    }
}

/// Weights of a filter that is 0 from `radius` on, stretched to `step` where that is more than a pixel.
fn widened(
    center: f64,
    n: usize,
    step: f64,
    radius: f64,
    filter: impl Fn(f64) -> f64,
) -> Vec<(usize, f64)> {
    let stretch = step.max(1.0);
    let reach = radius * stretch;
    // As PyTorch and Pillow round the ends.
    let first = (center - reach + 0.5).max(0.0) as usize;
    let end = ((center + reach + 0.5).max(0.0) as usize).min(n);
    let weight = |pixel: usize| filter((pixel as f64 + 0.5 - center) / stretch);
    let sum: f64 = (first..end).map(weight).sum();
    let pixels = first..end;
    pixels.map(|pixel| (pixel, weight(pixel) / sum)).collect()
}

/// Keys' cubic convolution kernel. Source: R. Keys, *Cubic convolution interpolation for digital image processing*, 1981.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 3] = [
        Filter::Bicubic,
        Filter::BilinearAntialiased,
        Filter::BicubicAntialiased,
    ];

    #[test]
    fn the_same_size_changes_nothing() {
        let values: Vec<f32> = (0..5 * 7 * 2).map(|i| (i * i % 31) as f32).collect();
        for filter in FILTERS {
            let same = resample(&values, [5, 7, 2], [0..5, 0..7], [1.0; 2], filter);
            assert_eq!(same, values);
            let part = resample(&values, [5, 7, 2], [1..4, 3..5], [1.0; 2], filter);
            let rows = [1, 2, 3].map(|row| &values[(row * 7 + 3) * 2..][..4]);
            assert_eq!(part, rows.concat());
        }
    }

    #[test]
    fn weights_sum_to_one_and_lie_inside() {
        for filter in FILTERS {
            for (n, size) in [(1, 5), (3, 2), (37, 16), (14, 31), (100, 1)] {
                let step = n as f64 / size as f64;
                for at in 0..size {
                    let weights = filter.weights(at, n, step);
                    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
                    assert!(
                        (sum - 1.0).abs() <= 1e-12,
                        "{filter:?} {n} {size} {at}: {sum}"
                    );
                    assert!(weights.iter().all(|&(pixel, _)| pixel < n));
                }
            }
        }
    }
}
