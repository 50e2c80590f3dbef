//! Sigmoid focal loss: every device against the reference.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::params::SigmoidFocalLoss;
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
    rows: usize,
    classes: usize,
    data: Data,
    seed: u64,
    /// One label in so many is a class; 0 for background alone.
    positives: u64,
    /// Elements between an aligned address and the first logit.
    shift: usize,
    params: SigmoidFocalLoss,
    upstream: f32,
}

impl Case {
    fn logits<T: Float>(&self) -> Vec<T> {
        let values = self.data.values(self.rows * self.classes, self.seed);
        values.into_iter().map(T::from_f32).collect()
    }

    /// Background and classes, with ignored rows and labels that nothing defines among them.
    fn labels(&self) -> Vec<i32> {
        let mut random = SplitMix(self.seed ^ 1);
        let classes = self.classes as i32;
        let odd = [-2, -3, classes, classes + 7, i32::MIN, i32::MAX];
        let mut label = || match random.next() {
            bits if self.positives > 0 && bits % self.positives == 0 => {
                (random.next() % self.classes.max(1) as u64) as i32
            }
            bits if bits % 11 == 1 => odd[random.next() as usize % odd.len()],
            _ => -1,
        };
        (0..self.rows).map(|_| label()).collect()
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        (size(700), Just(80usize)),
        (size(300), 0..20usize),
        (size(60), size(600)),
        (size(9), size(9000)),
    ];
    let gamma = prop_oneof![4 => Just(2.0f32), 1 => Just(0.0f32), 1 => Just(1.5f32)];
    let smoothing = prop_oneof![4 => Just(0.0f32), 1 => Just(0.1f32)];
    let scalars = (gamma, smoothing, 0.0..=1.0f32, 0.5..100.0f32, -3.0..3.0f32);
    let labels = prop_oneof![Just(0u64), Just(2), Just(50)];
    (shape, data(), any::<u64>(), labels, 0..9usize, scalars).prop_map(
        |((rows, classes), data, seed, positives, shift, scalars)| {
            let (gamma, label_smoothing, alpha, normalizer, upstream) = scalars;
            let smooth = label_smoothing > 0.0;
            // With smoothing, infinite logits have no defined result.
            let data = if smooth && data == Data::Special {
                Data::Spread(60.0)
            } else {
                data
            };
            let params = SigmoidFocalLoss {
                alpha,
                gamma,
                label_smoothing,
                normalizer,
            };
            Case {
                rows,
                classes,
                data,
                seed,
                positives,
                shift,
                params,
                upstream,
            }
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
    use ocelli::cpu::sigmoid_focal_loss::{forward, forward_backward};
    let logits = Guarded::holding(&case.logits::<T>(), case.shift);
    let logits = &logits.all()[logits.range()];
    let labels = case.labels();
    let guarded = Guarded::<T>::new(logits.len(), case.shift);
    let mut all = guarded.all().to_vec();
    let gradient = &mut all[guarded.range()];
    let (classes, params) = (case.classes, &case.params);
    let loss = forward_backward(logits, &labels, classes, params, case.upstream, gradient).unwrap();
    let forward = forward(logits, &labels, classes, params).unwrap();
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
        .map(|x| f64::from(x.to_f32()))
        .collect();
    let scalars = reference::SigmoidFocalLoss {
        alpha: case.params.alpha.into(),
        gamma: case.params.gamma.into(),
        label_smoothing: case.params.label_smoothing.into(),
        normalizer: case.params.normalizer.into(),
        upstream: case.upstream.into(),
    };
    reference::sigmoid_focal_loss(&logits, &case.labels(), case.classes, &scalars)
}

/// torchvision's formula with every operation rounded to `T`, its sum in f32.
struct Naive {
    loss: f64,
    gradient: Vec<f64>,
    /// Terms of each gradient without their signs: smoothing makes them cancel.
    terms: Vec<f64>,
}

fn naive<T: Float>(case: &Case) -> Naive {
    let round = |x: f32| T::from_f32(x).to_f32();
    let p = &case.params;
    let mut sum = 0.0f32;
    let (mut gradient, mut terms) = (Vec::new(), Vec::new());
    for (row, label) in case
        .logits::<T>()
        .chunks(case.classes.max(1))
        .zip(case.labels())
    {
        for (class, x) in row.iter().enumerate() {
            if label < -1 || label >= case.classes as i32 {
                gradient.push(0.0);
                terms.push(0.0);
                continue;
            }
            let x = x.to_f32();
            let positive = label == class as i32;
            let smoothed = p.label_smoothing / 2.0;
            let target = if positive { 1.0 - smoothed } else { smoothed };
            let probability = round(1.0 / round(1.0 + round((-x).exp())));
            let tail = round(round(1.0 + round((-x.abs()).exp())).ln());
            let entropy = round(round(x.max(0.0) - round(x * target)) + tail);
            let right = if positive {
                probability
            } else {
                round(1.0 - probability)
            };
            let wrong = round(1.0 - right);
            let focus = round(wrong.powf(p.gamma));
            let weight = if positive { p.alpha } else { 1.0 - p.alpha };
            sum += round(weight * round(focus * entropy));
            let sign = if positive { -1.0 } else { 1.0 };
            let pull = round(p.gamma * round(round(focus * right) * entropy));
            let push = round(focus * round(wrong - smoothed));
            let slope = round(round(weight * round(pull + push)) * sign);
            let scale = case.upstream / p.normalizer;
            gradient.push(f64::from(round(slope * scale)));
            terms.push(f64::from(
                weight * (pull + focus * (wrong + smoothed)) * scale,
            ));
        }
    }
    Naive {
        loss: f64::from(sum / p.normalizer),
        gradient,
        terms,
    }
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
    let naive = naive::<T>(case);
    let values: Vec<f64> = output
        .gradient
        .iter()
        .map(|x| f64::from(x.to_f32()))
        .collect();
    let gradient: Vec<f64> = gradient.into_iter().map(in_range::<T>).collect();
    let budget = Budget::of_sums(&gradient, &naive.terms, &naive.gradient, T::DTYPE);
    within(&values, &gradient, &budget).map_err(|error| fail("gradient", &error))?;
    let losses = [f64::from(output.loss), f64::from(output.forward)];
    let exact = [loss; 2];
    let budget = Budget::new(&exact, &[naive.loss; 2], DType::F32);
    // The kernels' functions for 16-bit logits (kernels/common/numeric.cuh).
    let relative = if T::DTYPE == DType::F32 { 0.0 } else { 2e-5 };
    let budget = budget.at_least(relative, &exact);
    within(&losses, &exact, &budget).map_err(|error| fail("loss", &error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case()) {
        for target in targets() {
            check::<f32>(target, &case)?;
            check::<f16>(target, &case)?;
            check::<bf16>(target, &case)?;
        }
    }
}
