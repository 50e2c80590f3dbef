//! Targets of corner heatmaps: every device against the reference and the official code.

use crate::device::targets;
use ocelli::ops::{TargetMaps, corner_targets};
use ocelli::params::CornerTargets;
use ocelli::reference;
use ocelli::testing::strategy::{SplitMix, cases, size};
use ocelli::{DType, Device, Tensor};
use proptest::prelude::*;

/// Boxes inside the image, out of it, inverted, without area, and not finite.
fn boxes(count: usize, [height, width]: [usize; 2], seed: u64) -> Vec<f32> {
    let mut random = SplitMix(seed);
    let mut boxes = Vec::new();
    for _ in 0..count {
        let mut point = || {
            [
                random.uniform() * width as f32,
                random.uniform() * height as f32,
            ]
        };
        let (a, b) = (point(), point());
        let mut corners = [
            a[0].min(b[0]),
            a[1].min(b[1]),
            a[0].max(b[0]),
            a[1].max(b[1]),
        ];
        match random.next() % 12 {
            0 => corners.swap(0, 2),
            1 => corners[random.next() as usize % 4] = f32::NAN,
            2 => corners[2] = width as f32,
            3 => corners[1] = -0.5,
            4 => corners = [a[0], a[1], a[0], a[1]],
            5 => corners[3] = f32::INFINITY,
            _ => (),
        }
        boxes.extend(corners);
    }
    boxes
}

fn check(
    device: &Device,
    shape: [usize; 4],
    count: usize,
    rule: &CornerTargets,
    seed: u64,
) -> Result<(), TestCaseError> {
    let [batch, height, width, kinds] = shape;
    let corners = boxes(batch * count, [rule.input_height, rule.input_width], seed);
    let mut random = SplitMix(seed ^ 1);
    let class = |bits: u64| (bits % (kinds as u64 + 2)) as i32 - 1;
    let classes: Vec<i32> = (0..batch * count).map(|_| class(random.next())).collect();
    let on = |corners: &[f32], classes: &[i32]| {
        let corners = Tensor::from_vec(corners.to_vec(), &[batch, count, 4], device).unwrap();
        let classes = Tensor::from_vec(classes.to_vec(), &[batch, count], device).unwrap();
        corner_targets(&corners, &classes, [height, width, kinds], rule).unwrap()
    };
    let exact = reference::CornerTargets {
        shape,
        boxes: count,
        input: [rule.input_height, rule.input_width],
        gaussian_iou: rule.gaussian_iou,
    };
    let exact = reference::corner_targets(&corners, &classes, &exact);
    let again = on(&corners, &classes);
    for ((maps, exact), again) in on(&corners, &classes).iter().zip(&exact).zip(&again) {
        let heat = maps.heat.to_vec::<f32>().unwrap();
        prop_assert_eq!(&heat, &again.heat.to_vec::<f32>().unwrap());
        for (at, (&ours, &theirs)) in heat.iter().zip(&exact.heat).enumerate() {
            // The exponent is at most 9, rounded thrice, and an exponential to a few units.
            let near = (f64::from(ours) - theirs).abs() <= 3e-6 * theirs;
            prop_assert!(near, "{device} {at}: {ours:e} for {theirs:e}");
            prop_assert_eq!(ours == 1.0, theirs == 1.0);
        }
        let offsets: Vec<f32> = exact.offsets.iter().map(|&offset| offset as f32).collect();
        prop_assert_eq!(maps.offsets.to_vec::<f32>().unwrap(), offsets);
        prop_assert_eq!(&maps.indices.to_vec::<i32>().unwrap(), &exact.indices);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]
    #[test]
    fn every_device_agrees_with_the_reference(
        batch in 1..3usize,
        height in size(40),
        width in size(70),
        kinds in prop_oneof![Just(1usize), Just(3), Just(80)],
        count in prop_oneof![size(20), Just(300usize)],
        input in (1..600usize, 1..600usize),
        gaussian_iou in prop_oneof![Just(0.3f64), Just(0.7), 0.01..0.99f64],
        seed: u64,
    ) {
        let (height, width) = (height.max(1), width.max(1));
        let mut rule = CornerTargets::new(input.0, input.1);
        rule.gaussian_iou = gaussian_iou;
        for target in targets() {
            check(&target.device(), [batch, height, width, kinds], count, &rule, seed)?;
        }
    }
}

