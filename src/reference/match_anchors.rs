//! Anchor matching by its definition.

use super::iou;

/// Scalars of [`match_anchors`].
#[derive(Debug, Clone, Copy)]
pub struct MatchAnchors {
    /// An anchor is matched where its largest overlap is at least this.
    pub high_threshold: f32,
    /// An anchor is background where its largest overlap is below this.
    pub low_threshold: f32,
    /// Whether the anchors that overlap a box most are matched whatever that overlap.
    pub low_quality: bool,
}

/// What becomes of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorMatch {
    /// It is matched to the box of this index.
    Box(usize),
    /// It is background.
    Background,
    /// It is left out of the loss.
    Between,
}

/// The match of each anchor of one image, as torchvision's `Matcher` makes it from the matrix of overlaps.
///
/// An anchor's box is the one that it overlaps most, the first of several. With `low_quality`, the largest overlap of
/// each box is found, and every anchor with exactly that overlap keeps its own box, which need not be that one. So where a
/// box meets no anchor, all anchors that do not meet it, which are all, keep theirs. A box that is not finite takes no
/// part; an overlap that is not a number counts as 0.
pub fn match_anchors(
    boxes: &[[f32; 4]],
    anchors: &[[f32; 4]],
    rule: MatchAnchors,
) -> Vec<AnchorMatch> {
    let part: Vec<usize> = (0..boxes.len())
        .filter(|&i| boxes[i].iter().all(|x| x.is_finite()))
        .collect();
    let overlap = |a: &[f32; 4], i: usize| iou(boxes[i], *a).max(0.0);
    let matrix: Vec<Vec<f32>> = part
        .iter()
        .map(|&i| anchors.iter().map(|a| overlap(a, i)).collect())
        .collect();
    let peak = |row: &Vec<f32>| row.iter().copied().fold(0.0, f32::max);
    let peaks: Vec<f32> = matrix.iter().map(peak).collect();
    (0..anchors.len())
        .map(|anchor| {
            let column = || matrix.iter().map(|row| row[anchor]);
            let best = column().fold(f32::NEG_INFINITY, f32::max);
            let Some(place) = column().position(|value| value == best) else {
                return AnchorMatch::Background;
            };
            let restored =
                rule.low_quality && column().zip(&peaks).any(|(value, &peak)| value == peak);
            if best >= rule.high_threshold || restored {
                AnchorMatch::Box(part[place])
            } else if best < rule.low_threshold {
                AnchorMatch::Background
            } else {
                AnchorMatch::Between
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use AnchorMatch::{Background, Between, Box};

    const RULE: MatchAnchors = MatchAnchors {
        high_threshold: 0.5,
        low_threshold: 0.4,
        low_quality: false,
    };
    const LOW: MatchAnchors = MatchAnchors {
        low_quality: true,
        ..RULE
    };
    const ANCHORS: [[f32; 4]; 4] = [
        [0., 0., 10., 10.],
        [0., 0., 10., 4.5],
        [0., 0., 10., 2.],
        [50., 50., 60., 60.],
    ];

    #[test]
    fn overlaps_decide() {
        let matches = match_anchors(&ANCHORS[..1], &ANCHORS, RULE);
        assert_eq!(matches, [Box(0), Between, Background, Background]);
        assert_eq!(match_anchors(&[], &ANCHORS, LOW), [Background; 4]);
    }

    #[test]
    fn the_best_of_a_box_are_restored_each_to_its_own_box() {
        // Box 1 is met best by anchors 0 and 1, with 0.2 / 2: but anchor 0 is nearer to box 0.
        let boxes = [[0., 0., 10., 10.], [50., 50., 51., 60.]];
        let matches = match_anchors(&boxes, &ANCHORS, LOW);
        assert_eq!(matches, [Box(0), Between, Background, Box(1)]);
        // Both anchors meet box 0 equally, and the second meets box 1 more.
        let boxes = [[4., 0., 6., 1.], [0., 0., 10., 4.]];
        let anchors = [[4., 0., 6., 5.], [0., 0., 5., 2.]];
        let matches = match_anchors(&boxes, &anchors, LOW);
        assert_eq!(matches, [Box(0), Box(1)]);
    }

    #[test]
    fn a_box_that_meets_nothing_restores_everything() {
        let boxes = [[f32::NAN; 4], [900., 900., 910., 910.], ANCHORS[3]];
        let matches = match_anchors(&boxes, &ANCHORS, LOW);
        assert_eq!(matches, [Box(1), Box(1), Box(1), Box(2)]);
    }
}
