//! Anchor matching: every device against the reference, label for label.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;

use crate::device::{Target, targets};
use ocelli::ops::match_anchors;
use ocelli::params::{Anchors, MatchAnchors};
use ocelli::reference::{self, AnchorMatch};
use ocelli::testing::strategy::{SplitMix, cases, size};
use ocelli::{Tensor, cpu};
use proptest::prelude::*;

/// What the boxes are like.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Of all sizes, in and around the image.
    Spread,
    /// Whole coordinates on a coarse grid, so that boxes, and overlaps, are equal.
    Grid,
    /// Anchors themselves.
    Anchors,
    /// Inverted, empty, far away, huge and not finite ones among them.
    Odd,
}

#[derive(Debug, Clone)]
struct Case {
    images: usize,
    boxes: usize,
    grids: Vec<[usize; 2]>,
    detectron2: bool,
    layout: Layout,
    counted: bool,
    params: MatchAnchors,
    seed: u64,
}

struct Inputs {
    boxes: Vec<[f32; 4]>,
    classes: Vec<i32>,
    counts: Option<Vec<i32>>,
}

const IMAGE: [usize; 2] = [100, 139];

impl Case {
    fn anchors(&self) -> Anchors {
        let make = if self.detectron2 {
            Anchors::detectron2
        } else {
            Anchors::torchvision
        };
        make(IMAGE, &self.grids).unwrap()
    }

    fn reference_anchors(&self) -> Vec<[f32; 4]> {
        let level = |(level, &grid): (usize, &[usize; 2])| {
            if self.detectron2 {
                reference::anchors_detectron2(grid, level as u32)
            } else {
                reference::anchors_torchvision(IMAGE, grid, level as u32)
            }
        };
        self.grids.iter().enumerate().flat_map(level).collect()
    }

    fn inputs(&self) -> Inputs {
        let mut random = SplitMix(self.seed);
        let anchors = self.reference_anchors();
        let all = self.images * self.boxes;
        let boxes = (0..all).map(|_| corners(self.layout, &anchors, &mut random));
        let boxes = boxes.collect();
        let classes = (0..all).map(|_| (random.next() % 90) as i32).collect();
        let odd = [i32::MIN, -1, 0, self.boxes as i32 / 2, i32::MAX];
        let count = |_| odd[random.next() as usize % odd.len()];
        Inputs {
            boxes,
            classes,
            counts: self.counted.then(|| (0..self.images).map(count).collect()),
        }
    }
}

fn corners(layout: Layout, anchors: &[[f32; 4]], random: &mut SplitMix) -> [f32; 4] {
    let [x, y, w, h] = [0; 4].map(|_| random.uniform());
    let (x, y, w, h) = match layout {
        Layout::Spread => (
            x * 160.0 - 20.0,
            y * 120.0 - 20.0,
            w * w * 150.0,
            h * h * 150.0,
        ),
        Layout::Grid => (
            (x * 6.0).floor() * 16.0,
            (y * 6.0).floor() * 16.0,
            32.0,
            16.0 + (h * 3.0).floor() * 16.0,
        ),
        Layout::Anchors if !anchors.is_empty() => {
            return anchors[random.next() as usize % anchors.len()];
        }
        Layout::Anchors => (x, y, w, h),
        Layout::Odd => {
            let odd = [0.0, -5.0, 1e20, 3e38, f32::INFINITY, f32::NAN, -1e-40, 1e4];
            let any = |value: f32, random: &mut SplitMix| match random.next() % 32 {
                place @ 0..8 => odd[place as usize],
                _ => value * 80.0,
            };
            (
                any(x, random),
                any(y, random),
                any(w, random),
                any(h, random),
            )
        }
    };
    [x, y, x + w, y + h]
}

