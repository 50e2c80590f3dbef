//! Golden vectors, and what mistakes are answered with.

use crate::device::targets;
use ocelli::ops::{anchor_decode, nms};
use ocelli::params::{AnchorDecode, Anchors, Nms};
use ocelli::{DType, Device, Tensor, reference};
use safetensors::SafeTensors;

fn golden() -> SafeTensors<'static> {
    SafeTensors::deserialize(include_bytes!("../../golden/anchor_decode.safetensors")).unwrap()
}

fn values<T: bytemuck::Pod>(name: &str) -> Vec<T> {
    bytemuck::pod_collect_to_vec(golden().tensor(name).unwrap().data())
}

fn grids(case: usize) -> Vec<[usize; 2]> {
    let grids = values::<[i32; 2]>(&format!("grids_{case}"));
    grids
        .into_iter()
        .map(|grid| grid.map(|side| side as usize))
        .collect()
}

/// The pyramid of a case, 9 anchors a cell.
fn pyramid(case: usize) -> Anchors {
    let scalars = values::<f32>(&format!("scalars_{case}"));
    let image = [scalars[0] as usize, scalars[1] as usize];
    let make = if case == 2 {
        Anchors::detectron2
    } else {
        Anchors::torchvision
    };
    make(image, &grids(case)).unwrap()
}

#[test]
fn anchors_are_torchvisions_and_detectron2s() {
    for case in 0..3 {
        let anchors = pyramid(case);
        for (number, level) in anchors.levels().iter().enumerate() {
            let made: Vec<[f32; 4]> = (0..level.count()).map(|i| level.anchor(i)).collect();
            let defined = if case == 2 {
                reference::anchors_detectron2(level.grid, number as u32)
            } else {
                reference::anchors_torchvision(anchors.image(), level.grid, number as u32)
            };
            assert_eq!(made, defined);
            assert_eq!(
                made,
                values::<[f32; 4]>(&format!("anchors_{case}_{number}"))
            );
        }
    }
    for (level, grid) in [(3, [13, 21]), (4, [7, 11])] {
        let made = reference::anchors_torchvision([800, 1344], grid, level);
        assert_eq!(made, values::<[f32; 4]>(&format!("retinanet_{level}")));
    }
}

#[test]
fn torchvision_agrees() {
    for case in 0..3 {
        let scalars = values::<f32>(&format!("scalars_{case}"));
        let params = AnchorDecode {
            score_threshold: scalars[4],
            topk: scalars[3] as usize,
        };
        let anchors = pyramid(case);
        let classes = values::<i32>(&format!("classes_{case}"));
        for target in targets() {
            let device = target.device();
            let head = |name: &str, channels: usize| -> Vec<Tensor> {
                let levels = anchors.levels().iter().enumerate();
                let tensor = levels.map(|(number, level)| {
                    let shape = [1, level.grid[0], level.grid[1], 9 * channels];
                    let data = values::<f32>(&format!("{name}_{case}_{number}"));
                    Tensor::from_vec(data, &shape, &device).unwrap()
                });
                tensor.collect()
            };
            let (logits, deltas) = (head("logits", scalars[2] as usize), head("deltas", 4));
            let found = anchor_decode(&logits, &deltas, &anchors, None, &params).unwrap();
            let n = classes.len();
            assert_eq!(
                found.count.to_vec::<i32>().unwrap(),
                [n as i32],
                "{target:?}"
            );
            assert_eq!(found.classes.to_vec::<i32>().unwrap()[..n], classes);
            // Both round each of a handful of f32 operations.
            near(&found.scores, &values(&format!("scores_{case}")), 1e-6);
            near(&found.boxes, &values(&format!("boxes_{case}")), 2e-3);
        }
    }
}

fn near(ours: &Tensor, theirs: &[f32], tolerance: f32) {
    let ours = ours.to_vec::<f32>().unwrap();
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= tolerance, "{ours} for {theirs}");
    }
}

/// Boxes of one level of one cell, for the tests of what is odd.
fn one_cell(logits: [f32; 9], device: &Device) -> (Vec<Tensor>, Vec<Tensor>, Anchors) {
    let anchors = Anchors::torchvision([8, 8], &[[1, 1]]).unwrap();
    let logits = Tensor::from_vec(logits.to_vec(), &[1, 1, 1, 9], device).unwrap();
    let deltas = Tensor::zeros(&[1, 1, 1, 36], DType::F32, device).unwrap();
    (vec![logits], vec![deltas], anchors)
}

