//! Box losses of a dense detector by their definitions.

use super::anchors::LARGEST_LOG_SCALE;
use super::decode_box;

/// What a box loss measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BoxLoss {
    /// Smooth L1 between the deltas and those that encode the box; L1 with `beta` 0.
    SmoothL1 {
        /// Where the parabola ends.
        beta: f64,
    },
    /// 1 minus the generalised IoU of the decoded box and the box.
    Giou,
}

/// The deltas `(dx, dy, dw, dh)` that make `target` of `anchor`: how far its centre is moved, in units of the anchor's
/// size, and the logarithms of how much larger its sides are. The inverse of [`decode_box`].
pub fn encode_box(anchor: [f64; 4], target: [f64; 4]) -> [f64; 4] {
    let size = |b: [f64; 4], side: usize| b[side + 2] - b[side];
    let centre = |b: [f64; 4], side: usize| (b[side + 2] + b[side]) / 2.0;
    let shift = |side| (centre(target, side) - centre(anchor, side)) / size(anchor, side);
    let scale = |side| size(target, side).ln() - size(anchor, side).ln();
    [shift(0), shift(1), scale(0), scale(1)]
}

/// Loss of one matched anchor and its gradient with respect to the deltas.
pub fn box_loss(
    anchor: [f64; 4],
    deltas: [f64; 4],
    target: [f64; 4],
    loss: BoxLoss,
) -> (f64, [f64; 4]) {
    match loss {
        BoxLoss::SmoothL1 { beta } => {
            let wanted = encode_box(anchor, target);
            let terms = [0, 1, 2, 3].map(|i| smooth_l1(deltas[i] - wanted[i], beta));
            (
                terms.iter().map(|term| term.0).sum(),
                terms.map(|term| term.1),
            )
        }
        BoxLoss::Giou => {
            let decoded = decode_box(anchor, deltas);
            let (value, slope) = giou_loss(decoded, target);
            let along = |side: usize| {
                let size = anchor[side + 2] - anchor[side];
                // Where decode_box no longer lets a side grow, its delta changes nothing.
                let grows = deltas[side + 2] <= LARGEST_LOG_SCALE;
                let half = if grows {
                    (decoded[side + 2] - decoded[side]) / 2.0
                } else {
                    0.0
                };
                [
                    (slope[side] + slope[side + 2]) * size,
                    (slope[side + 2] - slope[side]) * half,
                ]
            };
            let ([dx, dw], [dy, dh]) = (along(0), along(1));
            (value, [dx, dy, dw, dh])
        }
    }
}

/// Smooth L1 of a difference, and its slope.
fn smooth_l1(difference: f64, beta: f64) -> (f64, f64) {
    let distance = difference.abs();
    if distance < beta {
        (distance * distance / (2.0 * beta), difference / beta)
    } else if difference == 0.0 {
        (0.0, 0.0)
    } else {
        (distance - beta / 2.0, difference.signum())
    }
}

