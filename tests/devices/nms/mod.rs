//! Non-maximum suppression: every device against the reference, index for index.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;
mod laws;

use crate::device::{Target, targets};
use ocelli::ops::nms;
use ocelli::params::Nms;
use ocelli::testing::strategy::{SplitMix, cases, size};
use ocelli::{Tensor, reference};
use proptest::prelude::*;

/// What the boxes are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    /// Anywhere, so that few overlap.
    Sparse,
    /// Around a few centres, so that most are suppressed.
    Clusters,
    /// On a small integer grid, so that many are equal and many IoUs lie at the threshold.
    Grid,
    /// All of it, with inverted, empty, huge, infinite and NaN boxes among them, and negative coordinates.
    Odd,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) images: usize,
    pub(crate) boxes: usize,
    pub(crate) layout: Layout,
    pub(crate) classes: Option<i32>,
    pub(crate) tied_scores: bool,
    pub(crate) counted: bool,
    pub(crate) params: Nms,
    pub(crate) seed: u64,
}

/// The inputs of a case.
pub(crate) struct Inputs {
    pub(crate) boxes: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) classes: Option<Vec<i32>>,
    pub(crate) counts: Option<Vec<i32>>,
}

impl Case {
    pub(crate) fn inputs(&self) -> Inputs {
        let mut random = SplitMix(self.seed);
        let all = self.images * self.boxes;
        let boxes = (0..all)
            .flat_map(|_| corners(self.layout, &mut random))
            .collect();
        let scores = (0..all).map(|_| self.score(&mut random)).collect();
        let class = |random: &mut SplitMix, classes: i32| match random.next() % 50 {
            0 => i32::MIN,
            1 => i32::MAX,
            bits => (bits % classes as u64) as i32,
        };
        let classes = self
            .classes
            .map(|n| (0..all).map(|_| class(&mut random, n)).collect());
        let odd = [
            i32::MIN,
            -1,
            0,
            self.boxes as i32 / 2,
            self.boxes as i32,
            i32::MAX,
        ];
        let count = |_| odd[random.next() as usize % odd.len()];
        let counts = self.counted.then(|| (0..self.images).map(count).collect());
        Inputs {
            boxes,
            scores,
            classes,
            counts,
        }
    }

    /// The boxes of an image that take part.
    pub(crate) fn live(&self, inputs: &Inputs, image: usize) -> std::ops::Range<usize> {
        let all = self.boxes as i32;
        let count = inputs.counts.as_ref().map_or(all, |counts| counts[image]);
        let first = image * self.boxes;
        first..first + count.clamp(0, all) as usize
    }

    fn score(&self, random: &mut SplitMix) -> f32 {
        if self.tied_scores {
            return [
                0.0,
                -0.0,
                0.25,
                0.5,
                0.5,
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
            ][random.next() as usize % 8];
        }
        unit(random)
    }
}

fn unit(random: &mut SplitMix) -> f32 {
    (random.next() >> 40) as f32 / (1u64 << 24) as f32
}

fn corners(layout: Layout, random: &mut SplitMix) -> [f32; 4] {
    let mut u = || unit(random);
    let (x, y, w, h) = match layout {
        Layout::Sparse => (
            u() * 4000.0,
            u() * 4000.0,
            10.0 + u() * 90.0,
            10.0 + u() * 90.0,
        ),
        Layout::Clusters => {
            let centre = (u() * 6.0).floor() * 150.0;
            (
                centre + u() * 20.0,
                centre + u() * 20.0,
                60.0 + u() * 40.0,
                60.0 + u() * 40.0,
            )
        }
        Layout::Grid => {
            let mut whole = |n: f32| (u() * n).floor();
            (whole(6.0), whole(6.0), 1.0 + whole(4.0), 1.0 + whole(4.0))
        }
        Layout::Odd => {
            let odd = [-3.0, 0.0, 1e20, 3e38, f32::INFINITY, f32::NAN, -1e-40, 50.0];
            let mut any = || {
                if u() < 0.15 {
                    odd[(u() * 8.0) as usize]
                } else {
                    u() * 100.0
                }
            };
            (any() - 50.0, any() - 50.0, any(), any())
        }
    };
    [x, y, x + w, y + h]
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let layout = prop_oneof![
        Just(Layout::Sparse),
        Just(Layout::Clusters),
        Just(Layout::Grid),
        Just(Layout::Odd)
    ];
    let classes = prop_oneof![Just(None), Just(Some(1)), Just(Some(5)), Just(Some(80))];
    let thresholds = (
        prop_oneof![
            Just(0.5f32),
            Just(0.0),
            Just(0.3),
            Just(1.0 / 3.0),
            Just(1.0)
        ],
        prop_oneof![3 => Just(None), 1 => Just(Some(0.25f32)), 1 => Just(Some(f32::NEG_INFINITY))],
        prop_oneof![2 => Just(None), 1 => Just(Some(0.0f32)), 2 => Just(Some(0.1)), 1 => Just(Some(1.0))],
    );
    let extents = (1..4usize, size(700));
    (
        extents,
        layout,
        classes,
        any::<(bool, bool)>(),
        thresholds,
        any::<u64>(),
    )
        .prop_map(
            |((images, boxes), layout, classes, (tied_scores, counted), thresholds, seed)| {
                let (iou_threshold, score_threshold, part) = thresholds;
                let max_output = part.map(|part: f32| (boxes as f32 * part).ceil() as usize);
                let params = Nms {
                    iou_threshold,
                    score_threshold,
                    max_output,
                };
                Case {
                    images,
                    boxes,
                    layout,
                    classes,
                    tied_scores,
                    counted,
                    params,
                    seed,
                }
            },
        )
}

