//! Targets of corner heatmaps (Law and Deng, "CornerNet", 2018, section 3.2), as the authors' code makes
//! them: `sample/coco.py` and `sample/utils.py` of princeton-vl/CornerNet at commit 3e71377.

/// Extents of a batch and how boxes are mapped to it.
#[derive(Debug, Clone, Copy)]
pub struct CornerTargets {
    /// Extents `[B, H, W, K]` of the heatmaps.
    pub shape: [usize; 4],
    /// Boxes an image.
    pub boxes: usize,
    /// Extents of the images, height and width.
    pub input: [usize; 2],
    /// Overlap that a corner within the radius keeps.
    pub gaussian_iou: f64,
}

/// Targets of one corner.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetMaps {
    /// `[B, H, W, K]`.
    pub heat: Vec<f64>,
    /// `[B, M, 2]`: how far the corner lies right of and below its cell's edge.
    pub offsets: Vec<f64>,
    /// `[B, M]`: `y * W + x`, or -1.
    pub indices: Vec<i32>,
}

/// How far both corners of a box of `height` and `width` cells may move so that its overlap with the
/// box stays at least `iou`: the least of three cases (both corners outside, both inside, one of each).
pub fn gaussian_radius(height: f64, width: f64, iou: f64) -> f64 {
    let root = |a: f64, b: f64, c: f64| (b * b - 4.0 * a * c).max(0.0).sqrt();
    let (b1, c1) = (height + width, width * height * (1.0 - iou) / (1.0 + iou));
    let one_of_each = (b1 - root(1.0, b1, c1)) / 2.0;
    let (b2, c2) = (2.0 * (height + width), (1.0 - iou) * width * height);
    let inside = (b2 - root(4.0, b2, c2)) / (2.0 * 4.0);
    let a3 = 4.0 * iou;
    let (b3, c3) = (-2.0 * iou * (height + width), (iou - 1.0) * width * height);
    let outside = (b3 + root(a3, b3, c3)) / (2.0 * a3);
    one_of_each.min(inside).min(outside)
}

/// Targets of the top-left and of the bottom-right corners of `boxes [B, M, 4]` in pixels with `classes
/// [B, M]`.
///
/// A box is left out where its class is not in `0..K`, a coordinate is not finite, its width or height
/// is negative, or one of its corners lies outside the heatmap.
pub fn corner_targets(boxes: &[f32], classes: &[i32], rule: &CornerTargets) -> [TargetMaps; 2] {
    let [batch, height, width, kinds] = rule.shape;
    let empty = || TargetMaps {
        heat: vec![0.0; batch * height * width * kinds],
        offsets: vec![0.0; 2 * classes.len()],
        indices: vec![-1; classes.len()],
    };
    let mut maps = [empty(), empty()];
    let ratio_y = height as f64 / rule.input[0] as f64;
    let ratio_x = width as f64 / rule.input[1] as f64;
    for (number, (corners, &class)) in boxes.chunks(4).zip(classes).enumerate() {
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|side| f64::from(corners[side]));
        let points = [(x1 * ratio_x, y1 * ratio_y), (x2 * ratio_x, y2 * ratio_y)];
        let inside = |&(x, y): &(f64, f64)| {
            (0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y)
        };
        let upright = x1 <= x2 && y1 <= y2;
        if class < 0 || class as usize >= kinds || !upright || !points.iter().all(inside) {
            continue;
        }
        let tall = ((y2 - y1) * ratio_y).ceil();
        let wide = ((x2 - x1) * ratio_x).ceil();
        let radius = gaussian_radius(tall, wide, rule.gaussian_iou).max(0.0) as i64;
        let image = number / rule.boxes;
        for (map, (x, y)) in maps.iter_mut().zip(points) {
            let cell = (x as usize, y as usize);
            map.offsets[2 * number] = x - cell.0 as f64;
            map.offsets[2 * number + 1] = y - cell.1 as f64;
            map.indices[number] = (cell.1 * width + cell.0) as i32;
            let image = &mut map.heat[image * height * width * kinds..][..height * width * kinds];
            bump(image, [height, width, kinds], cell, class as usize, radius);
        }
    }
    maps
}

