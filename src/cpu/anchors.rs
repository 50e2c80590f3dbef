//! torchvision's box coder with weights 1, every operation rounded on its own and in the kernels' order (see
//! `kernels/common/anchors.cuh`), so that both give the same bits.

use super::math::exp;

/// `ln(1000 / 16)`: how much a box may grow.
pub(super) const LARGEST_LOG_SCALE: f32 = 4.135_166_6;

/// The box that deltas make of an anchor. NaN stays NaN.
pub(super) fn decode_box(anchor: [f32; 4], deltas: [f32; 4]) -> [f32; 4] {
    let side = |low: f32, high: f32, shift: f32, log_scale: f32| {
        let extent = high - low;
        let centre = shift * extent + (low + 0.5 * extent);
        let bounded = if log_scale > LARGEST_LOG_SCALE {
            LARGEST_LOG_SCALE
        } else {
            log_scale
        };
        let half = 0.5 * (exp(bounded) * extent);
        (centre - half, centre + half)
    };
    let (left, right) = side(anchor[0], anchor[2], deltas[0], deltas[2]);
    let (top, bottom) = side(anchor[1], anchor[3], deltas[1], deltas[3]);
    [left, top, right, bottom]
}
