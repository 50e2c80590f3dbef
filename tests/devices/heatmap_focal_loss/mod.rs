//! Heatmap focal loss: every device against the reference.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::cpu::heatmap_focal_loss::Targets;
use ocelli::params::HeatmapFocalLoss;
use ocelli::reference;
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, SplitMix, cases, data, size};
use ocelli::{DType, Float};
use proptest::prelude::*;

/// One problem.
#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 4],
    data: Data,
    seed: u64,
    /// Elements between an aligned address and the first logit.
    shift: usize,
    params: HeatmapFocalLoss,
    upstream: f32,
}

impl Case {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn logits<T: Float>(&self) -> Vec<T> {
        let values = self.data.values(self.len(), self.seed);
        values.into_iter().map(T::from_f32).collect()
    }

    /// Mostly 0, with ones, all between, and targets that nothing defines.
    fn targets(&self) -> Vec<f32> {
        let mut random = SplitMix(self.seed ^ 1);
        let mut target = || match random.next() % 16 {
            0 => 1.0,
            1..5 => random.uniform(),
            5 => 1.0 - f32::EPSILON,
            6 => [f32::NAN, 1.5, f32::INFINITY, -0.0][random.next() as usize % 4],
            _ => 0.0,
        };
        (0..self.len()).map(|_| target()).collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        (1..3usize, size(9), size(33), size(100)).prop_map(|(b, h, w, k)| [b, h, w, k]),
        (1..4usize, 1..4usize, size(40), Just(80usize)).prop_map(|(b, h, w, k)| [b, h, w, k]),
        (1..3usize, Just(128usize), size(128), Just(2usize)).prop_map(|(b, h, w, k)| [b, h, w, k]),
    ];
    let exponents = prop_oneof![
        4 => Just((2.0f32, 4.0f32)),
        1 => (0.0..3.0f32, 0.0..5.0f32),
        1 => Just((0.0, 0.0)),
    ];
    let clamp = prop_oneof![2 => Just(0.0f32), 1 => Just(1e-4), 1 => Just(0.1)];
    let scalars = (exponents, clamp, 0.5..100.0f32, -3.0..3.0f32);
    (shape, data(), any::<u64>(), 0..9usize, scalars).prop_map(
        |(shape, data, seed, shift, ((alpha, beta), clamp, normalizer, upstream))| Case {
            shape,
            data,
            seed,
            shift,
            params: HeatmapFocalLoss {
                alpha,
                beta,
                normalizer,
                clamp,
            },
            upstream,
        },
    )
}

/// Loss alone, loss with gradient, and the gradient.
#[derive(Debug, Clone, PartialEq)]
struct Output<T> {
    forward: f32,
    loss: f32,
    gradient: Vec<T>,
}

fn run<T: Float>(target: &Target, case: &Case) -> Output<T> {
    match target {
        Target::Cpu => run_cpu(case),
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case),
    }
}

fn run_cpu<T: Float>(case: &Case) -> Output<T> {
    use ocelli::cpu::heatmap_focal_loss::heatmap_focal_loss;
    let (logits, map) = (case.logits::<T>(), case.targets());
    let guarded = Guarded::<T>::new(logits.len(), case.shift);
    let mut all = guarded.all().to_vec();
    let loss = |gradient| {
        let targets = Targets::Map(&map);
        heatmap_focal_loss(&logits, case.shape, targets, &case.params, gradient).unwrap()
    };
    let forward = loss(None);
    let loss = loss(Some((case.upstream, &mut all[guarded.range()])));
    Output {
        forward,
        loss,
        gradient: guarded.check(&all).unwrap().to_vec(),
    }
}

