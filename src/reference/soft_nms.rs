//! Soft non-maximum suppression by its definition.

/// Scalars of [`soft_nms`].
#[derive(Debug, Clone, Copy)]
pub struct SoftNms {
    /// How an overlap lowers a score.
    pub decay: SoftNmsDecay,
    /// Boxes take part while their score is above this.
    pub score_threshold: f32,
    /// Widths and heights are `high - low + 1`.
    pub inclusive: bool,
    /// At most so many boxes are kept.
    pub max_output: usize,
}

/// How an overlap lowers a score.
#[derive(Debug, Clone, Copy)]
pub enum SoftNmsDecay {
    /// By `1 - IoU`, where that is above `iou_threshold`.
    Linear {
        /// What the IoU must be above.
        iou_threshold: f32,
    },
    /// By `exp(-IoU^2 / sigma)`.
    Gaussian {
        /// Width of the bell.
        sigma: f32,
    },
}

/// Indices of the boxes of one image that soft suppression keeps, with the scores that it leaves
/// them, best first (Bodla et al., *Soft-NMS: Improving Object Detection With One Line of Code*,
/// 2017, figure 2).
///
/// Again and again the best box is kept, ties going to the lower index, and the scores of the others
/// of its class are multiplied by a weight that falls with their overlap. Scores are rounded to f32
/// after each step. A NaN score, a box that is not finite and a score that is or becomes not above
/// the threshold are out for good.
pub fn soft_nms(
    boxes: &[f32],
    scores: &[f32],
    classes: Option<&[i32]>,
    rule: SoftNms,
) -> Vec<(usize, f32)> {
    let corners = |i: usize| -> [f32; 4] { std::array::from_fn(|side| boxes[4 * i + side]) };
    let class = |i: usize| classes.map_or(0, |c| c[i]);
    let mut score = scores.to_vec();
    let mut open: Vec<usize> = (0..scores.len())
        .filter(|&i| corners(i).iter().all(|c| c.is_finite()))
        .collect();
    let mut kept = Vec::new();
    loop {
        open.retain(|&i| score[i] > rule.score_threshold);
        let better = |a: usize, b: usize| if score[b] > score[a] { b } else { a };
        let best = match open.iter().copied().reduce(better) {
            Some(best) if kept.len() < rule.max_output => best,
            _ => return kept,
        };
        kept.push((best, score[best]));
        open.retain(|&i| i != best);
        for &i in open.iter().filter(|&&i| class(i) == class(best)) {
            let overlap = iou(corners(best), corners(i), rule.inclusive);
            // Also false for the NaN of boxes too large to have an area.
            if overlap > 0.0 {
                score[i] *= weight(overlap, rule.decay);
            }
        }
    }
}

fn weight(overlap: f32, decay: SoftNmsDecay) -> f32 {
    match decay {
        SoftNmsDecay::Linear { iou_threshold } if overlap > iou_threshold => 1.0 - overlap,
        SoftNmsDecay::Linear { .. } => 1.0,
        SoftNmsDecay::Gaussian { sigma } => {
            (-f64::from(overlap).powi(2) / f64::from(sigma)).exp() as f32
        }
    }
}

/// Intersection over union in f32, in the order in which [`iou`](super::iou) rounds.
fn iou(a: [f32; 4], b: [f32; 4], inclusive: bool) -> f32 {
    let extent = |low: f32, high: f32| high - low + if inclusive { 1.0 } else { 0.0 };
    let width = extent(a[0].max(b[0]), a[2].min(b[2])).max(0.0);
    let height = extent(a[1].max(b[1]), a[3].min(b[3])).max(0.0);
    let intersection = width * height;
    let area = |c: [f32; 4]| extent(c[0], c[2]) * extent(c[1], c[3]);
    intersection / (area(a) + area(b) - intersection)
}
