//! Laws of the reference itself.

use super::case;
use ocelli::reference;
use proptest::prelude::*;

fn rule(iou_threshold: f32) -> reference::Nms {
    reference::Nms {
        iou_threshold,
        score_threshold: None,
        max_output: usize::MAX,
    }
}

proptest! {
    /// Kept boxes do not suppress each other; a dropped one is suppressed by a better kept one.
    #[test]
    fn the_kept_set_is_maximal(case in case()) {
        let inputs = case.inputs();
        let n = case.boxes;
        let (boxes, scores) = (&inputs.boxes[..4 * n], &inputs.scores[..n]);
        let rule = rule(case.params.iou_threshold);
        let kept = reference::nms(boxes, scores, None, rule);
        let corners = |i: usize| -> [f32; 4] { boxes[4 * i..4 * i + 4].try_into().unwrap() };
        let over = |a: usize, b: usize| reference::iou(corners(a), corners(b)) > rule.iou_threshold;
        for (place, &a) in kept.iter().enumerate() {
            prop_assert!(!kept[..place].iter().any(|&b| over(b, a)));
        }
        for i in (0..n).filter(|i| !kept.contains(i)) {
            let valid = !scores[i].is_nan() && corners(i).iter().all(|c| c.is_finite());
            let before = |k: usize| scores[k] > scores[i] || (scores[k] == scores[i] && k < i);
            prop_assert!(!valid || kept.iter().any(|&k| before(k) && over(k, i)));
        }
    }

    /// Suppressing what is kept changes nothing.
    #[test]
    fn it_is_idempotent(case in case()) {
        let inputs = case.inputs();
        let n = case.boxes;
        let rule = rule(case.params.iou_threshold);
        let kept = reference::nms(&inputs.boxes[..4 * n], &inputs.scores[..n], None, rule);
        let boxes: Vec<f32> = kept.iter().flat_map(|&i| inputs.boxes[4 * i..4 * i + 4].to_vec()).collect();
        let scores: Vec<f32> = kept.iter().map(|&i| inputs.scores[i]).collect();
        let again = reference::nms(&boxes, &scores, None, rule);
        prop_assert_eq!(again, (0..kept.len()).collect::<Vec<_>>());
    }
}
