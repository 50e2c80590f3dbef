//! Golden vectors, and what mistakes are answered with.

use crate::device::targets;
use ocelli::ops::{BoxTargets, anchor_box_loss, anchor_box_loss_with_gradient};
use ocelli::params::{AnchorBoxLoss, Anchors, BoxLoss};
use ocelli::{DType, Device, Tensor, reference};
use safetensors::SafeTensors;

fn near(actual: f64, exact: f64, tolerance: f64) {
    assert!(
        (actual - exact).abs() <= tolerance * (1.0 + exact.abs()),
        "{actual:e} for {exact:e}"
    );
}

#[test]
fn torchvision_agrees() {
    let bytes = include_bytes!("../../golden/anchor_box_loss.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    let anchors = Anchors::torchvision([100, 150], &[[5, 6], [3, 3]]).unwrap();
    let (first, all) = (anchors.levels()[0].count(), anchors.count());
    let kinds = [
        BoxLoss::L1,
        BoxLoss::SmoothL1 { beta: 0.3 },
        BoxLoss::Giou,
        BoxLoss::Giou,
    ];
    for (case, kind) in kinds.into_iter().enumerate() {
        let data = |name: &str| golden.tensor(&format!("{name}_{case}")).unwrap();
        let boxes: Vec<f32> = bytemuck::pod_collect_to_vec(data("boxes").data());
        let deltas: Vec<f32> = bytemuck::pod_collect_to_vec(data("deltas").data());
        let matched: Vec<i32> = bytemuck::pod_collect_to_vec(data("matched").data());
        let loss: Vec<f64> = bytemuck::pod_collect_to_vec(data("loss").data());
        let gradient: Vec<f64> = bytemuck::pod_collect_to_vec(data("gradient").data());
        let counts: Vec<i32> = matched
            .chunks(all)
            .map(|row| row.iter().filter(|&&i| i >= 0).count() as i32)
            .collect();
        by_reference(
            &anchors,
            kind,
            [&boxes, &deltas],
            &matched,
            &counts,
            loss[0],
            &gradient,
        );

        // Of both images, one level.
        let level = |values: &[f32], range: std::ops::Range<usize>| -> Vec<f32> {
            values
                .chunks(4 * all)
                .flat_map(|row| row[4 * range.start..4 * range.end].to_vec())
                .collect()
        };
        let slopes: Vec<f32> = gradient.iter().map(|&x| x as f32).collect();
        let params = AnchorBoxLoss {
            loss: kind,
            normalizer: 2.0,
        };
        for target in targets() {
            let device = target.device();
            let tensor = |values: &[f32], shape: &[usize]| {
                Tensor::from_vec(values.to_vec(), shape, &device).unwrap()
            };
            let deltas = [
                tensor(&level(&deltas, 0..first), &[2, 5, 6, 36]),
                tensor(&level(&deltas, first..all), &[2, 3, 3, 36]),
            ];
            let matched = Tensor::from_vec(matched.clone(), &[2, all], &device).unwrap();
            let counts = Tensor::from_vec(counts.clone(), &[2], &device).unwrap();
            let targets = BoxTargets {
                boxes: &tensor(&boxes, &[2, 6, 4]),
                matched: &matched,
                foreground: Some(&counts),
            };
            let (value, gradients) =
                anchor_box_loss_with_gradient(&deltas, &targets, &anchors, None, &params).unwrap();
            near(value.to_vec::<f32>().unwrap()[0].into(), loss[0], 2e-6);
            for (range, ours) in [(0..first, &gradients[0]), (first..all, &gradients[1])] {
                let ours = ours.to_vec::<f32>().unwrap();
                for (ours, theirs) in ours.iter().zip(level(&slopes, range)) {
                    near((*ours).into(), theirs.into(), 1e-5);
                }
            }
        }
    }
}

/// The reference in double precision, as torchvision ran.
fn by_reference(
    anchors: &Anchors,
    kind: BoxLoss,
    [boxes, deltas]: [&[f32]; 2],
    matched: &[i32],
    counts: &[i32],
    loss: f64,
    gradient: &[f64],
) {
    let kind = match kind {
        BoxLoss::L1 => reference::BoxLoss::SmoothL1 { beta: 0.0 },
        // The scalar of the script in double precision.
        BoxLoss::SmoothL1 { .. } => reference::BoxLoss::SmoothL1 { beta: 0.3 },
        BoxLoss::Giou => reference::BoxLoss::Giou,
    };
    let corners = |values: &[f32], i: usize| [0, 1, 2, 3].map(|j| f64::from(values[4 * i + j]));
    let shapes: Vec<[f32; 4]> = anchors
        .levels()
        .iter()
        .flat_map(|level| (0..level.count()).map(|i| level.anchor(i)))
        .collect();
    let mut sum = 0.0;
    for (row, &index) in matched.iter().enumerate() {
        let image = row / shapes.len();
        let theirs = &gradient[4 * row..4 * row + 4];
        if index < 0 {
            assert_eq!(theirs, [0.0; 4]);
            continue;
        }
        let anchor = shapes[row % shapes.len()].map(f64::from);
        let target = corners(boxes, 6 * image + index as usize);
        let (value, slope) = reference::box_loss(anchor, corners(deltas, row), target, kind);
        let scale = 1.0 / (2.0 * f64::from(counts[image]));
        sum += value * scale;
        slope
            .iter()
            .zip(theirs)
            .for_each(|(ours, theirs)| near(ours * scale, *theirs, 1e-12));
    }
    near(sum, loss, 1e-12);
}

#[test]
fn nothing_matched_has_no_loss() {
    let anchors = Anchors::torchvision([8, 8], &[[1, 1]]).unwrap();
    for target in targets() {
        let device = target.device();
        for (images, boxes) in [(0, 3), (2, 0), (2, 3)] {
            let deltas = [Tensor::zeros(&[images, 1, 1, 36], DType::F16, &device).unwrap()];
            let targets = BoxTargets {
                boxes: &Tensor::zeros(&[images, boxes, 4], DType::F32, &device).unwrap(),
                matched: &Tensor::from_vec(vec![-1; 9 * images], &[images, 9], &device).unwrap(),
                foreground: None,
            };
            let params = AnchorBoxLoss::default();
            let (loss, gradients) =
                anchor_box_loss_with_gradient(&deltas, &targets, &anchors, None, &params).unwrap();
            assert_eq!(loss.to_vec::<f32>().unwrap(), [0.0]);
            let zeros = vec![half::f16::ZERO; 36 * images];
            assert_eq!(gradients[0].to_vec::<half::f16>().unwrap(), zeros);
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let anchors = Anchors::torchvision([8, 8], &[[1, 1]]).unwrap();
    let deltas = [zeros(&[1, 1, 1, 36], DType::F32)];
    let (boxes, matched) = (zeros(&[1, 2, 4], DType::F32), zeros(&[1, 9], DType::I32));
    let count = zeros(&[1], DType::I32);
    let default = AnchorBoxLoss::default();
    let message = |deltas: &[Tensor], boxes, matched, params| {
        let targets = BoxTargets {
            boxes,
            matched,
            foreground: Some(&count),
        };
        anchor_box_loss(deltas, &targets, &anchors, &params)
            .unwrap_err()
            .to_string()
    };
    let integers = [zeros(&[1, 1, 1, 36], DType::I32)];
    let cases = [
        (
            message(&[], &boxes, &matched, default),
            "deltas must be 1 levels, as the anchors have, got 0",
        ),
        (
            message(&integers, &boxes, &matched, default),
            "deltas must be of type f32, f16 or bf16, got i32",
        ),
        (
            message(&deltas, &matched, &matched, default),
            "boxes must be [B, M, 4], got [1, 9]",
        ),
        (
            message(&deltas, &boxes, &count, default),
            "matched must be [1, 9], got [1]",
        ),
        (
            message(
                &deltas,
                &boxes,
                &matched,
                AnchorBoxLoss {
                    normalizer: 0.0,
                    ..default
                },
            ),
            "normalizer must be finite and above 0, got 0",
        ),
        (
            message(
                &deltas,
                &boxes,
                &matched,
                AnchorBoxLoss {
                    loss: BoxLoss::SmoothL1 { beta: -1.0 },
                    ..default
                },
            ),
            "beta must be finite and at least 0, got -1",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("anchor_box_loss: {expected}"));
    }
}