fn case() -> impl Strategy<Value = Case> {
    let layout = prop_oneof![
        Just(Layout::Spread),
        Just(Layout::Grid),
        Just(Layout::Anchors),
        Just(Layout::Odd)
    ];
    let grids = proptest::collection::vec((0..9usize, 1..12usize).prop_map(|(h, w)| [h, w]), 1..4);
    let params = prop_oneof![
        3 => Just(MatchAnchors::default()),
        1 => Just(MatchAnchors { low_quality: false, ..Default::default() }),
        1 => Just(MatchAnchors { high_threshold: 0.0, low_threshold: 0.0, low_quality: false }),
        1 => Just(MatchAnchors { high_threshold: 1.0, low_threshold: 0.3, low_quality: true }),
    ];
    let extents = (1..3usize, size(40));
    (
        extents,
        grids,
        layout,
        any::<(bool, bool)>(),
        params,
        any::<u64>(),
    )
        .prop_map(
            |((images, boxes), grids, layout, (detectron2, counted), params, seed)| Case {
                images,
                boxes,
                grids,
                detectron2,
                layout,
                counted,
                params,
                seed,
            },
        )
}

/// The three outputs.
type Output = cpu::match_anchors::Matched;

fn run(target: &Target, case: &Case, inputs: &Inputs) -> Output {
    let device = target.device();
    let shape = [case.images, case.boxes];
    let boxes = inputs.boxes.concat();
    let boxes = Tensor::from_vec(boxes, &[case.images, case.boxes, 4], &device).unwrap();
    let classes = Tensor::from_vec(inputs.classes.clone(), &shape, &device).unwrap();
    let counts = inputs.counts.clone();
    let counts = counts.map(|counts| Tensor::from_vec(counts, &shape[..1], &device).unwrap());
    let anchors = case.anchors();
    let matches = match_anchors(&boxes, &classes, counts.as_ref(), &anchors, &case.params).unwrap();
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    Output {
        labels: matches.labels.to_vec().unwrap(),
        matched: matches.matched.to_vec().unwrap(),
        foreground: matches.foreground.to_vec().unwrap(),
    }
}

fn expected(case: &Case, inputs: &Inputs) -> Output {
    let anchors = case.reference_anchors();
    let rule = reference::MatchAnchors {
        high_threshold: case.params.high_threshold,
        low_threshold: case.params.low_threshold,
        low_quality: case.params.low_quality,
    };
    let (mut labels, mut matched, mut foreground) = (vec![], vec![], vec![]);
    for image in 0..case.images {
        let live = inputs
            .counts
            .as_ref()
            .map_or(case.boxes as i32, |counts| counts[image]);
        let live = live.clamp(0, case.boxes as i32) as usize;
        let boxes = &inputs.boxes[image * case.boxes..][..live];
        let matches = reference::match_anchors(boxes, &anchors, rule);
        foreground.push(
            matches
                .iter()
                .filter(|m| matches!(m, AnchorMatch::Box(_)))
                .count() as i32,
        );
        for found in matches {
            let (label, index) = match found {
                AnchorMatch::Box(i) => (inputs.classes[image * case.boxes + i], i as i32),
                AnchorMatch::Background => (-1, -1),
                AnchorMatch::Between => (-2, -1),
            };
            labels.push(label);
            matched.push(index);
        }
    }
    Output {
        labels,
        matched,
        foreground,
    }
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.inputs();
    let expected = expected(case, &inputs);
    for target in targets() {
        for number in 0..2 {
            let output = run(target, case, &inputs);
            prop_assert_eq!(&output, &expected, "{:?}, run {}", target, number);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]
    #[test]
    fn every_device_matches_as_the_reference_does(case in case()) {
        check(&case)?;
    }
}

/// None, and more than a tile of them; more anchors than a block takes.
#[test]
fn sizes_at_which_the_kernel_changes_its_ways() {
    let few = vec![[3, 4], [2, 2]];
    let many = vec![[13, 18], [7, 9]];
    for (boxes, grids) in [
        (0, &many),
        (1, &many),
        (20, &many),
        (255, &few),
        (256, &few),
        (257, &few),
        (500, &few),
    ] {
        let case = Case {
            images: 1,
            boxes,
            grids: grids.clone(),
            detectron2: false,
            layout: Layout::Spread,
            counted: false,
            params: MatchAnchors::default(),
            seed: boxes as u64,
        };
        check(&case).unwrap();
    }
}
