//! Pull, push and offset losses of corners: every device against the reference.

mod examples;

use crate::device::targets;
use half::{bf16, f16};
use ocelli::ops::{corner_embedding_loss_with_gradient, corner_offset_loss_with_gradient};
use ocelli::params::{CornerEmbeddingLoss, CornerOffsetLoss};
use ocelli::reference::{offset_loss, pull_and_push};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::strategy::{Data, SplitMix, cases, size};
use ocelli::{DType, Device, Float, Tensor};
use proptest::prelude::*;

/// One problem.
#[derive(Debug, Clone)]
struct Case {
    images: usize,
    height: usize,
    width: usize,
    boxes: usize,
    spread: f32,
    seed: u64,
    upstream: f32,
}

impl Case {
    fn cells(&self) -> usize {
        self.height * self.width
    }

    fn map<T: Float>(&self, channels: usize, seed: u64) -> Vec<T> {
        let len = self.images * self.cells() * channels;
        let values = Data::Spread(self.spread).values(len, self.seed ^ seed);
        values.into_iter().map(T::from_f32).collect()
    }

    /// Cells, several boxes at one among them, and indices that are none.
    fn indices(&self, seed: u64) -> Vec<i32> {
        let mut random = SplitMix(self.seed ^ seed);
        let cells = self.cells() as i32;
        let odd = [-1, cells, i32::MIN, i32::MAX];
        let mut index = || match random.next() {
            bits if bits.is_multiple_of(8) || cells == 0 => odd[random.next() as usize % odd.len()],
            bits => ((bits >> 8) % cells.min(40) as u64) as i32,
        };
        (0..self.images * self.boxes).map(|_| index()).collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let extents = (
        1..4usize,
        size(20),
        size(33),
        prop_oneof![size(20), Just(300usize)],
    );
    (
        extents,
        prop_oneof![Just(0.3f32), Just(3.0)],
        any::<u64>(),
        -3.0..3.0f32,
    )
        .prop_map(
            |((images, height, width, boxes), spread, seed, upstream)| Case {
                images,
                height,
                width,
                boxes,
                spread,
                seed,
                upstream,
            },
        )
}

/// Losses and gradients, exact.
struct Exact {
    losses: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    /// Sums of the magnitudes of each loss's and gradient's terms.
    loss_terms: Vec<f64>,
    gradient_terms: Vec<Vec<f64>>,
}

fn embeddings(case: &Case, maps: [Vec<f64>; 2], indices: [&[i32]; 2], weights: [f64; 2]) -> Exact {
    let (cells, boxes) = (case.cells(), case.boxes);
    let zeros = || vec![0.0; case.images * cells];
    let mut exact = Exact {
        losses: vec![0.0; 2],
        gradients: vec![zeros(), zeros()],
        loss_terms: vec![0.0; 2],
        gradient_terms: vec![zeros(), zeros()],
    };
    for image in 0..case.images {
        let inside = |index: i32| index >= 0 && (index as usize) < cells;
        let counted: Vec<[usize; 2]> = (image * boxes..(image + 1) * boxes)
            .filter(|&number| inside(indices[0][number]) && inside(indices[1][number]))
            .map(|number| [0, 1].map(|corner| image * cells + indices[corner][number] as usize))
            .collect();
        let pairs: Vec<(f64, f64)> = counted
            .iter()
            .map(|at| (maps[0][at[0]], maps[1][at[1]]))
            .collect();
        let (losses, slopes) = pull_and_push(&pairs);
        for which in 0..2 {
            exact.losses[which] += weights[which] * losses[which];
            // Of push, pairs and what is subtracted from them are about as large.
            exact.loss_terms[which] += weights[which] * (losses[which].abs() + 2.0);
            for (at, slope) in counted.iter().zip(&slopes[which]) {
                for (corner, slope) in [slope.0, slope.1].into_iter().enumerate() {
                    let term = f64::from(case.upstream) * weights[which] * slope;
                    exact.gradients[corner][at[corner]] += term;
                    exact.gradient_terms[corner][at[corner]] += term.abs();
                }
            }
        }
    }
    exact
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

fn check_embeddings<T: Float>(device: &Device, case: &Case) -> Result<(), TestCaseError> {
    let params = CornerEmbeddingLoss {
        pull_weight: 0.25,
        push_weight: 0.5,
    };
    let maps = [case.map::<T>(1, 1), case.map::<T>(1, 2)];
    let indices = [case.indices(3), case.indices(4)];
    let shape = [case.images, case.height, case.width, 1];
    let upload = |map: &Vec<T>| Tensor::from_vec(map.clone(), &shape, device).unwrap();
    let tensors = [upload(&maps[0]), upload(&maps[1])];
    let boxes = [case.images, case.boxes];
    let on = |indices: &Vec<i32>| Tensor::from_vec(indices.clone(), &boxes, device).unwrap();
    let cells = [on(&indices[0]), on(&indices[1])];
    let upstream = Tensor::from_vec(vec![case.upstream], &[1], device).unwrap();
    let run = || {
        let (losses, gradients) = corner_embedding_loss_with_gradient(
            [&tensors[0], &tensors[1]],
            [&cells[0], &cells[1]],
            Some(&upstream),
            &params,
        )
        .unwrap();
        let gradients = gradients.map(|gradient| gradient.to_vec::<T>().unwrap());
        (losses.to_vec::<f32>().unwrap(), gradients)
    };
    let wide_maps = [wide(&maps[0]), wide(&maps[1])];
    let exact = embeddings(case, wide_maps, [&indices[0], &indices[1]], [0.25, 0.5]);
    let (losses, gradients) = run();
    let (again, same) = run();
    compare::<T>(
        device,
        &exact,
        (&losses, &again),
        [(&gradients[0], &same[0]), (&gradients[1], &same[1])],
    )
}

fn check_offsets<T: Float>(device: &Device, case: &Case) -> Result<(), TestCaseError> {
    let params = CornerOffsetLoss { weight: 0.5 };
    let (map, indices) = (case.map::<T>(2, 5), case.indices(6));
    let targets = Data::Spread(1.0).values(2 * indices.len(), case.seed ^ 7);
    let shape = [case.images, case.height, case.width, 2];
    let boxes = [case.images, case.boxes, 2];
    let tensors = (
        Tensor::from_vec(map.clone(), &shape, device).unwrap(),
        Tensor::from_vec(indices.clone(), &boxes[..2], device).unwrap(),
        Tensor::from_vec(targets.clone(), &boxes, device).unwrap(),
    );
    let upstream = Tensor::from_vec(vec![case.upstream], &[1], device).unwrap();
    let run = || {
        let (offsets, indices, targets) = &tensors;
        let (loss, gradient) =
            corner_offset_loss_with_gradient(offsets, indices, targets, Some(&upstream), &params)
                .unwrap();
        (
            loss.to_vec::<f32>().unwrap(),
            gradient.to_vec::<T>().unwrap(),
        )
    };
    let cells = case.cells();
    let mut places = Vec::new();
    let mut gathered = (Vec::new(), Vec::new());
    for (number, &index) in indices.iter().enumerate() {
        if index < 0 || index as usize >= cells {
            continue;
        }
        for axis in 0..2 {
            let at = 2 * (number / case.boxes * cells + index as usize) + axis;
            places.push(at);
            gathered.0.push(f64::from(map[at].to_f32()));
            gathered.1.push(f64::from(targets[2 * number + axis]));
        }
    }
    let (loss, slopes) = offset_loss(&gathered.0, &gathered.1);
    let mut gradient = vec![0.0; map.len()];
    let mut terms = vec![0.0; map.len()];
    for (at, slope) in places.into_iter().zip(slopes) {
        let term = f64::from(case.upstream) * 0.5 * slope;
        gradient[at] += term;
        terms[at] += term.abs();
    }
    let exact = Exact {
        losses: vec![0.5 * loss],
        gradients: vec![gradient],
        loss_terms: vec![0.5 * loss],
        gradient_terms: vec![terms],
    };
    let ((loss, gradient), (again, same)) = (run(), run());
    compare::<T>(device, &exact, (&loss, &again), [(&gradient, &same)])
}

/// Two runs with each other and with what is exact. Sums are in f64: the rounding of the results is all
/// the error that the relative floor of a budget must cover.
fn compare<T: Float>(
    device: &Device,
    exact: &Exact,
    (losses, again): (&[f32], &[f32]),
    gradients: impl IntoIterator<Item = (impl AsRef<[T]>, impl AsRef<[T]>)>,
) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{device} {}: {what}: {error}", T::DTYPE))
    };
    bitwise(losses, again).map_err(|error| fail("second run", &error))?;
    let budget = Budget::of_sums(&exact.losses, &exact.loss_terms, &exact.losses, DType::F32);
    within(&wide(losses), &exact.losses, &budget).map_err(|error| fail("losses", &error))?;
    for (number, (once, again)) in gradients.into_iter().enumerate() {
        bitwise(once.as_ref(), again.as_ref()).map_err(|error| fail("second run", &error))?;
        let (gradient, terms) = (&exact.gradients[number], &exact.gradient_terms[number]);
        let budget = Budget::of_sums(gradient, terms, gradient, T::DTYPE);
        within(&wide(once.as_ref()), gradient, &budget)
            .map_err(|error| fail("gradient", &error))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case()) {
        for target in targets() {
            let device = target.device();
            check_embeddings::<f32>(&device, &case)?;
            check_embeddings::<f16>(&device, &case)?;
            check_embeddings::<bf16>(&device, &case)?;
            check_offsets::<f32>(&device, &case)?;
            check_offsets::<f16>(&device, &case)?;
            check_offsets::<bf16>(&device, &case)?;
        }
    }
}
