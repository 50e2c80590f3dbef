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

#[cfg(feature = "cuda")]
mod cuda {
    use super::{Case, Data, Float, Guarded, Output, Target, bitwise, targets};
    use crate::device::Cuda;
    use half::bf16;
    use ocelli::cuda::cudarc::driver::CudaSlice;
    use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    use ocelli::cuda::sigmoid_focal_loss::{Arguments, Plan, launch};
    use ocelli::cuda::{Buffer, Context, Properties};
    use ocelli::{DType, Element};

    pub fn run<T: Float>(device: &Cuda, case: &Case) -> Output<T> {
        let mut forward = Call::<T>::new(&device.context, case, false);
        forward.launch();
        let mut gradient = Call::<T>::new(&device.context, case, true);
        gradient.launch();
        device.launches();
        let (loss, gradient) = gradient.results();
        Output {
            forward: forward.results().0,
            loss,
            gradient,
        }
    }

    /// Guarded buffers of a call, on the host as they were and on the device.
    struct Call<'a, T> {
        case: &'a Case,
        context: Context,
        plan: Plan,
        logits: (Guarded<T>, Buffer),
        labels: (Guarded<i32>, Buffer),
        upstream: Buffer,
        loss: (Guarded<f32>, Buffer),
        gradient: Option<(Guarded<T>, Buffer)>,
        workspace: CudaSlice<u8>,
    }

    impl<'a, T: Float> Call<'a, T> {
        fn new(context: &Context, case: &'a Case, with_gradient: bool) -> Self {
            let Case {
                rows,
                classes,
                shift,
                ..
            } = *case;
            let gpu = context.properties();
            let plan = Plan::new(gpu, rows, classes, T::DTYPE, with_gradient).unwrap();
            // Whatever the workspace holds must not matter.
            let workspace = vec![0xff; plan.workspace_bytes()];
            // An output may be aligned otherwise than the input.
            let gradient = Guarded::new(rows * classes, shift / 2);
            Self {
                case,
                context: context.clone(),
                logits: on_device(context, Guarded::holding(&case.logits(), shift)),
                labels: on_device(context, Guarded::holding(&case.labels(), shift)),
                upstream: Buffer::from_slice(context, &[case.upstream]).unwrap(),
                loss: on_device(context, Guarded::new(1, shift)),
                gradient: with_gradient.then(|| on_device(context, gradient)),
                workspace: context.stream().clone_htod(&workspace).unwrap(),
                plan,
            }
        }

        fn launch(&mut self) {
            let mut loss = self.loss.1.view_mut().unwrap();
            let mut gradient = self
                .gradient
                .as_mut()
                .map(|(host, buffer)| (host.range(), buffer.view_mut().unwrap()));
            let mut arguments = Arguments::<T> {
                logits: self.logits.1.view().unwrap().slice(self.logits.0.range()),
                labels: self.labels.1.view().unwrap().slice(self.labels.0.range()),
                upstream: gradient.is_some().then(|| self.upstream.view().unwrap()),
                loss: loss.slice_mut(self.loss.0.range()),
                gradient: gradient
                    .as_mut()
                    .map(|(range, view)| view.slice_mut(range.clone())),
                workspace: self.workspace.as_view_mut(),
            };
            launch(&self.context, &self.plan, &self.case.params, &mut arguments).unwrap();
        }

        fn results(&self) -> (f32, Vec<T>) {
            let loss = self.loss.1.to_vec().unwrap();
            let gradient = self
                .gradient
                .as_ref()
                .map_or_else(Vec::new, |(host, buffer)| {
                    host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
                });
            (self.loss.0.check(&loss).unwrap()[0], gradient)
        }
    }

    fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> (Guarded<T>, Buffer) {
        let buffer = Buffer::from_slice(context, host.all()).unwrap();
        (host, buffer)
    }

    fn retinanet(rows: usize) -> Case {
        let (data, params) = (Data::Spread(2.0), Default::default());
        Case {
            rows,
            classes: 80,
            data,
            seed: 5,
            positives: 50,
            shift: 0,
            params,
            upstream: 2.0,
        }
    }

    #[test]
    fn a_graph_replays_the_op() {
        for target in targets() {
            let Target::Cuda(device) = target else {
                continue;
            };
            let case = retinanet(300);
            let expected = run::<bf16>(device, &case);
            device.context.preload().unwrap();
            let mut call = Call::<bf16>::new(&device.context, &case, true);
            let stream = device.context.stream();
            stream
                .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                .unwrap();
            call.launch();
            let graph = stream
                .end_capture(CUgraphInstantiate_flags(0))
                .unwrap()
                .unwrap();
            assert!(call.results().0.is_nan(), "captured, not run");
            graph.launch().unwrap();
            let (loss, gradient) = call.results();
            device.launches();
            assert_eq!(loss, expected.loss);
            bitwise(&gradient, &expected.gradient).unwrap();
        }
    }

    #[test]
    fn only_logits_gradients_and_labels_are_moved() {
        for target in targets() {
            let Target::Cuda(
                device @ Cuda {
                    simulator: Some(_), ..
                },
            ) = target
            else {
                continue;
            };
            let case = retinanet(2000);
            for with_gradient in [false, true] {
                let mut call = Call::<bf16>::new(&device.context, &case, with_gradient);
                device.launches();
                call.launch();
                call.context.synchronize().unwrap();
                let pass = device.launches()[0].counters;
                let elements = 2000 * 80 * 2;
                let labels = 2000 * 4;
                // A label is asked for once by each thread that holds a part of its row, ten, and once more as the
                // row after the last; all but the first find it in the cache.
                let label_sectors = 2 * 10 * labels / 4;
                assert_eq!(pass.global_loads.bytes / elements, 1);
                assert!(pass.global_loads.sectors * 32 <= elements + 32 * label_sectors);
                let written = if with_gradient { elements } else { 0 };
                assert!(
                    pass.global_stores.sectors * 32 <= written + 32 * 2000,
                    "{pass:?}"
                );
            }
        }
    }

    #[test]
    fn a_plan_says_what_it_does_and_why() {
        let gpu = Properties::new((9, 0), 132, 227 * 1024);
        let plan = Plan::new(&gpu, 201_600, 80, DType::BF16, true).unwrap();
        assert_eq!(
            plan.to_string(),
            "sigmoid_focal_loss [201600, 80] bf16: 65318400 bytes at least\n  \
             sigmoid_focal_loss_gradient_bf16 <<<[660, 1, 1], [256, 1, 1], 0 B>>>: 56 rows a tile (2 vectors a thread, \
             8 rows keep 16-byte alignment), at most 5 blocks a multiprocessor (registers)\n  \
             sigmoid_focal_loss_finish_f32 <<<[1, 1, 1], [256, 1, 1], 0 B>>>: one block, so that the order of the sum is fixed"
        );
        assert_eq!(plan.workspace_bytes(), 5376);
        assert!(Plan::new(&gpu, 1, 1 << 28, DType::F32, false).is_err());
        assert!(Plan::new(&gpu, usize::MAX, 2, DType::F32, false).is_err());
        assert!(Plan::new(&gpu, 1, 1, DType::I32, false).is_err());
    }

    #[test]
    fn buffers_that_do_not_fit_the_plan_are_errors() {
        for target in targets() {
            let Target::Cuda(device) = target else {
                continue;
            };
            let (small, large) = (retinanet(3), retinanet(4));
            let mut call = Call::<f32>::new(&device.context, &small, true);
            let plan = |case: &Case, gradient| {
                let gpu = device.context.properties();
                Plan::new(gpu, case.rows, case.classes, DType::F32, gradient).unwrap()
            };
            for (wrong, message) in [
                (plan(&large, true), "logits must be 320 elements, got 240"),
                (plan(&small, false), "gradient must be 0 elements, got 240"),
            ] {
                let gradient = call.gradient.as_mut().unwrap();
                let range = gradient.0.range();
                let mut gradient = gradient.1.view_mut().unwrap();
                let mut loss = call.loss.1.view_mut().unwrap();
                let mut arguments = Arguments::<f32> {
                    logits: call.logits.1.view().unwrap().slice(call.logits.0.range()),
                    labels: call.labels.1.view().unwrap().slice(call.labels.0.range()),
                    upstream: None,
                    loss: loss.slice_mut(call.loss.0.range()),
                    gradient: Some(gradient.slice_mut(range)),
                    workspace: call.workspace.as_view_mut(),
                };
                let error = launch(&device.context, &wrong, &small.params, &mut arguments);
                let text = error.unwrap_err().to_string();
                assert_eq!(text, format!("sigmoid_focal_loss: {message}"));
            }
        }
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
