//! Soft non-maximum suppression: every device against the reference, index for index, and against each other bit for
//! bit.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;
mod laws;

use crate::device::{Target, targets};
use crate::nms;
use ocelli::ops::soft_nms;
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::strategy::cases;
use ocelli::{DType, Tensor, reference};
use proptest::prelude::*;

/// Boxes, scores, classes and counts as for [`nms`], and the scalars.
#[derive(Debug, Clone)]
struct Case {
    boxes: nms::Case,
    params: SoftNms,
}

impl Case {
    fn max_output(&self) -> usize {
        self.params.max_output.unwrap_or(self.boxes.boxes)
    }
}

fn params() -> impl Strategy<Value = SoftNms> {
    let method = prop_oneof![Just(SoftNmsMethod::Linear), Just(SoftNmsMethod::Gaussian)];
    let sigma = prop_oneof![3 => Just(0.5f32), 1 => Just(0.02), 1 => Just(10.0)];
    let threshold = prop_oneof![Just(0.0f32), Just(0.3), Just(0.5), Just(1.0 / 3.0)];
    let score = prop_oneof![3 => Just(0.001f32), 1 => Just(0.0), 1 => Just(0.25)];
    (method, sigma, threshold, score, any::<bool>()).prop_map(
        |(method, sigma, iou_threshold, score_threshold, inclusive)| SoftNms {
            method,
            sigma,
            iou_threshold,
            score_threshold,
            inclusive,
            max_output: None,
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    (nms::case(), params()).prop_map(|(boxes, mut params)| {
        params.max_output = boxes.params.max_output;
        Case { boxes, params }
    })
}

/// Rows of indices and of scores, and the counts.
#[derive(Debug, Clone, PartialEq)]
struct Output {
    indices: Vec<i32>,
    scores: Vec<f32>,
    counts: Vec<i32>,
}

fn run(target: &Target, case: &Case, inputs: &nms::Inputs) -> Output {
    let device = target.device();
    let (images, n) = (case.boxes.images, case.boxes.boxes);
    let floats = |values: &[f32], shape: &[usize]| {
        Tensor::from_vec(values.to_vec(), shape, &device).unwrap()
    };
    let integers = |values: &Vec<i32>, shape: &[usize]| {
        Tensor::from_vec(values.clone(), shape, &device).unwrap()
    };
    let boxes = floats(&inputs.boxes, &[images, n, 4]);
    let scores = floats(&inputs.scores, &[images, n]);
    let classes = inputs.classes.as_ref().map(|c| integers(c, &[images, n]));
    let counts = inputs.counts.as_ref().map(|c| integers(c, &[images]));
    let (classes, counts) = (classes.as_ref(), counts.as_ref());
    let kept = soft_nms(&boxes, &scores, classes, counts, &case.params).unwrap();
    let output = Output {
        indices: kept.indices.to_vec().unwrap(),
        scores: kept.scores.to_vec().unwrap(),
        counts: kept.count.to_vec().unwrap(),
    };
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    output
}

fn rule(params: &SoftNms, max_output: usize) -> reference::SoftNms {
    reference::SoftNms {
        decay: match params.method {
            SoftNmsMethod::Linear => reference::SoftNmsDecay::Linear {
                iou_threshold: params.iou_threshold,
            },
            SoftNmsMethod::Gaussian => reference::SoftNmsDecay::Gaussian {
                sigma: params.sigma,
            },
        },
        score_threshold: params.score_threshold,
        inclusive: params.inclusive,
        max_output,
    }
}

fn expected(case: &Case, inputs: &nms::Inputs) -> Output {
    let max_output = case.max_output();
    let (mut indices, mut scores, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for image in 0..case.boxes.images {
        let range = case.boxes.live(inputs, image);
        let classes = inputs.classes.as_ref().map(|c| &c[range.clone()]);
        let kept = reference::soft_nms(
            &inputs.boxes[4 * range.start..4 * range.end],
            &inputs.scores[range],
            classes,
            rule(&case.params, max_output),
        );
        counts.push(kept.len() as i32);
        let padding = std::iter::repeat_n((-1, 0.0), max_output - kept.len());
        let rows = kept.iter().map(|&(index, score)| (index as i32, score));
        for (index, score) in rows.chain(padding) {
            indices.push(index);
            scores.push(score);
        }
    }
    Output {
        indices,
        scores,
        counts,
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.boxes.inputs();
    let expected = expected(case, &inputs);
    let exact: Vec<f64> = expected.scores.iter().map(|&s| f64::from(s)).collect();
    // The floor alone: a weight in double precision is rounded as the reference's is, all but once in 10^8.
    let budget = Budget::new(&exact, &exact, DType::F32);
    let mut first: Option<Output> = None;
    for target in targets() {
        for run_number in 0..2 {
            let fail =
                |error| TestCaseError::fail(format!("{target:?}, run {run_number}: {error}"));
            let output = run(target, case, &inputs);
            prop_assert_eq!(&output.counts, &expected.counts, "{:?}", target);
            prop_assert_eq!(&output.indices, &expected.indices, "{:?}", target);
            let scores: Vec<f64> = output.scores.iter().map(|&s| f64::from(s)).collect();
            within(&scores, &exact, &budget).map_err(fail)?;
            let first = first.get_or_insert_with(|| output.clone());
            bitwise(&output.scores, &first.scores).map_err(fail)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]
    #[test]
    fn every_device_keeps_what_the_reference_keeps(case in case()) {
        check(&case)?;
    }
}

/// Clusters of boxes in three classes, the best `max_output`.
fn clusters(images: usize, boxes: usize, max_output: usize, method: SoftNmsMethod) -> Case {
    Case {
        boxes: nms::Case {
            images,
            boxes,
            layout: nms::Layout::Clusters,
            classes: Some(3),
            tied_scores: false,
            counted: false,
            params: Default::default(),
            seed: boxes as u64,
        },
        params: SoftNms {
            method,
            max_output: Some(max_output),
            ..SoftNms::default()
        },
    }
}

/// Both sides of every size at which the kernels change their ways.
#[test]
fn sizes_at_which_the_plan_changes() {
    for boxes in [0, 1, 31, 32, 33, 511, 512, 513, 1025, 5119, 5120, 5121] {
        let method = if usize::is_multiple_of(boxes, 2) {
            SoftNmsMethod::Linear
        } else {
            SoftNmsMethod::Gaussian
        };
        check(&clusters(2, boxes, boxes.min(40), method)).unwrap();
    }
}
