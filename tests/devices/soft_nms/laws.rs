//! Laws of the reference itself.

use super::{case, nms, params, rule};
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::reference;
use proptest::prelude::*;

fn first_image(case: &nms::Case) -> (Vec<f32>, Vec<f32>) {
    let mut inputs = case.inputs();
    inputs.boxes.truncate(4 * case.boxes);
    inputs.scores.truncate(case.boxes);
    (inputs.boxes, inputs.scores)
}

proptest! {
    /// Scores come in descending order, above the threshold and at most as high as they were given; no box comes twice.
    #[test]
    fn scores_only_fall(case in case()) {
        let (boxes, scores) = first_image(&case.boxes);
        let kept = reference::soft_nms(&boxes, &scores, None, rule(&case.params, usize::MAX));
        for pair in kept.windows(2) {
            prop_assert!(pair[0].1 >= pair[1].1);
        }
        for &(index, score) in &kept {
            prop_assert!(score > case.params.score_threshold && score <= scores[index]);
        }
        let mut indices: Vec<usize> = kept.iter().map(|&(index, _)| index).collect();
        indices.sort_unstable();
        indices.dedup();
        prop_assert_eq!(indices.len(), kept.len());
    }

    /// A bell so narrow that any overlap at all takes a whole score away is hard suppression at IoU 0.
    #[test]
    fn a_narrow_bell_is_hard_suppression(case in nms::case()) {
        // An IoU below 1e-18, which boxes 1e20 long have, is squared to what the bell still lets through.
        prop_assume!(case.layout != nms::Layout::Odd);
        let (boxes, scores) = first_image(&case);
        let params = SoftNms {
            method: SoftNmsMethod::Gaussian,
            sigma: f32::MIN_POSITIVE,
            score_threshold: 1e-30,
            ..SoftNms::default()
        };
        let soft = reference::soft_nms(&boxes, &scores, None, rule(&params, usize::MAX));
        let hard = reference::Nms {
            iou_threshold: 0.0,
            score_threshold: Some(1e-30),
            max_output: usize::MAX,
        };
        let hard = reference::nms(&boxes, &scores, None, hard);
        prop_assert_eq!(soft.into_iter().map(|(index, _)| index).collect::<Vec<_>>(), hard);
    }

    /// Classes do not see each other: their results, merged by score, are the result of all.
    #[test]
    fn classes_are_independent(case in nms::case(), params in params()) {
        let (boxes, scores) = first_image(&case);
        let classes: Vec<i32> = (0..case.boxes as i32).map(|i| i % 3).collect();
        let rule = rule(&params, usize::MAX);
        let all = reference::soft_nms(&boxes, &scores, Some(&classes), rule);
        let mut merged = Vec::new();
        for class in 0..3 {
            let of_class: Vec<f32> = scores
                .iter()
                .zip(&classes)
                .map(|(&score, &c)| if c == class { score } else { f32::NAN })
                .collect();
            merged.extend(reference::soft_nms(&boxes, &of_class, None, rule));
        }
        merged.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        prop_assert_eq!(merged, all);
    }
}
