//! Sigmoid focal loss: every device against the reference.

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::ops::{sigmoid_focal_loss, sigmoid_focal_loss_with_gradient};
use ocelli::params::SigmoidFocalLoss;
use ocelli::reference;
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, SplitMix, cases, data, size};
use ocelli::{DType, Device, Float, Tensor};
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
        Target::Cuda(context) => cuda::run(context, case),
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

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Case, Float, Guarded, Output};
    use ocelli::cuda::sigmoid_focal_loss::{Arguments, Plan, launch};
    use ocelli::cuda::{Buffer, Context};

    pub fn run<T: Float>(context: &Context, case: &Case) -> Output<T> {
        let (forward, _) = pass::<T>(context, case, false);
        let (loss, gradient) = pass(context, case, true);
        Output {
            forward,
            loss,
            gradient,
        }
    }

    fn pass<T: Float>(context: &Context, case: &Case, with_gradient: bool) -> (f32, Vec<T>) {
        let logits = Guarded::holding(&case.logits::<T>(), case.shift);
        let labels = Guarded::holding(&case.labels(), case.shift);
        let loss = Guarded::<f32>::new(1, case.shift);
        let elements = case.rows * case.classes;
        // An output may be aligned otherwise than the input.
        let gradient = Guarded::<T>::new(elements, case.shift / 2);
        let plan = Plan::new(
            context.properties(),
            case.rows,
            case.classes,
            T::DTYPE,
            with_gradient,
        )
        .unwrap();

        let device_logits = Buffer::from_slice(context, logits.all()).unwrap();
        let device_labels = Buffer::from_slice(context, labels.all()).unwrap();
        let upstream = Buffer::from_slice(context, &[case.upstream]).unwrap();
        let mut device_loss = Buffer::from_slice(context, loss.all()).unwrap();
        let mut device_gradient = Buffer::from_slice(context, gradient.all()).unwrap();
        let mut workspace = context
            .stream()
            .clone_htod(&vec![0xff; plan.workspace_bytes()])
            .unwrap();

        let mut loss_view = device_loss.view_mut::<f32>().unwrap();
        let mut gradient_view = device_gradient.view_mut::<T>().unwrap();
        let mut arguments = Arguments {
            logits: device_logits.view::<T>().unwrap().slice(logits.range()),
            labels: device_labels.view::<i32>().unwrap().slice(labels.range()),
            upstream: with_gradient.then(|| upstream.view().unwrap()),
            loss: loss_view.slice_mut(loss.range()),
            gradient: with_gradient.then(|| gradient_view.slice_mut(gradient.range())),
            workspace: workspace.as_view_mut(),
        };
        launch(context, &plan, &case.params, &mut arguments).unwrap();

        let all = device_loss.to_vec().unwrap();
        let all_gradient = device_gradient.to_vec().unwrap();
        (
            loss.check(&all).unwrap()[0],
            gradient.check(&all_gradient).unwrap().to_vec(),
        )
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
fn naive<T: Float>(case: &Case) -> (f64, Vec<f64>) {
    let round = |x: f32| T::from_f32(x).to_f32();
    let p = &case.params;
    let mut sum = 0.0f32;
    let mut gradient = Vec::new();
    for (row, label) in case
        .logits::<T>()
        .chunks(case.classes.max(1))
        .zip(case.labels())
    {
        for (class, x) in row.iter().enumerate() {
            if label < -1 || label >= case.classes as i32 {
                gradient.push(0.0);
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
            gradient.push(f64::from(round(slope * (case.upstream / p.normalizer))));
        }
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
    let (naive_loss, naive_gradient) = naive::<T>(case);
    let values: Vec<f64> = output
        .gradient
        .iter()
        .map(|x| f64::from(x.to_f32()))
        .collect();
    let gradient: Vec<f64> = gradient.into_iter().map(in_range::<T>).collect();
    within(
        &values,
        &gradient,
        &Budget::new(&gradient, &naive_gradient, T::DTYPE),
    )
    .map_err(|error| fail("gradient", &error))?;
    let losses = [f64::from(output.loss), f64::from(output.forward)];
    let budget = Budget::new(&[loss; 2], &[naive_loss; 2], DType::F32);
    within(&losses, &[loss; 2], &budget).map_err(|error| fail("loss", &error))
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

/// A vector of logits with these labels and scalars, without the margins of a property.
fn small(
    target: &Target,
    logits: &[f32],
    labels: &[i32],
    params: SigmoidFocalLoss,
) -> (f32, Vec<f32>) {
    let classes = logits.len() / labels.len();
    let device = target.device();
    let tensor = Tensor::from_vec(logits.to_vec(), &[labels.len(), classes], &device).unwrap();
    let labels = Tensor::from_vec(labels.to_vec(), &[labels.len()], &device).unwrap();
    let (loss, gradient) =
        sigmoid_focal_loss_with_gradient(&tensor, &labels, None, &params).unwrap();
    (loss.to_vec().unwrap()[0], gradient.to_vec().unwrap())
}

#[test]
fn both_tails_are_exact_where_a_clamped_logarithm_fails() {
    // No focusing and even weights leave half the cross-entropy: 50 for a confident wrong answer at 100.
    let params = SigmoidFocalLoss {
        alpha: 0.5,
        gamma: 0.0,
        ..Default::default()
    };
    for target in targets() {
        for (x, label) in [(100.0, -1), (-100.0, 0)] {
            let (loss, gradient) = small(target, &[x], &[label], params);
            assert_eq!((loss, gradient[0].abs()), (50.0, 0.5), "{target:?}");
        }
        let (loss, _) = small(target, &[-80.0], &[-1], params);
        let exact = 0.5 * (-80f64).exp();
        assert!(
            (f64::from(loss) / exact - 1.0).abs() < 1e-5,
            "{target:?}: {loss:e} {exact:e}"
        );
    }
    let clamped = |x: f32| -0.5 * (1.0 - 1.0 / (1.0 + (-x).exp())).max(f32::MIN_POSITIVE).ln();
    assert!(
        (clamped(100.0) - 50.0).abs() > 6.0,
        "the clamp hides the tail: {}",
        clamped(100.0)
    );
    assert_eq!(clamped(-80.0), 0.0, "1 - p rounds to 1");
}

#[test]
fn torchvision_agrees() {
    let bytes = include_bytes!("../golden/sigmoid_focal_loss.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let data = |name: &str, case: usize| golden.tensor(&format!("{name}_{case}")).unwrap();
    for case in 0..5 {
        let logits: Vec<f32> = bytemuck::pod_collect_to_vec(data("logits", case).data());
        let labels: Vec<i32> = bytemuck::pod_collect_to_vec(data("labels", case).data());
        let scalars: Vec<f32> = bytemuck::pod_collect_to_vec(data("scalars", case).data());
        let loss: Vec<f64> = bytemuck::pod_collect_to_vec(data("loss", case).data());
        let gradient: Vec<f64> = bytemuck::pod_collect_to_vec(data("gradient", case).data());
        let exact = reference::SigmoidFocalLoss {
            alpha: scalars[0].into(),
            gamma: scalars[1].into(),
            label_smoothing: 0.0,
            normalizer: 1.0,
            upstream: 1.0,
        };
        let wide: Vec<f64> = logits.iter().copied().map(f64::from).collect();
        let (of_reference, slopes) =
            reference::sigmoid_focal_loss(&wide, &labels, logits.len() / labels.len(), &exact);
        near(of_reference, loss[0], 1e-12);
        slopes
            .iter()
            .zip(&gradient)
            .for_each(|(&ours, &theirs)| near(ours, theirs, 1e-10));

        let params = SigmoidFocalLoss {
            alpha: scalars[0],
            gamma: scalars[1],
            ..Default::default()
        };
        for target in targets() {
            let (of_device, slopes) = small(target, &logits, &labels, params);
            near(of_device.into(), loss[0], 3e-6);
            slopes
                .iter()
                .zip(&gradient)
                .for_each(|(&ours, &theirs)| near(ours.into(), theirs, 3e-6));
        }
    }
}

/// Relative, but for 1e-15: torchvision takes the probability of the wrong answer as a difference from 1.
fn near(actual: f64, exact: f64, tolerance: f64) {
    let error = (actual - exact).abs();
    assert!(
        error <= tolerance * exact.abs() + 1e-15,
        "{actual:e} for {exact:e}"
    );
}

#[test]
fn an_empty_problem_has_no_loss() {
    for target in targets() {
        let device = target.device();
        for shape in [[0, 5], [3, 0]] {
            let logits = Tensor::zeros(&shape, DType::BF16, &device).unwrap();
            let labels = Tensor::zeros(&shape[..1], DType::I32, &device).unwrap();
            let loss = sigmoid_focal_loss(&logits, &labels, &Default::default()).unwrap();
            assert_eq!(loss.to_vec::<f32>().unwrap(), [0.0], "{target:?}");
        }
    }
}

#[test]
fn an_upstream_scalar_scales_the_gradient_alone() {
    for target in targets() {
        let device = target.device();
        let logits = Tensor::from_vec(vec![1.0f32, -2.0, 0.5, 3.0], &[1, 2, 2], &device).unwrap();
        let labels = Tensor::from_vec(vec![0i32, -1], &[1, 2], &device).unwrap();
        let upstream = Tensor::from_vec(vec![-4.0f32], &[1], &device).unwrap();
        let params = SigmoidFocalLoss::default();
        let run = |upstream| {
            let (loss, gradient) =
                sigmoid_focal_loss_with_gradient(&logits, &labels, upstream, &params).unwrap();
            assert_eq!(gradient.shape(), [1, 2, 2]);
            (
                loss.to_vec::<f32>().unwrap(),
                gradient.to_vec::<f32>().unwrap(),
            )
        };
        let ((loss, gradient), (same, scaled)) = (run(None), run(Some(&upstream)));
        assert_eq!(loss, same);
        // A power of two scales without rounding.
        assert_eq!(
            gradient.iter().map(|x| -4.0 * x).collect::<Vec<_>>(),
            scaled,
            "{target:?}"
        );
    }
}

#[test]
fn mistakes_are_named() {
    let cpu = Device::Cpu;
    let logits = Tensor::zeros(&[2, 3], DType::F32, &cpu).unwrap();
    let labels = Tensor::zeros(&[2], DType::I32, &cpu).unwrap();
    let integers = Tensor::zeros(&[2, 3], DType::I32, &cpu).unwrap();
    let scalar = Tensor::zeros(&[], DType::F32, &cpu).unwrap();
    let default = SigmoidFocalLoss::default();
    let message = |logits, labels, params: SigmoidFocalLoss| {
        sigmoid_focal_loss(logits, labels, &params)
            .unwrap_err()
            .to_string()
    };
    let cases = [
        (
            message(&logits, &logits, default),
            "labels must be of type i32, got f32",
        ),
        (
            message(&integers, &labels, default),
            "logits must be of type f32, f16 or bf16, got i32",
        ),
        (
            message(&scalar, &labels, default),
            "logits must be [.., K], got []",
        ),
        (
            message(&labels, &labels, default),
            "labels must be [] or [1], got [2]",
        ),
        (
            message(
                &logits,
                &labels,
                SigmoidFocalLoss {
                    normalizer: 0.0,
                    ..default
                },
            ),
            "normalizer must be finite and above 0, got 0",
        ),
        (
            message(
                &logits,
                &labels,
                SigmoidFocalLoss {
                    label_smoothing: 1.0,
                    ..default
                },
            ),
            "label_smoothing must be in [0, 1), got 1",
        ),
        (
            message(
                &logits,
                &labels,
                SigmoidFocalLoss {
                    gamma: f32::NAN,
                    ..default
                },
            ),
            "gamma must be finite and at least 0, got NaN",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("sigmoid_focal_loss: {expected}"));
    }
    let wrong = sigmoid_focal_loss_with_gradient(&logits, &labels, Some(&logits), &default);
    let text = wrong.unwrap_err().to_string();
    assert_eq!(text, "sigmoid_focal_loss: upstream must be [1], got [2, 3]");
}
