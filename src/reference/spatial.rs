//! Ops that move over images `[B, H, W, C]`.

/// The largest value of each window of `kernel` x `kernel`, `stride` apart; NaN where it holds one.
/// What lies in the `padding` around the image is left out.
pub fn max_pool2d(
    x: &[f64],
    [images, height, width, channels]: [usize; 4],
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Vec<f64> {
    let outputs = |extent: usize| (extent + 2 * padding - kernel) / stride + 1;
    let window = |place: usize, extent: usize| {
        let first = place * stride;
        first.saturating_sub(padding)..(first + kernel).saturating_sub(padding).min(extent)
    };
    let mut out = Vec::new();
    for image in 0..images {
        for (y, x0) in places(outputs(height), outputs(width)) {
            for channel in 0..channels {
                let mut largest = f64::NEG_INFINITY;
                for row in window(y, height) {
                    for column in window(x0, width) {
                        let value =
                            x[((image * height + row) * width + column) * channels + channel];
                        largest = if largest.is_nan() || value.is_nan() {
                            f64::NAN
                        } else {
                            largest.max(value)
                        };
                    }
                }
                out.push(largest);
            }
        }
    }
    out
}

/// `skip` `[B, H', W', C]` plus the pixel of `x` that `floor(place * H / H')` chooses in rows, and alike
/// in columns. The quotient and the product are rounded to `f32`, as PyTorch's nearest interpolation
/// does, whose choice where the exact product is a whole number this decides.
pub fn upsample_nearest_add(
    x: &[f64],
    [images, height, width, channels]: [usize; 4],
    skip: &[f64],
    [out_height, out_width]: [usize; 2],
) -> Vec<f64> {
    let source = |place: usize, from: usize, to: usize| {
        let scale = from as f32 / to as f32;
        ((place as f32 * scale).floor() as usize).min(from - 1)
    };
    let mut out = skip.to_vec();
    for image in 0..images {
        for (y, x0) in places(out_height, out_width) {
            let (row, column) = (source(y, height, out_height), source(x0, width, out_width));
            for channel in 0..channels {
                let to = ((image * out_height + y) * out_width + x0) * channels + channel;
                out[to] += x[((image * height + row) * width + column) * channels + channel];
            }
        }
    }
    out
}

/// Bilinear resizing without aligned corners: pixel `i` of `n` has its center at `(i + 1/2) / n`.
///
/// An output is the mean of the inputs by weights that fall off linearly from its center, to 0 at a
/// distance of one input pixel, or with `antialias` of one output pixel where that is more.
pub fn resize_bilinear(
    x: &[f64],
    [images, height, width, channels]: [usize; 4],
    [out_height, out_width]: [usize; 2],
    antialias: bool,
) -> Vec<f64> {
    let weights = |place: usize, from: usize, to: usize| -> Vec<f64> {
        // In input pixels times 2 * to, whole numbers: a pixel at the edge of the reach has no weight at all.
        let reach = 2 * if antialias { from.max(to) } else { to };
        let distance = |j: usize| ((2 * j + 1) * to).abs_diff((2 * place + 1) * from);
        let fall = |j: usize| reach.saturating_sub(distance(j)) as f64;
        let raw: Vec<f64> = (0..from).map(fall).collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|weight| weight / sum).collect()
    };
    let mut out = Vec::new();
    for image in 0..images {
        for (y, x0) in places(out_height, out_width) {
            let (rows, columns) = (
                weights(y, height, out_height),
                weights(x0, width, out_width),
            );
            for channel in 0..channels {
                let mut sum = 0.0;
                for (row, of_row) in rows.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                    for (column, weight) in columns
                        .iter()
                        .enumerate()
                        .filter(|(_, weight)| **weight > 0.0)
                    {
                        let at = ((image * height + row) * width + column) * channels + channel;
                        sum += of_row * weight * x[at];
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

/// Rows and columns of an image, row by row.
fn places(height: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..height).flat_map(move |y| (0..width).map(move |x| (y, x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize) -> Vec<f64> {
        (0..len).map(|i| f64::from(i as u32 * 7 % 13)).collect()
    }

    #[test]
    fn a_window_of_one_changes_nothing_and_a_whole_one_is_the_maximum() {
        let x = ramp(12);
        assert_eq!(max_pool2d(&x, [1, 3, 4, 1], 1, 1, 0), x);
        assert_eq!(max_pool2d(&x, [1, 3, 4, 1], 3, 1, 0), [11.0, 12.0]);
        let padded = max_pool2d(&[-1.0, -2.0], [1, 1, 2, 1], 3, 2, 1);
        assert_eq!(padded, [-1.0], "padding is no zero");
        assert!(max_pool2d(&[1.0, f64::NAN], [1, 1, 2, 1], 3, 2, 1)[0].is_nan());
    }

    #[test]
    fn upsampling_by_two_repeats_every_pixel() {
        let out = upsample_nearest_add(&[1.0, 2.0, 3.0, 4.0], [1, 2, 2, 1], &[10.0; 16], [4, 4]);
        assert_eq!(out[..8], [11.0, 11.0, 12.0, 12.0, 11.0, 11.0, 12.0, 12.0]);
        let uneven = upsample_nearest_add(&[1.0, 2.0], [1, 1, 2, 1], &[0.0; 3], [1, 3]);
        assert_eq!(uneven, [1.0, 1.0, 2.0]);
    }

    #[test]
    fn resizing_keeps_constants_its_own_size_and_means() {
        let x = ramp(20);
        for antialias in [false, true] {
            assert_eq!(resize_bilinear(&x, [1, 4, 5, 1], [4, 5], antialias), x);
            let constant = resize_bilinear(&[3.5; 20], [1, 4, 5, 1], [7, 3], antialias);
            assert!(constant.iter().all(|value| (value - 3.5).abs() < 1e-14));
        }
        let halved = resize_bilinear(&[0.0, 0.0, 8.0, 8.0], [1, 1, 4, 1], [1, 2], true);
        assert!(
            (halved[0] - 8.0 / 7.0).abs() < 1e-14,
            "weights 3, 3, 1 of 7"
        );
        let doubled = resize_bilinear(&[0.0, 8.0], [1, 1, 2, 1], [1, 4], false);
        assert_eq!(doubled, [0.0, 2.0, 6.0, 8.0]);
    }
}