/// The exact result on inputs of type `T`.
fn exact<T: Float>(case: &Case) -> (f64, Vec<f64>) {
    let logits: Vec<f64> = case
        .logits::<T>()
        .iter()
        .map(|x| x.to_f32().into())
        .collect();
    let targets: Vec<f64> = case.targets().into_iter().map(f64::from).collect();
    let scalars = reference::HeatmapFocalLoss {
        alpha: case.params.alpha.into(),
        beta: case.params.beta.into(),
        normalizer: case.params.normalizer.into(),
        clamp: case.params.clamp.into(),
        upstream: case.upstream.into(),
    };
    reference::heatmap_focal_loss(&logits, &targets, &scalars)
}

/// The formula with every operation rounded to `T`, targets apart, its sum in f32.
fn naive<T: Float>(case: &Case) -> (f64, Vec<f64>) {
    let round = |x: f32| T::from_f32(x).to_f32();
    let p = &case.params;
    let scale = case.upstream / p.normalizer;
    let mut sum = 0.0f32;
    let mut gradient = Vec::new();
    for (x, target) in case.logits::<T>().iter().zip(case.targets()) {
        let positive = target == 1.0;
        if target.is_nan() || target > 1.0 {
            gradient.push(0.0);
            continue;
        }
        let z = if positive { -x.to_f32() } else { x.to_f32() };
        let wrong = round(1.0 / round(1.0 + round((-z).exp())));
        let clamped = wrong.clamp(p.clamp, 1.0 - p.clamp);
        let tail = round(round(1.0 + round((-z.abs()).exp())).ln());
        let entropy = if clamped == wrong {
            round(z.max(0.0) + tail)
        } else {
            round(-round(1.0 - clamped).ln())
        };
        let focus = round(clamped.powf(p.alpha));
        let weight = if positive {
            1.0
        } else {
            round((1.0 - target).powf(p.beta))
        };
        sum += round(weight * round(focus * entropy));
        let pull = round(p.alpha * round(round(1.0 - wrong) * entropy));
        let slope = round(weight * round(focus * round(pull + wrong)));
        let slope = if clamped == wrong { slope } else { 0.0 };
        let sign = if positive { -1.0 } else { 1.0 };
        gradient.push(f64::from(round(round(sign * slope) * scale)));
    }
    (f64::from(sum / p.normalizer), gradient)
}

/// `x`, or infinity where `T` does not reach it.
fn in_range<T: Float>(x: f64) -> f64 {
    let rounded = f64::from(T::from_f32(x as f32).to_f32());
    if rounded.is_infinite() { rounded } else { x }
}

fn check<T: Float>(target: &Target, case: &Case) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{target:?} {}: {what}: {error}", T::DTYPE))
    };
    let output = run::<T>(target, case);
    let again = run::<T>(target, case);
    bitwise(&output.gradient, &again.gradient).map_err(|error| fail("second run", &error))?;
    bitwise(&[output.loss, output.forward], &[again.loss, again.forward])
        .map_err(|error| fail("second run", &error))?;

    let (loss, gradient) = exact::<T>(case);
    let (naive_loss, naive) = naive::<T>(case);
    let values: Vec<f64> = output.gradient.iter().map(|x| x.to_f32().into()).collect();
    let gradient: Vec<f64> = gradient.into_iter().map(in_range::<T>).collect();
    let budget = Budget::new(&gradient, &naive, T::DTYPE);
    within(&values, &gradient, &budget).map_err(|error| fail("gradient", &error))?;
    let losses = [f64::from(output.loss), f64::from(output.forward)];
    let exact = [loss; 2];
    let budget = Budget::new(&exact, &[naive_loss; 2], DType::F32);
    // The kernels' functions for 16-bit logits (kernels/common/numeric.cuh).
    let relative = if T::DTYPE == DType::F32 { 0.0 } else { 2e-5 };
    let budget = budget.at_least(relative, &exact);
    within(&losses, &exact, &budget).map_err(|error| fail("loss", &error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case()) {
        for target in targets() {
            check::<f32>(target, &case)?;
            check::<f16>(target, &case)?;
            check::<bf16>(target, &case)?;
        }
    }
}
