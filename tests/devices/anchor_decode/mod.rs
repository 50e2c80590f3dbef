//! Anchor decoding: every device against the reference, and both devices against each other, bit for bit.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::Float;
use ocelli::params::{AnchorDecode, Anchors};
use ocelli::reference::{self, Candidate, DecodeLevel};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::within;
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, SplitMix, cases, size};
use ocelli::{DType, cpu};
use proptest::prelude::*;

/// What the logits are like.
#[derive(Debug, Clone, Copy)]
enum Logits {
    /// About one in 80 passes a threshold of 0.05.
    Sparse,
    /// About one in 2000 does, as in a trained detector.
    Rare,
    Random(Data),
    /// Each above all before it: every cut of the kept keys is followed by better ones.
    Ascending,
}

#[derive(Debug, Clone)]
struct Case {
    images: usize,
    classes: usize,
    grids: Vec<[usize; 2]>,
    detectron2: bool,
    logits: Logits,
    /// Whether images have sizes of their own.
    sized: bool,
    /// Elements between an aligned address and the first of each input.
    shift: usize,
    params: AnchorDecode,
    seed: u64,
}

/// The padded size of the images of every case: divides into no grid.
const IMAGE: [usize; 2] = [100, 139];

/// Inputs of a case, a vector a level.
struct Inputs<T> {
    logits: Vec<Guarded<T>>,
    deltas: Vec<Guarded<T>>,
    sizes: Option<Vec<i32>>,
}

impl Case {
    fn anchors(&self) -> Anchors {
        let make = if self.detectron2 {
            Anchors::detectron2
        } else {
            Anchors::torchvision
        };
        make(IMAGE, &self.grids).unwrap()
    }

    fn reference_anchors(&self, level: usize) -> Vec<[f32; 4]> {
        let grid = self.grids[level];
        if self.detectron2 {
            reference::anchors_detectron2(grid, level as u32)
        } else {
            reference::anchors_torchvision(IMAGE, grid, level as u32)
        }
    }

    fn logits_of(&self, len: usize, seed: u64) -> Vec<f32> {
        let shifted = |data: Data, by: f32| data.values(len, seed).into_iter().map(move |x| x + by);
        match self.logits {
            Logits::Sparse => shifted(Data::Spread(1.0), -5.2).collect(),
            Logits::Rare => shifted(Data::Spread(0.7), -5.2).collect(),
            Logits::Random(data) => data.values(len, seed),
            Logits::Ascending => (0..len).map(|i| i as f32 / 64.0 - 4.0).collect(),
        }
    }

    fn inputs<T: Float>(&self) -> Inputs<T> {
        let cast = |values: Vec<f32>| values.into_iter().map(T::from_f32).collect::<Vec<T>>();
        let guard = |values| Guarded::holding(&cast(values), self.shift);
        let anchors = self.anchors();
        let levels = anchors.levels().iter().zip(self.seed..);
        let logits = levels.clone().map(|(level, seed)| {
            guard(self.logits_of(self.images * level.count() * self.classes, seed))
        });
        let deltas = levels.map(|(level, seed)| {
            let data = if seed % 3 == 0 {
                Data::Special
            } else {
                Data::Spread(1.5)
            };
            guard(data.values(self.images * level.count() * 4, seed ^ 99))
        });
        let mut random = SplitMix(self.seed);
        let mut side = |_| [-7, 0, 50, 100, i32::MAX][random.next() as usize % 5];
        Inputs {
            logits: logits.collect(),
            deltas: deltas.collect(),
            sizes: self
                .sized
                .then(|| (0..2 * self.images).map(&mut side).collect()),
        }
    }
}

fn slices<T: ocelli::Element>(levels: &[Guarded<T>]) -> Vec<&[T]> {
    levels
        .iter()
        .map(|level| &level.all()[level.range()])
        .collect()
}

fn case() -> impl Strategy<Value = Case> {
    let logits = prop_oneof![
        2 => Just(Logits::Sparse),
        2 => Just(Logits::Random(Data::Spread(3.0))),
        1 => Just(Logits::Random(Data::Constant(0.5))),
        1 => Just(Logits::Random(Data::Ties)),
        2 => Just(Logits::Random(Data::Special)),
        1 => Just(Logits::Ascending),
    ];
    let grids = proptest::collection::vec((0..7usize, 1..9usize).prop_map(|(h, w)| [h, w]), 1..4);
    let params = (
        prop_oneof![3 => Just(0.05f32), 1 => Just(0.0), 1 => Just(0.5), 1 => Just(1.0), 1 => Just(0.3)],
        prop_oneof![Just(0usize), Just(1), Just(1000), size(300)],
    );
    let extents = (
        1..3usize,
        prop_oneof![Just(1usize), Just(3), Just(16), 0..6usize],
    );
    (
        extents,
        grids,
        logits,
        any::<(bool, bool)>(),
        0..9usize,
        params,
        any::<u32>(),
    )
        .prop_map(
            |((images, classes), grids, logits, (detectron2, sized), shift, params, seed)| {
                let (score_threshold, topk) = params;
                Case {
                    images,
                    classes,
                    grids,
                    detectron2,
                    logits,
                    sized,
                    shift,
                    params: AnchorDecode {
                        score_threshold,
                        topk,
                    },
                    seed: seed.into(),
                }
            },
        )
}

/// The four outputs.
type Output = cpu::anchor_decode::Decoded;

/// None where the raw entry has nothing to launch.
fn run<T: Float>(target: &Target, case: &Case, inputs: &Inputs<T>) -> Option<Output> {
    match target {
        Target::Cpu => {
            let batch = cpu::anchor_decode::Batch {
                logits: &slices(&inputs.logits),
                deltas: &slices(&inputs.deltas),
                image_sizes: inputs.sizes.as_deref(),
                images: case.images,
                classes: case.classes,
            };
            Some(cpu::anchor_decode::anchor_decode(batch, &case.anchors(), &case.params).unwrap())
        }
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case, inputs),
    }
}

