//! Corner decoding: every device against the reference, box for box, and against each other bit for bit.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;
mod laws;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::ops::{CornerMaps, corner_decode};
use ocelli::params::CornerDecode;
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::strategy::{Data, SplitMix, cases, data, size};
use ocelli::{DType, Float, Tensor, reference};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    /// B, H, W, K.
    extents: [usize; 4],
    data: Data,
    seed: u64,
    params: CornerDecode,
}

/// Heat, embedding and offset of one kind of corner.
#[derive(Debug, Clone)]
struct Maps<T> {
    heat: Vec<T>,
    embedding: Vec<T>,
    offset: Vec<T>,
}

impl Case {
    fn cells(&self) -> usize {
        self.extents[..3].iter().product()
    }

    /// Embeddings have few values, so that many pairs are near; where the logits are special, so are some of the
    /// others.
    fn maps<T: Float>(&self, kind: u64) -> Maps<T> {
        let cells = self.cells();
        let mut random = SplitMix(self.seed ^ kind << 32);
        let special = self.data == Data::Special;
        let mut value = |scale: f32| match random.next() % 64 {
            0 if special => f32::NAN,
            1 if special => f32::INFINITY,
            bits => (bits % 4) as f32 * scale,
        };
        let embedding: Vec<f32> = (0..cells).map(|_| value(0.3)).collect();
        let offset: Vec<f32> = (0..2 * cells).map(|_| value(0.25)).collect();
        let heat = self.data.values(cells * self.extents[3], self.seed ^ kind);
        let cast = |values: Vec<f32>| values.into_iter().map(T::from_f32).collect();
        Maps {
            heat: cast(heat),
            embedding: cast(embedding),
            offset: cast(offset),
        }
    }
}

fn case() -> impl Strategy<Value = Case> {
    let extents = prop_oneof![
        (1..3usize, size(12), size(12), size(20)),
        (1..3usize, size(40), size(9), 1..4usize),
        (Just(1usize), 1..6usize, 120..140usize, 1..4usize),
    ];
    let kernel = prop_oneof![4 => Just(3usize), 1 => Just(1), 1 => Just(5), 1 => Just(9)];
    let topk = prop_oneof![Just(100usize), Just(1), Just(7), Just(40)];
    let num_dets = prop_oneof![Just(1000usize), Just(1), Just(33)];
    let threshold =
        prop_oneof![3 => Just(0.5f32), 1 => Just(0.0), 1 => Just(f32::INFINITY), 1 => Just(-1.0)];
    let params = (topk, kernel, threshold, num_dets);
    (extents, data(), any::<u64>(), params).prop_map(
        |((images, height, width, classes), data, seed, params)| {
            let (topk, kernel, ae_threshold, num_dets) = params;
            Case {
                extents: [images, height, width, classes],
                data,
                seed,
                params: CornerDecode {
                    topk,
                    kernel,
                    ae_threshold,
                    num_dets,
                },
            }
        },
    )
}

#[derive(Debug, Clone, PartialEq)]
struct Output {
    boxes: Vec<f32>,
    scores: Vec<f32>,
    classes: Vec<i32>,
    counts: Vec<i32>,
}

fn maps([heat, embedding, offset]: &[Tensor; 3]) -> CornerMaps<'_> {
    CornerMaps {
        heat,
        embedding,
        offset,
    }
}

fn run<T: Float>(target: &Target, case: &Case) -> Output {
    let [images, height, width, classes] = case.extents;
    let tensors = |maps: Maps<T>| {
        let tensor = |values: Vec<T>, last| {
            Tensor::from_vec(values, &[images, height, width, last], &target.device()).unwrap()
        };
        [
            tensor(maps.heat, classes),
            tensor(maps.embedding, 1),
            tensor(maps.offset, 2),
        ]
    };
    let (top_left, bottom_right) = (tensors(case.maps(1)), tensors(case.maps(2)));
    let found = corner_decode(maps(&top_left), maps(&bottom_right), &case.params).unwrap();
    let output = Output {
        boxes: found.boxes.to_vec().unwrap(),
        scores: found.scores.to_vec().unwrap(),
        classes: found.classes.to_vec().unwrap(),
        counts: found.count.to_vec().unwrap(),
    };
    #[cfg(feature = "cuda")]
    if let Target::Cuda(device) = target {
        device.launches();
    }
    output
}

fn rule(params: &CornerDecode) -> reference::CornerDecode {
    reference::CornerDecode {
        topk: params.topk,
        kernel: params.kernel,
        ae_threshold: params.ae_threshold,
        num_dets: params.num_dets,
    }
}

