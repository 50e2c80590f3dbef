//! Golden vectors, and what mistakes are answered with.

use crate::device::targets;
use ocelli::ops::soft_nms;
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::within;
use ocelli::{DType, Device, Tensor};

#[test]
fn a_double_precision_model_agrees() {
    let bytes = include_bytes!("../../golden/soft_nms.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    for case in 0..6 {
        let data = |name: &str| golden.tensor(&format!("{name}_{case}")).unwrap();
        let floats = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(data(name).data()) };
        let integers = |name: &str| -> Vec<i32> { bytemuck::pod_collect_to_vec(data(name).data()) };
        let (scores, scalars) = (floats("scores"), floats("scalars"));
        let exact: Vec<f64> = bytemuck::pod_collect_to_vec(data("kept_scores").data());
        let kept = integers("kept");
        let n = scores.len();
        let params = SoftNms {
            method: [SoftNmsMethod::Linear, SoftNmsMethod::Gaussian][scalars[0] as usize],
            sigma: scalars[1],
            iou_threshold: scalars[2],
            score_threshold: scalars[3],
            inclusive: scalars[4] == 1.0,
            max_output: None,
        };
        for target in targets() {
            let device = target.device();
            let boxes = Tensor::from_vec(floats("boxes"), &[1, n, 4], &device).unwrap();
            let scores = Tensor::from_vec(scores.clone(), &[1, n], &device).unwrap();
            let classes = Tensor::from_vec(integers("classes"), &[1, n], &device).unwrap();
            let result = soft_nms(&boxes, &scores, Some(&classes), None, &params).unwrap();
            let count = result.count.to_vec::<i32>().unwrap()[0] as usize;
            let indices = result.indices.to_vec::<i32>().unwrap();
            assert_eq!(indices[..count], kept, "case {case} on {target:?}");
            let scores: Vec<f64> = result.scores.to_vec::<f32>().unwrap()[..count]
                .iter()
                .map(|&score| f64::from(score))
                .collect();
            // The model rounds nothing to f32. A weight and a product round by half a unit each, and the weight
            // takes over the error of the overlap: 16 units leave room for the few that lower one score.
            let budget = Budget::new(&exact, &exact, DType::F32).at_least(1e-5, &exact);
            within(&scores, &exact, &budget).unwrap();
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let boxes = zeros(&[2, 3, 4], DType::F32);
    let scores = zeros(&[2, 3], DType::F32);
    let flat = zeros(&[12, 5], DType::F32);
    let message = |boxes, scores, params: SoftNms| {
        let result = soft_nms(boxes, scores, None, None, &params);
        result.unwrap_err().to_string()
    };
    let default = SoftNms::default();
    let with = |change: fn(&mut SoftNms)| {
        let mut params = default;
        change(&mut params);
        message(&boxes, &scores, params)
    };
    let cases = [
        (
            message(&flat, &scores, default),
            "boxes must be [B, N, 4], got [12, 5]",
        ),
        (
            message(&boxes, &flat, default),
            "scores must be [2, 3], got [12, 5]",
        ),
        (
            with(|p| p.sigma = 0.0),
            "sigma must be finite and above 0, got 0",
        ),
        (
            with(|p| p.iou_threshold = f32::NAN),
            "iou_threshold must be finite and at least 0, got NaN",
        ),
        (
            with(|p| p.score_threshold = -0.5),
            "score_threshold must be finite and at least 0, got -0.5",
        ),
        (
            with(|p| p.max_output = Some(4)),
            "max_output must be at most the 3 boxes of an image, got 4",
        ),
        (
            "exponential"
                .parse::<SoftNmsMethod>()
                .unwrap_err()
                .to_string(),
            "method must be linear or gaussian, got exponential",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("soft_nms: {expected}"));
    }
}
