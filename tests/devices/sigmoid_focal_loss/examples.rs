//! Single cases: tails, torchvision's results, empty problems, mistakes.

use super::{SigmoidFocalLoss, Target, reference, targets};
use ocelli::ops::{sigmoid_focal_loss, sigmoid_focal_loss_with_gradient};
use ocelli::{DType, Device, Tensor};

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
    // No focusing and even weights leave half the cross-entropy: 50 for a confident wrong answer at
    // 100.
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
    let bytes = include_bytes!("../../golden/sigmoid_focal_loss.safetensors");
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

/// Relative, but for 1e-15: torchvision takes the probability of the wrong answer as a difference
/// from 1.
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
