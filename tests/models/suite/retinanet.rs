//! RetinaNet against torchvision's: head outputs, the whole path from pixels to boxes, and losses.

use super::golden::{Golden, everywhere};
use crate::device::{Target, targets};
use ocelli::io::Weights;
use ocelli::models::Detection;
use ocelli::models::retinanet::{
    Config, DetectionParams, GroundTruth, HeadOutputs, ImageTransform, LossParams, Losses,
    RetinaNet,
};
use ocelli::params::{BoxLoss, SigmoidFocalLoss};
use ocelli::{DType, Device, Tensor};

fn digits() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/retinanet_digits.safetensors"
    ))
}

fn second_version() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/retinanet_v2.safetensors"
    ))
}

fn losses() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/retinanet_losses.safetensors"
    ))
}

/// The model of a golden file, with these batch norms.
fn load(golden: &Golden, target: &Target, dtype: DType, norm_eps: f64) -> (RetinaNet, Config) {
    let mut weights = golden.weights(target, dtype);
    RetinaNet::rename(&mut weights).unwrap();
    let config = Config {
        norm_eps,
        ..Config::of(&weights)
    };
    let model = RetinaNet::load(&mut weights, &config).unwrap();
    weights.finish().unwrap();
    (model, config)
}

fn check_levels(golden: &Golden, prefix: &str, outputs: &HeadOutputs, target: &Target) {
    for (name, levels) in [("logits", &outputs.logits), ("deltas", &outputs.deltas)] {
        for (level, tensor) in levels.iter().enumerate() {
            golden.check(&format!("{prefix}{name}_{level}"), tensor, target);
        }
    }
}

