//! Single cases: boxes beside maps, the official loss, mistakes.

use super::{Data, HeatmapFocalLoss, SplitMix, bitwise, targets};
use half::bf16;
use ocelli::ops::{
    HeatmapTargets, corner_targets, heatmap_focal_loss, heatmap_focal_loss_with_gradient,
};
use ocelli::params::{Corner, CornerTargets};
use ocelli::{DType, Device, Float, Tensor};

/// `[B, M, 4]` boxes in images of 4 pixels a cell, and classes of which some pad.
fn boxes(batch: usize, count: usize, [height, width, kinds]: [usize; 3]) -> (Vec<f32>, Vec<i32>) {
    let mut random = SplitMix(17);
    let (mut boxes, mut classes) = (Vec::new(), Vec::new());
    for _ in 0..batch * count {
        let (x, y) = (random.uniform(), random.uniform());
        let (w, h) = (random.uniform(), random.uniform());
        let (right, below) = (4.0 * width as f32 - 0.5, 4.0 * height as f32 - 0.5);
        boxes.extend([x * right, y * below]);
        boxes.extend([(x + w * (1.0 - x)) * right, (y + h * (1.0 - y)) * below]);
        classes.push((random.next() % (kinds as u64 + 1)) as i32 - 1);
    }
    (boxes, classes)
}

fn agree<T: Float>(device: &Device, shape: [usize; 4], count: usize) {
    let [batch, height, width, kinds] = shape;
    let (corners, classes) = boxes(batch, count, [height, width, kinds]);
    let corners = Tensor::from_vec(corners, &[batch, count, 4], device).unwrap();
    let classes = Tensor::from_vec(classes, &[batch, count], device).unwrap();
    let logits = Data::Spread(2.0).values(shape.iter().product(), 4);
    let logits: Vec<T> = logits.into_iter().map(T::from_f32).collect();
    let logits = Tensor::from_vec(logits, &shape, device).unwrap();
    let rule = CornerTargets::new(4 * height, 4 * width);
    let maps = corner_targets(&corners, &classes, [height, width, kinds], &rule).unwrap();
    let params = HeatmapFocalLoss::default();
    let run = |targets: &HeatmapTargets<'_>| {
        let alone = heatmap_focal_loss(&logits, targets, &params).unwrap();
        let (loss, gradient) =
            heatmap_focal_loss_with_gradient(&logits, targets, None, &params).unwrap();
        let loss = [alone, loss].map(|loss| loss.to_vec::<f32>().unwrap()[0]);
        (loss, gradient.to_vec::<T>().unwrap())
    };
    for (corner, map) in [Corner::TopLeft, Corner::BottomRight]
        .into_iter()
        .zip(&maps)
    {
        let rendered = HeatmapTargets::Boxes {
            boxes: &corners,
            classes: &classes,
            corner,
            rule,
        };
        let (from_map, gradient) = run(&HeatmapTargets::Map(&map.heat));
        let (from_boxes, same) = run(&rendered);
        bitwise(&from_map, &from_boxes).unwrap();
        bitwise(&gradient, &same).unwrap();
    }
}

#[test]
fn boxes_give_the_bits_that_their_map_gives() {
    for target in targets() {
        let device = target.device();
        for (shape, count) in [
            ([2, 33, 40, 80], 30),
            ([1, 7, 129, 3], 200),
            ([3, 16, 16, 1], 5),
            ([2, 8, 8, 8], 0),
            ([1, 1, 1, 5], 1),
        ] {
            agree::<f32>(&device, shape, count);
            agree::<bf16>(&device, shape, count);
        }
    }
}

