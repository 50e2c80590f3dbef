//! RetinaNet's anchors and its box coder by their definitions.

/// How far a box may grow: `ln(1000 / 16)`.
pub(super) const LARGEST_LOG_SCALE: f64 = 4.135_166_556_742_356;

/// Anchors of one level as torchvision's `AnchorGenerator` makes them for RetinaNet, `[H, W, A]`.
///
/// `level` counts from 0, `image` is the height and width of the padded batch. Sizes are whole, ratios outermost, the
/// corners of the cell's anchors rounded ties to even in f32, and the stride is `image / grid` rounded down.
pub fn anchors_torchvision(image: [usize; 2], grid: [usize; 2], level: u32) -> Vec<[f32; 4]> {
    let base = 2f64.powi(5 + level as i32);
    let mut cell = Vec::new();
    for ratio in [0.5f32, 1.0, 2.0] {
        for exponent in 0..3 {
            let size = (base * 2f64.powf(f64::from(exponent) / 3.0)).floor() as f32;
            let (width, height) = (1.0 / ratio.sqrt() * size, ratio.sqrt() * size);
            let corners = [-width, -height, width, height];
            cell.push(corners.map(|corner| (corner / 2.0).round_ties_even()));
        }
    }
    let stride = [0, 1].map(|side| image[side] / grid[side].max(1));
    spread(
        grid,
        |y, x| ((y * stride[0]) as f32, (x * stride[1]) as f32),
        &cell,
    )
}

/// Anchors of one level as detectron2 makes them for RetinaNet, `[H, W, A]`: sizes outermost, nothing rounded, strides
/// 8, 16, 32 and so on.
pub fn anchors_detectron2(grid: [usize; 2], level: u32) -> Vec<[f32; 4]> {
    let mut cell = Vec::new();
    for exponent in 0..3 {
        let size = 2f64.powi(5 + level as i32) * 2f64.powf(f64::from(exponent) / 3.0);
        for ratio in [0.5f64, 1.0, 2.0] {
            let width = (size.powi(2) / ratio).sqrt();
            let height = ratio * width;
            let corners = [-width, -height, width, height];
            cell.push(corners.map(|corner| (corner / 2.0) as f32));
        }
    }
    let stride = 8 << level;
    spread(
        grid,
        |y, x| ((y * stride) as f32, (x * stride) as f32),
        &cell,
    )
}

/// Every anchor of a cell at every cell's place.
fn spread(
    grid: [usize; 2],
    place: impl Fn(usize, usize) -> (f32, f32),
    cell: &[[f32; 4]],
) -> Vec<[f32; 4]> {
    let mut anchors = Vec::new();
    for y in 0..grid[0] {
        for x in 0..grid[1] {
            let (down, right) = place(y, x);
            let moved = |c: &[f32; 4]| [right + c[0], down + c[1], right + c[2], down + c[3]];
            anchors.extend(cell.iter().map(moved));
        }
    }
    anchors
}

/// The box that `deltas` `(dx, dy, dw, dh)` make of an anchor: its centre moved by `(dx, dy)` times its size, its size
/// scaled by `exp(dw)` and `exp(dh)`, neither by more than 1000 / 16. As torchvision's `BoxCoder` with weights 1.
pub fn decode_box(anchor: [f64; 4], deltas: [f64; 4]) -> [f64; 4] {
    let side = |low: f64, high: f64, shift: f64, log_scale: f64| {
        let extent = high - low;
        let centre = (low + high) / 2.0 + shift * extent;
        // Not f64::min, which would hide a NaN.
        let bounded = if log_scale > LARGEST_LOG_SCALE {
            LARGEST_LOG_SCALE
        } else {
            log_scale
        };
        let half = extent * bounded.exp() / 2.0;
        (centre - half, centre + half)
    };
    let (x1, x2) = side(anchor[0], anchor[2], deltas[0], deltas[2]);
    let (y1, y2) = side(anchor[1], anchor[3], deltas[1], deltas[3]);
    [x1, y1, x2, y2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deltas_leave_the_anchor() {
        let anchor = [-3.0, 2.0, 9.0, 4.5];
        assert_eq!(decode_box(anchor, [0.0; 4]), anchor);
    }

    #[test]
    fn a_box_grows_by_1000_over_16_at_most() {
        let grown = decode_box([0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 50.0, 0.0]);
        assert!((grown[2] - grown[0] - 1000.0).abs() < 1e-9, "{grown:?}");
        assert_eq!(grown[3] - grown[1], 16.0);
    }

    #[test]
    fn anchors_are_centred_on_their_cells() {
        for anchors in [
            anchors_torchvision([800, 1344], [13, 21], 3),
            anchors_detectron2([13, 21], 3),
        ] {
            let cell: Vec<_> = anchors[9 * (21 + 2)..][..9].to_vec();
            let centre = |a: &[f32; 4]| [(a[0] + a[2]) / 2.0, (a[1] + a[3]) / 2.0];
            let [_, down] = centre(&cell[3]).map(f32::round);
            assert!(down == 61.0 || down == 64.0);
            let off = |a: &[f32; 4]| {
                (centre(a)[0] - 128.0)
                    .abs()
                    .max((centre(a)[1] - down).abs())
            };
            // detectron2's sides are not whole, so that their mean rounds.
            assert!(cell.iter().all(|a| off(a) < 1e-4), "{cell:?}");
        }
    }
}