/// `1 - GIoU` of two boxes and its gradient with respect to the corners of the first:
/// `GIoU = I / U - (C - U) / C`, with the areas of intersection, union and hull, 1e-7 added to both denominators
/// (Rezatofighi et al., *Generalized Intersection over Union*, 2019, equation 3; torchvision's
/// `generalized_box_iou_loss`). Where sides coincide, the slope is the mean of those on both sides of it.
pub fn giou_loss(a: [f64; 4], b: [f64; 4]) -> (f64, [f64; 4]) {
    const EPSILON: f64 = 1e-7;
    let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let [width, height] = [0, 1].map(|i| a[i + 2].min(b[i + 2]) - a[i].max(b[i]));
    let hull = [0, 1].map(|i| a[i + 2].max(b[i + 2]) - a[i].min(b[i]));
    let meets = width > 0.0 && height > 0.0;
    let i = if meets { width * height } else { 0.0 };
    let u = area(a) + area(b) - i;
    let c = hull[0] * hull[1];
    let loss = 1.0 - i / (u + EPSILON) + (c - u) / (c + EPSILON);
    // Slopes of the three areas along each corner, by the product rule.
    let weight = |inside: f64, outside: f64| {
        if inside > outside {
            1.0
        } else if inside == outside {
            0.5
        } else {
            0.0
        }
    };
    let slope = |corner: usize| {
        let other = 1 - corner % 2;
        let sign = if corner < 2 { -1.0 } else { 1.0 };
        let across = [width, height][other];
        // How far this corner is inside b, where it bounds the intersection, or outside, where it bounds the hull.
        let inwards = sign * (b[corner] - a[corner]);
        let di = if meets {
            sign * weight(inwards, 0.0) * across
        } else {
            0.0
        };
        let da = sign * (a[other + 2] - a[other]);
        let dc = sign * weight(0.0, inwards) * hull[other];
        let du = da - di;
        let iou = (di * (u + EPSILON) - i * du) / (u + EPSILON).powi(2);
        let gap = ((dc - du) * (c + EPSILON) - (c - u) * dc) / (c + EPSILON).powi(2);
        gap - iou
    };
    (loss, [slope(0), slope(1), slope(2), slope(3)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHOR: [f64; 4] = [10.0, 20.0, 42.0, 36.0];
    const TARGETS: [[f64; 4]; 4] = [
        [12.0, 18.0, 40.0, 40.0],
        [0.0, 0.0, 90.0, 70.0],
        [25.0, 25.0, 30.0, 28.0],
        [60.0, 50.0, 70.0, 90.0],
    ];
    const DELTAS: [[f64; 4]; 3] = [
        [0.1, -0.2, 0.3, 0.05],
        [-0.7, 0.4, -1.0, 0.9],
        [0.0, 0.01, 4.2, -5.0],
    ];

    #[test]
    fn encoding_is_undone_by_decoding() {
        for target in TARGETS {
            let back = decode_box(ANCHOR, encode_box(ANCHOR, target));
            assert!(
                back.iter().zip(target).all(|(a, b)| (a - b).abs() < 1e-12),
                "{back:?}"
            );
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let losses = [
            BoxLoss::SmoothL1 { beta: 0.0 },
            BoxLoss::SmoothL1 { beta: 0.5 },
            BoxLoss::Giou,
        ];
        for loss in losses {
            for (target, deltas) in TARGETS.into_iter().flat_map(|t| DELTAS.map(|d| (t, d))) {
                let (_, gradient) = box_loss(ANCHOR, deltas, target, loss);
                for i in 0..4 {
                    let at = |step: f64| {
                        let mut moved = deltas;
                        moved[i] += step;
                        box_loss(ANCHOR, moved, target, loss).0
                    };
                    let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                    assert!(
                        (gradient[i] - slope).abs() < 1e-6,
                        "{loss:?} {target:?} {deltas:?} {i}"
                    );
                }
            }
        }
    }

    #[test]
    fn giou_has_its_bounds() {
        let (equal, _) = giou_loss(ANCHOR, ANCHOR);
        assert!(equal.abs() < 1e-9);
        let (far, _) = giou_loss([0., 0., 1., 1.], [1e6, 1e6, 1e6 + 1., 1e6 + 1.]);
        assert!((far - 2.0).abs() < 1e-9);
        // A quarter of the union, in a hull that is the union and 2 of 9 more.
        let (quarter, _) = giou_loss([0., 0., 2., 2.], [1., 1., 3., 3.]);
        assert!((quarter - (1.0 - 1.0 / 7.0 + 2.0 / 9.0)).abs() < 1e-7);
    }

    #[test]
    fn beta_0_is_l1_and_a_large_beta_the_square() {
        assert_eq!(smooth_l1(-0.25, 0.0), (0.25, -1.0));
        assert_eq!(smooth_l1(0.0, 0.0), (0.0, 0.0));
        assert_eq!(smooth_l1(-0.25, 1.0), (0.03125, -0.25));
        assert_eq!(smooth_l1(2.0, 1.0), (1.5, 1.0));
    }
}