/// Rows of indices and the counts.
type Output = (Vec<i32>, Vec<i32>);

fn run(target: &Target, case: &Case, inputs: &Inputs) -> Output {
    let device = target.device();
    let tensor = |values: &[i32], shape: &[usize]| {
        Tensor::from_vec(values.to_vec(), shape, &device).unwrap()
    };
    let (all, image) = ([case.images, case.boxes], [case.images]);
    let boxes =
        Tensor::from_vec(inputs.boxes.clone(), &[case.images, case.boxes, 4], &device).unwrap();
    let scores = Tensor::from_vec(inputs.scores.clone(), &all, &device).unwrap();
    let classes = inputs.classes.as_ref().map(|values| tensor(values, &all));
    let counts = inputs.counts.as_ref().map(|values| tensor(values, &image));
    let kept = nms(
        &boxes,
        &scores,
        classes.as_ref(),
        counts.as_ref(),
        &case.params,
    )
    .unwrap();
    let output = (kept.indices.to_vec().unwrap(), kept.count.to_vec().unwrap());
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    output
}

fn expected(case: &Case, inputs: &Inputs) -> Output {
    let max_output = case.params.max_output.unwrap_or(case.boxes);
    let rule = reference::Nms {
        iou_threshold: case.params.iou_threshold,
        score_threshold: case.params.score_threshold,
        max_output,
    };
    let (mut indices, mut counts) = (Vec::new(), Vec::new());
    for image in 0..case.images {
        let range = case.live(inputs, image);
        let kept = reference::nms(
            &inputs.boxes[4 * range.start..4 * range.end],
            &inputs.scores[range.clone()],
            inputs
                .classes
                .as_ref()
                .map(|classes| &classes[range.clone()]),
            rule,
        );
        counts.push(kept.len() as i32);
        let padded = kept
            .iter()
            .map(|&index| index as i32)
            .chain(std::iter::repeat(-1));
        indices.extend(padded.take(max_output));
    }
    (indices, counts)
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.inputs();
    let expected = expected(case, &inputs);
    for target in targets() {
        for run_number in 0..2 {
            let output = run(target, case, &inputs);
            prop_assert_eq!(&output, &expected, "{:?}, run {}", target, run_number);
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

/// Both sides of every size at which the kernels change their ways.
#[test]
fn sizes_at_which_the_plan_changes() {
    let sizes = [
        0, 1, 2, 127, 128, 129, 511, 512, 513, 1025, 4097, 5120, 5121, 8193,
    ];
    for (seed, boxes) in sizes.into_iter().enumerate() {
        let layout = if boxes > 2000 {
            Layout::Clusters
        } else {
            Layout::Sparse
        };
        let case = Case {
            images: 1 + seed % 2,
            boxes,
            layout,
            classes: Some(3),
            tied_scores: false,
            counted: false,
            params: Nms {
                max_output: Some(boxes.min(300)),
                ..Nms::default()
            },
            seed: seed as u64,
        };
        check(&case).unwrap();
    }
}

/// All of them on the CPU; the best 300 on every device, since a simulated GPU is slow.
#[test]
fn two_hundred_thousand_boxes() {
    let mut case = Case {
        images: 1,
        boxes: 200_000,
        layout: Layout::Clusters,
        classes: Some(80),
        tied_scores: false,
        counted: false,
        params: Nms::default(),
        seed: 7,
    };
    let inputs = case.inputs();
    assert_eq!(run(&Target::Cpu, &case, &inputs), expected(&case, &inputs));
    case.params.max_output = Some(300);
    let best = expected(&case, &inputs);
    for target in targets() {
        assert_eq!(run(target, &case, &inputs), best, "{target:?}");
    }
}