#[test]
fn the_official_code_agrees() {
    let bytes = include_bytes!("../../golden/corner_targets.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let data = |name: &str| golden.tensor(name).unwrap().data().to_vec();
    let floats = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(&data(name)) };
    let integers = |name: &str| -> Vec<i32> { bytemuck::pod_collect_to_vec(&data(name)) };
    let rule = CornerTargets::new(96, 80);
    for target in targets() {
        let device = target.device();
        let boxes = Tensor::from_vec(floats("boxes"), &[2, 12, 4], &device).unwrap();
        let classes = Tensor::from_vec(integers("classes"), &[2, 12], &device).unwrap();
        let maps = corner_targets(&boxes, &classes, [24, 20, 3], &rule).unwrap();
        for (number, maps) in maps.iter().enumerate() {
            let heat = maps.heat.to_vec::<f32>().unwrap();
            let official = floats(&format!("heat_{number}"));
            for (at, (ours, theirs)) in heat.iter().zip(official).enumerate() {
                assert!(
                    (ours - theirs).abs() <= 3e-6 * theirs,
                    "{target:?} {at}: {ours} {theirs}"
                );
            }
            let indices = maps.indices.to_vec::<i32>().unwrap();
            assert_eq!(indices, integers(&format!("indices_{number}")));
            let offsets = maps.offsets.to_vec::<f32>().unwrap();
            assert_eq!(offsets, floats(&format!("offsets_{number}")));
        }
    }
}

#[test]
fn nothing_to_render_is_no_error() {
    for target in targets() {
        let device = target.device();
        for (batch, count, heatmap) in [(0, 5, [4, 4, 2]), (2, 0, [4, 4, 2]), (1, 3, [4, 4, 0])] {
            let boxes = Tensor::zeros(&[batch, count, 4], DType::F32, &device).unwrap();
            let classes = Tensor::zeros(&[batch, count], DType::I32, &device).unwrap();
            let rule = CornerTargets::new(16, 16);
            let [TargetMaps { heat, .. }, _] =
                corner_targets(&boxes, &classes, heatmap, &rule).unwrap();
            assert!(heat.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let (boxes, classes) = (zeros(&[1, 2, 4], DType::F32), zeros(&[1, 2], DType::I32));
    let rule = CornerTargets::new(16, 16);
    let message = |boxes: &Tensor, classes: &Tensor, heatmap, rule: &CornerTargets| {
        corner_targets(boxes, classes, heatmap, rule)
            .unwrap_err()
            .to_string()
    };
    let map = [4, 4, 2];
    let iou = CornerTargets {
        gaussian_iou: f64::NAN,
        ..rule
    };
    let cases = [
        (
            message(&classes, &classes, map, &rule),
            "boxes must be [B, M, 4], got [1, 2]",
        ),
        (
            message(&boxes, &boxes, map, &rule),
            "classes must be of type i32, got f32",
        ),
        (
            message(&boxes, &classes, map, &iou),
            "gaussian_iou must be in (0, 1), got NaN",
        ),
        (
            message(&boxes, &classes, map, &CornerTargets::new(0, 16)),
            "input_height must be above 0, got 0",
        ),
        (
            message(&boxes, &classes, [4, 1 << 15, 2], &rule),
            "W must be at most 16384, got 32768",
        ),
        (
            message(
                &zeros(&[1, 1025, 4], DType::F32),
                &zeros(&[1, 1025], DType::I32),
                map,
                &rule,
            ),
            "boxes must be [B, M, 4] with M <= 1024, got 1025",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("corner_targets: {expected}"));
    }
}

/// Each heatmap is written once; boxes are read once a tile.
#[cfg(feature = "cuda")]
#[test]
fn heatmaps_are_written_once() {
    use crate::device::{Cuda, Target};
    for target in targets() {
        let Target::Cuda(
            device @ Cuda {
                simulator: Some(_), ..
            },
        ) = target
        else {
            continue;
        };
        let on = target.device();
        let corners: Vec<f32> = (0..30)
            .flat_map(|i| [8.0 * i as f32, 240.0, 8.0 * i as f32 + 20.0, 255.0])
            .collect();
        let boxes = Tensor::from_vec(corners, &[1, 30, 4], &on).unwrap();
        let classes = Tensor::from_vec((0..30).collect::<Vec<i32>>(), &[1, 30], &on).unwrap();
        device.launches();
        corner_targets(
            &boxes,
            &classes,
            [64, 64, 80],
            &CornerTargets::new(256, 256),
        )
        .unwrap();
        device.context.synchronize().unwrap();
        let launches = device.launches();
        assert_eq!(launches.len(), 3);
        for launch in &launches[1..] {
            let counters = &launch.counters;
            let moved = 32 * (counters.global_loads.sectors + counters.global_stores.sectors);
            let floor = 4 * 64 * 64 * 80;
            assert!(100 * moved <= 105 * floor, "{moved} bytes for {floor}");
        }
    }
}
