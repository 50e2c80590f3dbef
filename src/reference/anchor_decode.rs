//! Anchor decoding by its definition.

use super::decode_box;

/// Scalars of [`anchor_decode`].
#[derive(Debug, Clone, Copy)]
pub struct AnchorDecode {
    /// Scores must be above this.
    pub score_threshold: f32,
    /// Candidates of each level.
    pub topk: usize,
    /// Height and width that boxes are clipped to.
    pub image: [f64; 2],
}

/// One level of one image.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLevel<'a> {
    /// `[R, K]`.
    pub logits: &'a [f32],
    /// `[R, 4]` as `(dx, dy, dw, dh)`.
    pub deltas: &'a [f32],
    /// `[R]` as `(x1, y1, x2, y2)`.
    pub anchors: &'a [[f32; 4]],
}

/// One candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// `(x1, y1, x2, y2)`.
    pub corners: [f64; 4],
    /// The sigmoid of its logit.
    pub score: f64,
    /// Its class.
    pub class: usize,
    /// Its anchor, counted through all levels.
    pub anchor: usize,
}

/// Candidates of one image, level by level: of each the `topk` best whose score is above the threshold, by descending
/// score, ties by ascending index in `[R, K]`, decoded and clipped to the image.
///
/// The sigmoid grows strictly, so logits are compared, with `ln(t / (1 - t))` rounded to f32 for a threshold `t`. A NaN is
/// above nothing.
pub fn anchor_decode(
    levels: &[DecodeLevel<'_>],
    classes: usize,
    rule: AnchorDecode,
) -> Vec<Candidate> {
    let t = f64::from(rule.score_threshold);
    let threshold = (t / (1.0 - t)).ln() as f32;
    let mut found = Vec::new();
    let mut first = 0;
    for level in levels {
        let above = |&i: &usize| level.logits[i] > threshold;
        let mut order: Vec<usize> = (0..level.logits.len()).filter(above).collect();
        // A stable sort; -0 and 0 are a tie.
        order.sort_by(|&a, &b| {
            level.logits[b]
                .partial_cmp(&level.logits[a])
                .expect("no NaN")
        });
        order.truncate(rule.topk);
        for index in order {
            let anchor = index / classes;
            let deltas = [0, 1, 2, 3].map(|i| f64::from(level.deltas[4 * anchor + i]));
            let [x1, y1, x2, y2] = decode_box(level.anchors[anchor].map(f64::from), deltas);
            let [height, width] = rule.image;
            found.push(Candidate {
                corners: [
                    clip(x1, width),
                    clip(y1, height),
                    clip(x2, width),
                    clip(y2, height),
                ],
                score: 1.0 / (1.0 + (-f64::from(level.logits[index])).exp()),
                class: index % classes,
                anchor: first + anchor,
            });
        }
        first += level.anchors.len();
    }
    found
}

/// `x` moved into [0, side]; NaN stays.
fn clip(x: f64, side: f64) -> f64 {
    if x < 0.0 {
        0.0
    } else if x > side {
        side
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: AnchorDecode = AnchorDecode {
        score_threshold: 0.05,
        topk: 2,
        image: [10.0, 20.0],
    };

    fn decode(logits: &[f32], deltas: &[f32], rule: AnchorDecode) -> Vec<Candidate> {
        let anchors = vec![[-4.0, 2.0, 8.0, 4.0]; deltas.len() / 4];
        let level = DecodeLevel {
            logits,
            deltas,
            anchors: &anchors,
        };
        anchor_decode(&[level], logits.len() / anchors.len(), rule)
    }

    #[test]
    fn ties_go_to_the_first_and_the_box_is_clipped() {
        let found = decode(&[0.0, 1.0, -9.0, 1.0, f32::NAN, 1.0], &[0.0; 8], RULE);
        let place = |c: &Candidate| (c.anchor, c.class);
        assert_eq!(
            found.iter().map(place).collect::<Vec<_>>(),
            [(0, 1), (1, 0)]
        );
        assert_eq!(found[0].corners, [0.0, 2.0, 8.0, 4.0]);
        assert!((found[0].score - 0.731_058_578_630_004_9).abs() < 1e-15);
    }

    #[test]
    fn the_threshold_is_strict() {
        let half = AnchorDecode {
            score_threshold: 0.5,
            ..RULE
        };
        assert_eq!(decode(&[0.0, -0.0], &[0.0; 4], half), []);
        assert_eq!(decode(&[1e-30, -1e-30], &[0.0; 4], half).len(), 1);
        let all = AnchorDecode {
            score_threshold: 0.0,
            ..RULE
        };
        assert_eq!(decode(&[f32::NEG_INFINITY, -1e30], &[0.0; 4], all).len(), 1);
    }

    #[test]
    fn more_candidates_begin_with_the_fewer() {
        let logits = [0.3, 2.0, -1.0, 0.5, 7.0, 0.4, 0.2, 1.0];
        let all = decode(&logits, &[0.1; 16], AnchorDecode { topk: 8, ..RULE });
        for topk in 0..8 {
            let rule = AnchorDecode { topk, ..RULE };
            assert_eq!(decode(&logits, &[0.1; 16], rule), all[..topk]);
        }
    }
}
