//! Boxes from pairs of corners by their definition.

/// What a network says of one kind of corner in one image.
#[derive(Debug, Clone, Copy)]
pub struct CornerMaps<'a> {
    /// `[H, W, K]` logits.
    pub heat: &'a [f32],
    /// `[H, W]`: corners of one object have embeddings close to each other.
    pub embedding: &'a [f32],
    /// `[H, W, 2]`: `(x, y)`, added to the corner's cell.
    pub offset: &'a [f32],
}

/// Scalars of [`corner_decode`].
#[derive(Debug, Clone, Copy)]
pub struct CornerDecode {
    /// Corners of each kind.
    pub topk: usize,
    /// Side of the window of which a peak is the maximum, odd.
    pub kernel: usize,
    /// Embeddings of a pair must not be farther apart.
    pub ae_threshold: f32,
    /// At most so many boxes.
    pub num_dets: usize,
}

/// A box made of two corners, in cells of the maps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CornerBox {
    /// `(x1, y1, x2, y2)`.
    pub corners: [f32; 4],
    /// Mean of the corners' scores.
    pub score: f32,
    /// The class of both corners.
    pub class: i32,
}

struct Corner {
    score: f32,
    class: usize,
    x: f32,
    y: f32,
    embedding: f32,
}

/// Boxes of one image, best first (Law and Deng, *CornerNet*, 2018, section 3.4; `kp_utils.py` of the
/// official repository).
///
/// A corner's score is the sigmoid of its logit where that is a peak, the maximum of the window around it
/// in its class, else 0 (also for NaN, which hides no peak). The best `topk` of each kind are taken, peaks
/// by descending logit, then the others, ties by (class, y, x). Each top-left corner is paired with each
/// bottom-right one; a pair is a box where the classes are equal, the embeddings at most `ae_threshold`
/// apart, the second corner not left of or above the first, offsets included, and all four coordinates
/// finite. Boxes come by descending score, ties by the rank of the top-left, then of the bottom-right
/// corner.
pub fn corner_decode(
    [height, width, classes]: [usize; 3],
    top_left: CornerMaps<'_>,
    bottom_right: CornerMaps<'_>,
    rule: CornerDecode,
) -> Vec<CornerBox> {
    let shape = [height, width, classes];
    let top_left = best_corners(shape, top_left, rule);
    let bottom_right = best_corners(shape, bottom_right, rule);
    let mut boxes = Vec::new();
    for a in &top_left {
        for b in &bottom_right {
            let near = (a.embedding - b.embedding).abs() <= rule.ae_threshold;
            let corners = [a.x, a.y, b.x, b.y];
            let finite = corners.iter().all(|c| c.is_finite());
            if a.class == b.class && near && finite && b.x >= a.x && b.y >= a.y {
                boxes.push(CornerBox {
                    corners,
                    score: (a.score + b.score) / 2.0,
                    class: a.class as i32,
                });
            }
        }
    }
    // Stable: pairs of one score stay in the order of their corners.
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    boxes.truncate(rule.num_dets);
    boxes
}

fn best_corners(
    [height, width, classes]: [usize; 3],
    maps: CornerMaps<'_>,
    rule: CornerDecode,
) -> Vec<Corner> {
    let logit = |class: usize, y: usize, x: usize| maps.heat[(y * width + x) * classes + class];
    let radius = rule.kernel / 2;
    let is_peak = |class: usize, y: usize, x: usize| {
        let rows = y.saturating_sub(radius)..(y + radius + 1).min(height);
        let higher = |v: usize, u: usize| logit(class, v, u) > logit(class, y, x);
        let mut window = rows.flat_map(|v| {
            (x.saturating_sub(radius)..(x + radius + 1).min(width)).map(move |u| (v, u))
        });
        !logit(class, y, x).is_nan() && !window.any(|(v, u)| higher(v, u))
    };
    // In the order of ties.
    let places = (0..classes)
        .flat_map(|class| (0..height).flat_map(move |y| (0..width).map(move |x| (class, y, x))));
    let (mut peaks, others): (Vec<_>, Vec<_>) = places.partition(|&(c, y, x)| is_peak(c, y, x));
    // Stable; adding 0 makes -0 equal to 0.
    let key = |&(c, y, x): &(usize, usize, usize)| logit(c, y, x) + 0.0;
    peaks.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let scored = peaks.iter().map(|&at| (at, sigmoid(key(&at))));
    let all = scored.chain(others.iter().map(|&at| (at, 0.0)));
    let corner = |((class, y, x), score): ((usize, usize, usize), f32)| {
        let cell = y * width + x;
        Corner {
            score,
            class,
            x: x as f32 + maps.offset[2 * cell],
            y: y as f32 + maps.offset[2 * cell + 1],
            embedding: maps.embedding[cell],
        }
    };
    all.take(rule.topk).map(corner).collect()
}

/// Rounded to f32 once.
fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}
