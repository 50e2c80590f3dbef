//! Golden vectors, and what mistakes are answered with.

use crate::device::targets;
use ocelli::ops::nms;
use ocelli::params::Nms;
use ocelli::{DType, Device, Tensor};

#[test]
fn torchvision_agrees() {
    let bytes = include_bytes!("../../golden/nms.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    for case in 0..6 {
        let data = |name: &str| golden.tensor(&format!("{name}_{case}")).unwrap();
        let boxes: Vec<f32> = bytemuck::pod_collect_to_vec(data("boxes").data());
        let scores: Vec<f32> = bytemuck::pod_collect_to_vec(data("scores").data());
        let classes: Vec<i32> = bytemuck::pod_collect_to_vec(data("classes").data());
        let threshold: Vec<f32> = bytemuck::pod_collect_to_vec(data("threshold").data());
        let kept: Vec<i32> = bytemuck::pod_collect_to_vec(data("kept").data());
        let n = scores.len();
        for target in targets() {
            let device = target.device();
            let boxes = Tensor::from_vec(boxes.clone(), &[1, n, 4], &device).unwrap();
            let scores = Tensor::from_vec(scores.clone(), &[1, n], &device).unwrap();
            let classes = Tensor::from_vec(classes.clone(), &[1, n], &device).unwrap();
            let params = Nms {
                iou_threshold: threshold[0],
                ..Nms::default()
            };
            let result = nms(&boxes, &scores, Some(&classes), None, &params).unwrap();
            let count = result.count.to_vec::<i32>().unwrap()[0] as usize;
            let indices = result.indices.to_vec::<i32>().unwrap();
            assert_eq!(indices[..count], kept, "case {case} on {target:?}");
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let boxes = zeros(&[2, 3, 4], DType::F32);
    let scores = zeros(&[2, 3], DType::F32);
    let integers = zeros(&[2, 3], DType::I32);
    let message = |boxes, scores, classes, params: Nms| {
        nms(boxes, scores, classes, None, &params)
            .unwrap_err()
            .to_string()
    };
    let default = Nms::default();
    let flat = zeros(&[12, 5], DType::F32);
    let cases = [
        (
            message(&flat, &scores, None, default),
            "boxes must be [B, N, 4], got [12, 5]",
        ),
        (
            message(&boxes, &integers, None, default),
            "scores must be of type f32, got i32",
        ),
        (
            message(&boxes, &flat, None, default),
            "scores must be [2, 3], got [12, 5]",
        ),
        (
            message(&boxes, &scores, Some(&scores), default),
            "classes must be of type i32, got f32",
        ),
        (
            message(
                &boxes,
                &scores,
                None,
                Nms {
                    iou_threshold: f32::NAN,
                    ..default
                },
            ),
            "iou_threshold must be finite and at least 0, got NaN",
        ),
        (
            message(
                &boxes,
                &scores,
                None,
                Nms {
                    max_output: Some(4),
                    ..default
                },
            ),
            "max_output must be at most the 3 boxes of an image, got 4",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("nms: {expected}"));
    }
    let many = zeros(&[1, (1 << 20) + 1, 4], DType::F32);
    let scores = zeros(&[1, (1 << 20) + 1], DType::F32);
    assert!(
        message(&many, &scores, None, default)
            .starts_with("nms: boxes must be at most 1048576 an image")
    );
}
