//! Golden vectors, and what mistakes are answered with.

use super::{Output, run};
use crate::device::targets;
use ocelli::ops::match_anchors;
use ocelli::params::{AnchorLevel, Anchors, MatchAnchors};
use ocelli::{DType, Device, Tensor};
use safetensors::SafeTensors;

#[test]
fn torchvision_agrees() {
    let bytes = include_bytes!("../../golden/match_anchors.safetensors");
    let golden = SafeTensors::deserialize(bytes).unwrap();
    let anchors = Anchors::torchvision([100, 150], &[[13, 19], [7, 10], [4, 5]]).unwrap();
    for case in 0..4 {
        let data = |name: &str| golden.tensor(&format!("{name}_{case}")).unwrap();
        let boxes: Vec<f32> = bytemuck::pod_collect_to_vec(data("boxes").data());
        let scalars: Vec<f32> = bytemuck::pod_collect_to_vec(data("scalars").data());
        let matches: Vec<i32> = bytemuck::pod_collect_to_vec(data("matches").data());
        let params = MatchAnchors {
            high_threshold: scalars[0],
            low_threshold: scalars[1],
            low_quality: scalars[2] == 1.0,
        };
        let n = boxes.len() / 4;
        for target in targets() {
            let device = target.device();
            let boxes = Tensor::from_vec(boxes.clone(), &[1, n, 4], &device).unwrap();
            let classes = (0..n as i32).map(|i| 1000 + i).collect();
            let classes = Tensor::from_vec(classes, &[1, n], &device).unwrap();
            let found = match_anchors(&boxes, &classes, None, &anchors, &params).unwrap();
            let label = |&i: &i32| if i >= 0 { 1000 + i } else { i };
            let labels: Vec<i32> = matches.iter().map(label).collect();
            assert_eq!(
                found.labels.to_vec::<i32>().unwrap(),
                labels,
                "case {case} on {target:?}"
            );
            let matched: Vec<i32> = matches.iter().map(|&i| i.max(-1)).collect();
            assert_eq!(found.matched.to_vec::<i32>().unwrap(), matched);
            let count = matches.iter().filter(|&&i| i >= 0).count() as i32;
            assert_eq!(found.foreground.to_vec::<i32>().unwrap(), [count]);
        }
    }
}

/// Cells at one place, and a box far from all of it.
#[test]
fn strides_of_zero_and_boxes_beyond_every_integer() {
    let level = AnchorLevel {
        grid: [3, 4],
        stride: [0.0, 0.5],
        half_sizes: vec![[4.0, 4.0], [0.0, 0.0]],
    };
    let anchors = Anchors::new([8, 8], vec![level]).unwrap();
    let boxes = vec![-4f32, -4., 4., 4., 1e30, 1e30, 2e30, 2e30];
    for target in targets() {
        let device = target.device();
        let boxes = Tensor::from_vec(boxes.clone(), &[1, 2, 4], &device).unwrap();
        let classes = Tensor::from_vec(vec![5, 6], &[1, 2], &device).unwrap();
        let found = match_anchors(&boxes, &classes, None, &anchors, &Default::default()).unwrap();
        // The far box meets nothing, so all are matched, each to the first of its best.
        assert_eq!(found.labels.to_vec::<i32>().unwrap(), [5; 24], "{target:?}");
    }
}

#[test]
fn nothing_to_match_is_background() {
    for target in targets() {
        let case = super::Case {
            images: 1,
            boxes: 0,
            grids: vec![[2, 2]],
            detectron2: false,
            layout: super::Layout::Spread,
            counted: false,
            params: MatchAnchors::default(),
            seed: 1,
        };
        let background = Output {
            labels: vec![-1; 36],
            matched: vec![-1; 36],
            foreground: vec![0],
        };
        assert_eq!(run(target, &case, &case.inputs()), background);
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let anchors = Anchors::torchvision([8, 8], &[[1, 1]]).unwrap();
    let boxes = zeros(&[2, 3, 4], DType::F32);
    let classes = zeros(&[2, 3], DType::I32);
    let default = MatchAnchors::default();
    let message = |boxes, classes, counts, params| {
        match_anchors(boxes, classes, counts, &anchors, &params)
            .unwrap_err()
            .to_string()
    };
    let order = MatchAnchors {
        low_threshold: 0.6,
        ..default
    };
    let cases = [
        (
            message(&classes, &classes, None, default),
            "boxes must be [B, M, 4], got [2, 3]",
        ),
        (
            message(&boxes, &boxes, None, default),
            "classes must be [2, 3], got [2, 3, 4]",
        ),
        (
            message(&boxes, &classes, Some(&classes), default),
            "counts must be [2], got [2, 3]",
        ),
        (
            message(&boxes, &classes, None, order),
            "low_threshold must be in [0, high_threshold], got 0.6",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("match_anchors: {expected}"));
    }
}