/// Elements of all tensors but those whose name has one of these parts.
fn parameters(config: &Config, without: &[&str]) -> usize {
    let mut weights = Weights::listing();
    RetinaNet::load(&mut weights, config).unwrap();
    let counted = weights.parameters().iter();
    let counted = counted.filter(|(name, _)| !without.iter().any(|part| name.contains(part)));
    counted
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

#[test]
fn the_parameters_are_torchvisions() {
    // PyTorch counts no running statistics, and nothing of a frozen batch norm.
    let frozen = [".bn", ".downsample.1."];
    assert_eq!(parameters(&Config::default(), &frozen), 34_014_999);
    assert_eq!(parameters(&Config::v2(), &[".running_"]), 38_198_935);
}

#[test]
fn the_narrow_detector_is_torchvisions_under_its_older_names() {
    let golden = digits();
    everywhere(|target, dtype| {
        let (model, config) = load(&golden, target, dtype, 1e-5);
        let backbone = config.backbone;
        assert_eq!((backbone.depths, backbone.width), ([2; 4], 4));
        assert_eq!((config.classes, config.channels), (3, 16));
        let image = golden.input("image", target, dtype);
        check_levels(&golden, "", &model.forward(&image).unwrap(), target);
    });
}

#[test]
fn the_norms_epsilon_is_a_setting() {
    let golden = digits();
    let (model, _) = load(&golden, &Target::Cpu, DType::F32, 0.1);
    let image = golden.input("image", &Target::Cpu, DType::F32);
    let outputs = model.forward(&image).unwrap();
    golden.check("large_eps_logits_0", &outputs.logits[0], &Target::Cpu);
    golden.check("large_eps_deltas_4", &outputs.deltas[4], &Target::Cpu);
}

#[test]
fn the_second_version_is_torchvisions() {
    let golden = second_version();
    everywhere(|target, dtype| {
        let (model, config) = load(&golden, target, dtype, 1e-5);
        assert!(config.backbone.bottleneck && config.head_norm);
        assert_eq!(config.backbone.depths, [1; 4]);
        let image = golden.input("image", target, dtype);
        check_levels(&golden, "", &model.forward(&image).unwrap(), target);
    });
}

/// torchvision's detections in an image, best first.
fn expected(golden: &Golden, kind: &str, case: usize) -> Vec<Detection> {
    let boxes = golden.stored(&format!("{kind}.boxes.{case}"));
    let scores = golden.stored(&format!("{kind}.scores.{case}"));
    let labels = golden.stored(&format!("{kind}.labels.{case}"));
    let boxes = boxes.to_vec::<f32>().unwrap();
    let scores = scores.to_vec::<f32>().unwrap();
    let labels = labels.to_vec::<i32>().unwrap();
    let detection = |(i, corners): (usize, &[f32])| Detection {
        corners: corners.try_into().unwrap(),
        score: scores[i],
        class: labels[i] as usize,
    };
    boxes.chunks_exact(4).enumerate().map(detection).collect()
}

/// Whether both are one object: scores within 1e-3, boxes within a pixel.
fn same(a: &Detection, b: &Detection) -> bool {
    let near = a.corners.iter().zip(&b.corners);
    a.class == b.class
        && (a.score - b.score).abs() <= 1e-3
        && near.into_iter().all(|(a, b)| (a - b).abs() <= 1.0)
}

fn check_detections(found: &[Detection], mut expected: Vec<Detection>) {
    assert_eq!(found.len(), expected.len());
    assert!(found.is_sorted_by(|a, b| a.score >= b.score));
    for detection in found {
        let place = expected.iter().position(|other| same(detection, other));
        let place = place.unwrap_or_else(|| panic!("{detection:?} is none of torchvision's"));
        expected.remove(place);
    }
}

#[test]
fn detections_are_torchvisions() {
    let golden = digits();
    let transform = ImageTransform {
        sides: Some([64, 100]),
        ..ImageTransform::default()
    };
    for target in targets() {
        let (model, _) = load(&golden, target, DType::F32, 1e-5);
        let detect = |images: &[Tensor]| {
            let found = model.detect(images, &transform, &DetectionParams::default());
            found.unwrap()
        };
        let images = [0, 1, 2].map(|case| golden.stored(&format!("detect.image.{case}")));
        let together = detect(&images);
        for (case, image) in images.iter().enumerate() {
            let alone = &detect(std::slice::from_ref(image))[0];
            check_detections(alone, expected(&golden, "alone", case));
            check_detections(&together[case], expected(&golden, "batch", case));
        }
        finished(target);
    }
}

#[test]
fn images_of_a_batch_do_not_see_each_other() {
    let golden = digits();
    let (model, _) = load(&golden, &Target::Cpu, DType::F32, 1e-5);
    // One scale for both, so that padding alone differs from the runs of one.
    let transform = ImageTransform {
        sides: None,
        ..ImageTransform::default()
    };
    let images = [0, 1].map(|case| golden.stored(&format!("detect.image.{case}")));
    let params = DetectionParams {
        most: 7,
        ..DetectionParams::default()
    };
    let together = model.detect(&images, &transform, &params).unwrap();
    assert_eq!(together.len(), 2);
    for (image, found) in images.iter().zip(&together) {
        let &[height, width, _] = image.shape() else {
            panic!("an image has three axes");
        };
        assert_eq!(found.len(), 7);
        for detection in found {
            let [x1, y1, x2, y2] = detection.corners;
            assert!(0.0 <= x1 && x1 <= x2 && x2 <= width as f32);
            assert!(0.0 <= y1 && y1 <= y2 && y2 <= height as f32);
        }
    }
    // The larger image decides the batch's size, so that its detections are those that it has alone.
    let alone = model.detect(&images[..1], &transform, &params).unwrap();
    assert_eq!(alone[0], together[0]);
    let none = model.detect(&[], &transform, &params).unwrap();
    assert!(none.is_empty());
}

/// The losses of a case: `truth` is how many objects each image has.
fn losses_of(golden: &Golden, target: &Target, params: &LossParams, truth: [i32; 2]) -> Losses {
    let levels = |name: &str| -> Vec<Tensor> {
        let level = |level| golden.input(&format!("{name}_{level}"), target, DType::F32);
        (0..5).map(level).collect()
    };
    let outputs = HeadOutputs {
        logits: levels("logits"),
        deltas: levels("deltas"),
    };
    let device = target.device();
    let mut boxes = vec![
        3., 5., 40., 30., 30., 2., 62., 30., 0., 0., 64., 32., 10., 3., 45., 27.,
    ];
    // What lies beyond the counts is not looked at.
    boxes.extend([0f32, 0., 64., 32., f32::NAN, 0., 1., 1.]);
    let boxes = Tensor::from_vec(boxes, &[2, 3, 4], &device).unwrap();
    let classes = Tensor::from_vec(vec![0, 2, 1, 2, 0, 77], &[2, 3], &device).unwrap();
    let counts = Tensor::from_vec(truth.to_vec(), &[2], &device).unwrap();
    let truth = GroundTruth {
        boxes: &boxes,
        classes: &classes,
        counts: Some(&counts),
    };
    let anchors = outputs.anchors([32, 64]).unwrap();
    outputs.losses(&anchors, &truth, params).unwrap()
}

#[test]
fn losses_and_gradients_are_torchvisions_and_the_trainings() {
    let golden = losses();
    let first = LossParams::default();
    let second = LossParams {
        boxes: BoxLoss::Giou,
        ..first
    };
    let unfocused = LossParams {
        focal: SigmoidFocalLoss {
            gamma: 0.0,
            ..SigmoidFocalLoss::default()
        },
        ..first
    };
    for target in targets() {
        for (name, params, counts) in [
            ("l1", first, [3, 1]),
            ("giou", second, [3, 1]),
            ("empty", first, [2, 0]),
            ("gamma0", unfocused, [3, 1]),
        ] {
            let losses = losses_of(&golden, target, &params, counts);
            // The training's loss is one number.
            let values = match name {
                "gamma0" => vec![losses.classification + losses.boxes, 0.0],
                _ => vec![losses.classification, losses.boxes],
            };
            let values = Tensor::from_vec(values, &[2], &Device::Cpu).unwrap();
            golden.check(&format!("{name}.losses"), &values, target);
            let gradients = losses.gradients;
            for (kind, levels) in [("logits", &gradients.logits), ("deltas", &gradients.deltas)] {
                for (level, tensor) in levels.iter().enumerate() {
                    let name = format!("{name}.{kind}_{level}");
                    golden.check(&name, tensor, target);
                }
            }
        }
        finished(target);
    }
}

#[test]
fn all_that_is_wrong_with_a_file_is_in_one_error() {
    let mut weights = digits().weights(&Target::Cpu, DType::F32);
    weights
        .rename(|name| match name {
            "head.regression_head.bbox_reg.bias" => None,
            "backbone.body.bn1.bias" => Some("backbone.body.bn1.weird".into()),
            name => Some(name.into()),
        })
        .unwrap();
    RetinaNet::open(&mut weights).unwrap();
    let error = weights.finish().unwrap_err().to_string();
    for part in [
        "`head.regression_head.bbox_reg.bias` is missing",
        "`backbone.body.bn1.bias` is missing",
        "`backbone.body.bn1.weird` belongs to no part of the model",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[cfg_attr(
    not(feature = "cuda"),
    expect(unused_variables, reason = "only CUDA has launches")
)]
fn finished(target: &Target) {
    #[cfg(feature = "cuda")]
    if let Target::Cuda(cuda) = target {
        cuda.launches();
    }
}