#[test]
fn the_official_loss_agrees() {
    let bytes = include_bytes!("../../golden/corner_targets.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        bytemuck::pod_collect_to_vec(golden.tensor(name).unwrap().data())
    };
    let doubles = |name: &str| -> Vec<f64> {
        bytemuck::pod_collect_to_vec(golden.tensor(name).unwrap().data())
    };
    let shape = [2, 24, 20, 3];
    for target in targets() {
        let device = target.device();
        let logits = Tensor::from_vec(floats("logits"), &shape, &device).unwrap();
        let map = Tensor::from_vec(floats("heat_0"), &shape, &device).unwrap();
        let positives = floats("heat_0").iter().filter(|&&y| y == 1.0).count();
        let params = HeatmapFocalLoss {
            normalizer: positives as f32,
            clamp: 1e-4,
            ..Default::default()
        };
        let targets = HeatmapTargets::Map(&map);
        let (loss, gradient) =
            heatmap_focal_loss_with_gradient(&logits, &targets, None, &params).unwrap();
        let near = |ours: f32, theirs: f64| {
            let error = (f64::from(ours) - theirs).abs();
            assert!(
                error <= 5e-6 * theirs.abs() + 1e-12,
                "{ours:e} for {theirs:e}"
            );
        };
        near(loss.to_vec::<f32>().unwrap()[0], doubles("focal_loss")[0]);
        let gradient = gradient.to_vec::<f32>().unwrap();
        for (ours, theirs) in gradient.into_iter().zip(doubles("focal_gradient")) {
            near(ours, theirs);
        }
    }
}

#[test]
fn an_empty_problem_has_no_loss() {
    for target in targets() {
        let device = target.device();
        for shape in [[0, 2, 3, 4], [1, 0, 3, 4], [2, 3, 4, 0]] {
            let logits = Tensor::zeros(&shape, DType::F16, &device).unwrap();
            let map = Tensor::zeros(&shape, DType::F32, &device).unwrap();
            let targets = HeatmapTargets::Map(&map);
            let loss = heatmap_focal_loss(&logits, &targets, &Default::default()).unwrap();
            assert_eq!(loss.to_vec::<f32>().unwrap(), [0.0], "{target:?}");
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let logits = zeros(&[1, 2, 3, 4], DType::F32);
    let default = HeatmapFocalLoss::default();
    let message = |logits: &Tensor, map: &Tensor, params: HeatmapFocalLoss| {
        let loss = heatmap_focal_loss(logits, &HeatmapTargets::Map(map), &params);
        loss.unwrap_err().to_string()
    };
    let half = zeros(&[1, 2, 3, 4], DType::BF16);
    let flat = zeros(&[6, 4], DType::F32);
    let params = |change: fn(&mut HeatmapFocalLoss)| {
        let mut params = default;
        change(&mut params);
        params
    };
    let cases = [
        (
            message(&flat, &flat, default),
            "logits must be [B, H, W, K], got [6, 4]",
        ),
        (
            message(&logits, &flat, default),
            "target must be [1, 2, 3, 4], got [6, 4]",
        ),
        (
            message(&logits, &half, default),
            "target must be of type f32, got bf16",
        ),
        (
            message(&logits, &logits, params(|p| p.clamp = 0.5)),
            "clamp must be in [0, 0.5), got 0.5",
        ),
        (
            message(&logits, &logits, params(|p| p.beta = -1.0)),
            "beta must be finite and at least 0, got -1",
        ),
        (
            message(&logits, &logits, params(|p| p.normalizer = f32::NAN)),
            "normalizer must be finite and above 0, got NaN",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("heatmap_focal_loss: {expected}"));
    }
    let (boxes, classes) = (zeros(&[2, 5, 4], DType::F32), zeros(&[2, 5], DType::I32));
    let targets = HeatmapTargets::Boxes {
        boxes: &boxes,
        classes: &classes,
        corner: Corner::TopLeft,
        rule: CornerTargets::new(8, 12),
    };
    let error = heatmap_focal_loss(&logits, &targets, &default).unwrap_err();
    let expected = "heatmap_focal_loss: boxes must be [1, 5, 4], got [2, 5, 4]";
    assert_eq!(error.to_string(), expected);
}