/// The reference's answer to inputs of type `T`.
fn expected<T: Float>(case: &Case) -> Output {
    let [images, height, width, classes] = case.extents;
    let widen = |values: &[T]| -> Vec<f32> { values.iter().map(|x| x.to_f32()).collect() };
    let maps = [1, 2].map(|kind| {
        let maps = case.maps::<T>(kind);
        [
            widen(&maps.heat),
            widen(&maps.embedding),
            widen(&maps.offset),
        ]
    });
    let mut output = Output {
        boxes: Vec::new(),
        scores: Vec::new(),
        classes: Vec::new(),
        counts: Vec::new(),
    };
    let n = case.params.num_dets;
    for image in 0..images {
        let part = |map: &[Vec<f32>; 3]| {
            let cells = height * width;
            [classes, 1, 2]
                .map(|last| image * cells * last..(image + 1) * cells * last)
                .into_iter()
                .zip(map)
                .map(|(range, values)| values[range].to_vec())
                .collect::<Vec<_>>()
        };
        let [a, b] = [part(&maps[0]), part(&maps[1])];
        let boxes = reference::corner_decode(
            [height, width, classes],
            reference::CornerMaps {
                heat: &a[0],
                embedding: &a[1],
                offset: &a[2],
            },
            reference::CornerMaps {
                heat: &b[0],
                embedding: &b[1],
                offset: &b[2],
            },
            rule(&case.params),
        );
        output.counts.push(boxes.len() as i32);
        let padding = reference::CornerBox {
            corners: [0.0; 4],
            score: 0.0,
            class: -1,
        };
        for row in boxes
            .iter()
            .copied()
            .chain(std::iter::repeat(padding))
            .take(n)
        {
            output.boxes.extend(row.corners);
            output.scores.push(row.score);
            output.classes.push(row.class);
        }
    }
    output
}

fn check_type<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let expected = expected::<T>(case);
    let exact: Vec<f64> = expected.scores.iter().map(|&s| f64::from(s)).collect();
    // The floor alone: a sigmoid in double precision is rounded as the reference's is, all but once in 10^8.
    let budget = Budget::new(&exact, &exact, DType::F32);
    let mut first: Option<Output> = None;
    for target in targets() {
        for run_number in 0..2 {
            let fail = |error| {
                let what = format!("{target:?} {}, run {run_number}: {error}", T::DTYPE);
                TestCaseError::fail(what)
            };
            let output = run::<T>(target, case);
            prop_assert_eq!(&output.counts, &expected.counts, "{:?}", target);
            prop_assert_eq!(&output.classes, &expected.classes, "{:?}", target);
            bitwise(&output.boxes, &expected.boxes).map_err(fail)?;
            let scores: Vec<f64> = output.scores.iter().map(|&s| f64::from(s)).collect();
            within(&scores, &exact, &budget).map_err(fail)?;
            let first = first.get_or_insert_with(|| output.clone());
            bitwise(&output.scores, &first.scores).map_err(fail)?;
        }
    }
    Ok(())
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    check_type::<f32>(case)?;
    check_type::<f16>(case)?;
    check_type::<bf16>(case)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]
    #[test]
    fn every_device_finds_what_the_reference_finds(case in case()) {
        check(&case)?;
    }
}

/// Rows on which channels are aligned and not, and both sides of every size at which tiles split.
#[test]
fn sizes_at_which_the_plan_changes() {
    let extents = [
        [1, 1, 1, 1],
        [2, 1, 128, 8],
        [1, 2, 129, 3],
        [1, 63, 2, 16],
        [1, 64, 2, 17],
        [1, 97, 3, 33],
        [1, 5, 254, 1],
        [1, 5, 255, 1],
    ];
    for (seed, extents) in extents.into_iter().enumerate() {
        let case = Case {
            extents,
            data: Data::Spread(2.0),
            seed: seed as u64,
            params: CornerDecode::default(),
        };
        check(&case).unwrap();
    }
}

/// The largest window, the most corners and the longest output that there may be.
#[test]
fn the_largest_scalars() {
    let case = Case {
        extents: [1, 20, 130, 3],
        data: Data::Spread(2.0),
        seed: 8,
        params: CornerDecode {
            topk: 512,
            kernel: 15,
            ae_threshold: 0.5,
            num_dets: 4096,
        },
    };
    check_type::<bf16>(&case).unwrap();
}

/// Peaks by the thousand: all logits the same, so that every one is a peak, and logits that rise from row to row, so
/// that every row is better than all before it.
#[test]
fn more_peaks_than_are_wanted() {
    for (data, kernel) in [
        (Data::Constant(-2.0), 3),
        (Data::Spread(1.0), 1),
        (Data::Ties, 3),
    ] {
        let case = Case {
            extents: [1, 20, 40, 24],
            data,
            seed: 3,
            params: CornerDecode {
                kernel,
                num_dets: 300,
                ..CornerDecode::default()
            },
        };
        check(&case).unwrap();
    }
}