fn expected<T: Float>(case: &Case, inputs: &Inputs<T>, image: usize) -> Vec<Candidate> {
    let row = |level: &Guarded<T>| -> Vec<f32> {
        let range = level.range();
        let length = range.len() / case.images;
        let row = &level.all()[range][image * length..][..length];
        row.iter().map(|x| x.to_f32()).collect()
    };
    let data: Vec<_> = (0..case.grids.len())
        .map(|level| {
            let (logits, deltas) = (row(&inputs.logits[level]), row(&inputs.deltas[level]));
            (logits, deltas, case.reference_anchors(level))
        })
        .collect();
    let levels: Vec<_> = data
        .iter()
        .map(|(logits, deltas, anchors)| DecodeLevel {
            logits,
            deltas,
            anchors,
        })
        .collect();
    let sides = |side: usize| match &inputs.sizes {
        Some(sizes) => f64::from(sizes[2 * image + side].max(0)),
        None => IMAGE[side] as f64,
    };
    let rule = reference::AnchorDecode {
        score_threshold: case.params.score_threshold,
        topk: case.params.topk,
        image: [sides(0), sides(1)],
    };
    reference::anchor_decode(&levels, case.classes, rule)
}

/// One image's part of an output against the reference: which candidates exactly, boxes and scores by budget, padding.
fn agrees(output: &Output, image: usize, expected: &[Candidate]) -> Result<(), String> {
    let most = output.scores.len() / output.count.len();
    let row = image * most..(image + 1) * most;
    if output.count[image] != expected.len() as i32 {
        return Err(format!(
            "{} candidates for {}",
            output.count[image],
            expected.len()
        ));
    }
    let (boxes, scores) = (
        &output.boxes[4 * row.start..4 * row.end],
        &output.scores[row.clone()],
    );
    let classes: Vec<i32> = expected.iter().map(|c| c.class as i32).collect();
    let (found, padding) = output.classes[row].split_at(expected.len());
    if found != classes {
        return Err(format!("classes {found:?} for {classes:?}"));
    }
    let n = expected.len();
    let zero = boxes[4 * n..].iter().chain(&scores[n..]).all(|&x| x == 0.0);
    if !zero || padding.iter().any(|&class| class != -1) {
        return Err("padding".into());
    }
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    let exact: Vec<f64> = expected.iter().map(|c| c.score).collect();
    let budget = Budget::new(&exact, &exact, DType::F32);
    within(&wide(&scores[..n]), &exact, &budget).map_err(|error| format!("scores: {error}"))?;
    let exact: Vec<f64> = expected.iter().flat_map(|c| c.corners).collect();
    // A corner is a sum of terms as large as the pyramid's largest box, 1000 / 16 of 645 pixels.
    let terms = vec![4e4; exact.len()];
    let budget = Budget::of_sums(&exact, &terms, &exact, DType::F32);
    within(&wide(&boxes[..4 * n]), &exact, &budget).map_err(|error| format!("boxes: {error}"))
}

/// Bits of an output, all NaN alike: processors and GPUs make different ones.
fn bits(output: &Output) -> (Vec<u32>, Vec<u32>, &[i32], &[i32]) {
    let bits = |values: &[f32]| {
        let same = values
            .iter()
            .map(|x| if x.is_nan() { f32::NAN } else { *x });
        same.map(f32::to_bits).collect::<Vec<_>>()
    };
    (
        bits(&output.boxes),
        bits(&output.scores),
        &output.classes,
        &output.count,
    )
}

fn check<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.inputs::<T>();
    let on_cpu = run::<T>(&Target::Cpu, case, &inputs).expect("the CPU takes every case");
    for image in 0..case.images {
        let expected = expected(case, &inputs, image);
        agrees(&on_cpu, image, &expected)
            .map_err(|error| TestCaseError::fail(format!("{} image {image}: {error}", T::DTYPE)))?;
    }
    for target in targets() {
        for number in 0..2 {
            let Some(output) = run::<T>(target, case, &inputs) else {
                prop_assert!(on_cpu.scores.is_empty());
                continue;
            };
            prop_assert_eq!(
                bits(&output),
                bits(&on_cpu),
                "{:?} {}, run {}",
                target,
                T::DTYPE,
                number
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]
    #[test]
    fn every_device_finds_what_the_reference_finds(case in case()) {
        check::<f32>(&case)?;
        check::<f16>(&case)?;
        check::<bf16>(&case)?;
    }
}

/// More logits than a tile, more candidates than room, in every order, at sizes at which the plan changes.
#[test]
fn every_logit_may_pass() {
    let mut case = Case {
        images: 1,
        classes: 20,
        grids: vec![[13, 17], [3, 3]],
        detectron2: false,
        logits: Logits::Ascending,
        sized: false,
        shift: 3,
        params: AnchorDecode {
            score_threshold: 0.0,
            topk: 1000,
        },
        seed: 5,
    };
    for (logits, topk) in [
        (Logits::Ascending, 1000),
        (Logits::Ascending, 255),
        (Logits::Random(Data::Spread(2.0)), 256),
        (Logits::Random(Data::Constant(0.0)), 257),
        (Logits::Random(Data::Ties), 1024),
        (Logits::Random(Data::Spread(2.0)), 4096),
    ] {
        (case.logits, case.params.topk) = (logits, topk);
        check::<bf16>(&case).unwrap();
    }
    check::<f32>(&case).unwrap();
}
