//! Greedy non-maximum suppression by its definition.

/// Scalars of [`nms`].
#[derive(Debug, Clone, Copy)]
pub struct Nms {
    /// A box is dropped where a kept box of its class overlaps it by more than this.
    pub iou_threshold: f32,
    /// Scores must be above this, where given.
    pub score_threshold: Option<f32>,
    /// At most so many boxes are kept.
    pub max_output: usize,
}

/// Indices of the boxes of one image that greedy suppression keeps, best first.
///
/// `boxes` are `[N, 4]` as `(x1, y1, x2, y2)`, `scores` `[N]`, `classes` `[N]` or none for one class.
/// Boxes are visited by descending score, ties by ascending index; each is kept unless a box kept
/// before it, of the same class, has an [`iou`] above the threshold. A NaN score, a score that is not
/// above the score threshold and a box that is not finite never take part.
pub fn nms(boxes: &[f32], scores: &[f32], classes: Option<&[i32]>, rule: Nms) -> Vec<usize> {
    let corners = |i: usize| {
        [
            boxes[4 * i],
            boxes[4 * i + 1],
            boxes[4 * i + 2],
            boxes[4 * i + 3],
        ]
    };
    let class = |i: usize| classes.map_or(0, |c| c[i]);
    let mut order: Vec<usize> = (0..scores.len())
        .filter(|&i| !scores[i].is_nan() && corners(i).iter().all(|c| c.is_finite()))
        .filter(|&i| {
            rule.score_threshold
                .is_none_or(|threshold| scores[i] > threshold)
        })
        .collect();
    // Adding 0 makes -0 equal to 0 in the total order of floats too; NaN is gone.
    order.sort_by(|&a, &b| {
        (scores[b] + 0.0)
            .total_cmp(&(scores[a] + 0.0))
            .then(a.cmp(&b))
    });
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        if kept.len() == rule.max_output {
            break;
        }
        let suppresses =
            |&k: &usize| class(k) == class(i) && iou(corners(k), corners(i)) > rule.iou_threshold;
        if !kept.iter().any(suppresses) {
            kept.push(i);
        }
    }
    kept
}

/// Intersection over union of two boxes in f32, in torchvision's order of operations; NaN for two
/// boxes without area.
///
/// The order is part of the definition: another one rounds differently, and a box at the threshold
/// would be kept on one device and dropped on another.
pub fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let intersection = width * height;
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    intersection / (area(a) + area(b) - intersection)
}