/// With the count, or with a score threshold of at least 0.
#[test]
fn padding_takes_no_part_in_suppression() {
    for target in targets() {
        let device = target.device();
        let (logits, deltas, anchors) =
            one_cell([9., -9., -9., -9., -9., -9., -9., -9., -9.], &device);
        let params = AnchorDecode::default();
        let found = anchor_decode(&logits, &deltas, &anchors, None, &params).unwrap();
        assert_eq!(found.boxes.shape(), [1, 9, 4]);
        let above = Nms {
            score_threshold: Some(0.0),
            ..Nms::default()
        };
        for (count, params) in [(Some(&found.count), Nms::default()), (None, above)] {
            let kept = nms(
                &found.boxes,
                &found.scores,
                Some(&found.classes),
                count,
                &params,
            );
            assert_eq!(kept.unwrap().count.to_vec::<i32>().unwrap(), [1]);
        }
    }
}

#[test]
fn nothing_to_find_is_no_error() {
    for target in targets() {
        let device = target.device();
        let (logits, deltas, anchors) = one_cell([1.0; 9], &device);
        let none = AnchorDecode {
            topk: 0,
            ..Default::default()
        };
        let found = anchor_decode(&logits, &deltas, &anchors, None, &none).unwrap();
        assert_eq!(found.boxes.shape(), [1, 0, 4]);
        assert_eq!(found.count.to_vec::<i32>().unwrap(), [0]);
        let no_images = [
            Tensor::zeros(&[0, 1, 1, 9], DType::F32, &device).unwrap(),
            Tensor::zeros(&[0, 1, 1, 36], DType::F32, &device).unwrap(),
        ];
        let found = anchor_decode(
            &no_images[..1],
            &no_images[1..],
            &anchors,
            None,
            &Default::default(),
        );
        assert_eq!(found.unwrap().scores.shape(), [0, 9]);
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let (logits, deltas, anchors) = one_cell([0.0; 9], &Device::Cpu);
    let default = AnchorDecode::default();
    let message = |logits: &[Tensor], deltas: &[Tensor], sizes: Option<&Tensor>, params| {
        anchor_decode(logits, deltas, &anchors, sizes, &params)
            .unwrap_err()
            .to_string()
    };
    let small = [zeros(&[1, 1, 1, 32], DType::F32)];
    let ten = [zeros(&[1, 1, 1, 10], DType::F32)];
    let cases = [
        (
            message(&[], &deltas, None, default),
            "logits must be 1 levels, as the anchors have, got 0",
        ),
        (
            message(&ten, &deltas, None, default),
            "logits must be [B, H, W, 9 * K], got [1, 1, 1, 10]",
        ),
        (
            message(&logits, &small, None, default),
            "deltas must be [1, 1, 1, 36], got [1, 1, 1, 32]",
        ),
        (
            message(&logits, &[zeros(&[1, 1, 1, 36], DType::F16)], None, default),
            "deltas must be of type f32, got f16",
        ),
        (
            message(
                &[zeros(&[1, 1, 1, 9], DType::I32)],
                &[zeros(&[1, 1, 1, 36], DType::I32)],
                None,
                default,
            ),
            "logits must be of type f32, f16 or bf16, got i32",
        ),
        (
            message(&logits, &deltas, Some(&zeros(&[2], DType::I32)), default),
            "image_sizes must be [1, 2], got [2]",
        ),
        (
            message(
                &logits,
                &deltas,
                None,
                AnchorDecode {
                    score_threshold: f32::NAN,
                    ..default
                },
            ),
            "score_threshold must be in [0, 1], got NaN",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("anchor_decode: {expected}"));
    }
    let many = Anchors::torchvision([800, 800], &[[100, 100]]).unwrap();
    let logits = [zeros(&[1, 100, 100, 9], DType::F32)];
    let deltas = [zeros(&[1, 100, 100, 36], DType::F32)];
    let params = AnchorDecode {
        topk: 5000,
        ..default
    };
    let error = anchor_decode(&logits, &deltas, &many, None, &params).unwrap_err();
    assert_eq!(
        error.to_string(),
        "anchor_decode: topk must be at most 4096, got 5000"
    );
}