/// Raises a class's heatmap to a Gaussian of sigma `(2 radius + 1) / 6`, cut off at `radius` cells.
fn bump(
    image: &mut [f64],
    [height, width, kinds]: [usize; 3],
    (x, y): (usize, usize),
    class: usize,
    radius: i64,
) {
    let sigma = (2 * radius + 1) as f64 / 6.0;
    for dy in -radius..=radius {
        for dx in -radius..=radius {
            let (row, column) = (y as i64 + dy, x as i64 + dx);
            if row < 0 || row >= height as i64 || column < 0 || column >= width as i64 {
                continue;
            }
            let value = (-((dx * dx + dy * dy) as f64) / (2.0 * sigma * sigma)).exp();
            let at = (row as usize * width + column as usize) * kinds + class;
            image[at] = image[at].max(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
        let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
        let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
        let both = side(0) * side(1);
        both / (area(a) + area(b) - both)
    }

    #[test]
    fn corners_moved_by_the_radius_keep_the_overlap_and_some_move_reaches_it() {
        for (height, width) in [(10.0, 10.0), (5.0, 40.0), (33.0, 7.0)] {
            for iou in [0.3, 0.5, 0.7] {
                let r = gaussian_radius(height, width, iou);
                let mut least = f64::INFINITY;
                for signs in 0..4 {
                    let first = if signs & 1 == 0 { r } else { -r };
                    let last = if signs & 2 == 0 { r } else { -r };
                    let moved = [first, first, width + last, height + last];
                    least = least.min(overlap([0.0, 0.0, width, height], moved));
                }
                assert!(
                    (least - iou).abs() < 1e-9,
                    "{height} {width} {iou}: {least}"
                );
            }
        }
    }

    fn one(boxes: &[f32], classes: &[i32]) -> [TargetMaps; 2] {
        let rule = CornerTargets {
            shape: [1, 16, 16, 2],
            boxes: classes.len(),
            input: [64, 64],
            gaussian_iou: 0.3,
        };
        corner_targets(boxes, classes, &rule)
    }

    #[test]
    fn a_corner_is_one_and_its_bump_falls() {
        let [first, last] = one(&[9.0, 21.0, 50.0, 60.0], &[1]);
        assert_eq!(
            (first.indices[0], last.indices[0]),
            (5 * 16 + 2, 15 * 16 + 12)
        );
        assert_eq!(first.offsets, [0.25, 0.25]);
        let at = |x: usize, y: usize| first.heat[(y * 16 + x) * 2 + 1];
        assert_eq!(at(2, 5), 1.0);
        assert!(at(3, 5) < 1.0 && at(3, 5) > at(4, 5) && at(3, 6) < at(3, 5));
        assert!(
            first.heat.iter().step_by(2).all(|&x| x == 0.0),
            "the other class"
        );
    }

    #[test]
    fn order_does_not_matter_and_overlapping_bumps_take_the_maximum() {
        let (a, b) = ([8.0, 8.0, 60.0, 60.0], [12.0, 8.0, 40.0, 60.0]);
        let both = [a, b].concat();
        let swapped = [b, a].concat();
        let [first, _] = one(&both, &[0, 0]);
        assert_eq!(first.heat, one(&swapped, &[0, 0])[0].heat);
        let alone = [&one(&a, &[0])[0].heat, &one(&b, &[0])[0].heat].map(Vec::clone);
        for (at, value) in first.heat.iter().enumerate() {
            assert_eq!(*value, alone[0][at].max(alone[1][at]));
        }
    }

    #[test]
    fn boxes_that_do_not_fit_are_left_out() {
        let fine = [8.0f32, 8.0, 60.0, 60.0];
        for (side, value) in [
            (0, f32::NAN),
            (0, -1.0),
            (2, 64.0),
            (3, 4.0),
            (1, f32::INFINITY),
        ] {
            let mut bad = fine;
            bad[side] = value;
            let [first, last] = one(&bad, &[0]);
            assert_eq!((first.indices[0], last.indices[0]), (-1, -1), "{bad:?}");
            assert!(first.heat.iter().chain(&last.heat).all(|&x| x == 0.0));
        }
        for class in [-1, 2, i32::MAX, i32::MIN] {
            assert_eq!(one(&fine, &[class])[0].indices[0], -1);
        }
    }
}
