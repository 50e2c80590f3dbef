//! CornerNet against PyTorch: heads, the whole way from an image to boxes, and the loss.

use super::golden::{Golden, everywhere};
use crate::device::{Target, targets};
use ocelli::io::Weights;
use ocelli::models::cornernet::{
    Config, CornerHeads, CornerNet, DetectionRule, Detector, LossRule, Outputs, loss_with_gradient,
    rename,
};
use ocelli::{DType, Device, Tensor};

fn golden() -> Golden {
    Golden::new(include_bytes!("../../golden/models/cornernet.safetensors"))
}

fn losses() -> Golden {
    Golden::new(include_bytes!(
        "../../golden/models/cornernet_loss.safetensors"
    ))
}

fn model(golden: &Golden, target: &Target, dtype: DType, pooling: bool) -> CornerNet {
    let mut weights = golden.weights(target, dtype);
    rename(&mut weights).unwrap();
    let config = Config::of(&weights).unwrap();
    assert!(config.pooling);
    let config = Config { pooling, ..config };
    let model = CornerNet::load(&mut weights, &config).unwrap();
    weights.finish().unwrap();
    model
}

/// The outputs by the names of the program's files.
fn named(outputs: &Outputs) -> [(&'static str, &Tensor); 6] {
    let (a, b) = (&outputs.top_left, &outputs.bottom_right);
    [
        ("tl_heat", &a.heat),
        ("br_heat", &b.heat),
        ("tl_embed", &a.embedding),
        ("br_embed", &b.embedding),
        ("tl_offset", &a.offset),
        ("br_offset", &b.offset),
    ]
}

#[test]
fn the_heads_are_pytorchs() {
    everywhere(|target, dtype| {
        let golden = golden();
        let image = golden.input("image", target, dtype);
        for (prefix, pooling) in [("", true), ("unpooled_", false)] {
            let model = model(&golden, target, dtype, pooling);
            let outputs = model.forward(&image).unwrap();
            for (name, output) in named(&outputs) {
                golden.check(&format!("{prefix}{name}"), output, target);
            }
        }
    });
}

#[test]
fn detection_is_the_official_procedure() {
    for target in targets() {
        let golden = golden();
        let mut detector = Detector {
            model: model(&golden, target, DType::F32, true),
            rule: DetectionRule::default(),
        };
        detector.rule.decode.topk = 20;
        for name in ["even", "odd"] {
            let image = golden.input(name, target, DType::F32);
            let found = detector.detect(&image).unwrap();
            let [boxes, scores, classes] = ["boxes", "scores", "classes"]
                .map(|part| golden.doubles(&format!("out.{name}_{part}")).1);
            let found_classes: Vec<f64> = found.iter().map(|one| one.class as f64).collect();
            assert_eq!(found_classes, classes, "{name} on {}", target.device());
            close(found.iter().map(|one| one.score), &scores, 1e-5);
            // Pixels: offsets of about 1e-6 cells, and coordinates up to 52 in f32.
            close(found.iter().flat_map(|one| one.corners), &boxes, 1e-3);
        }
        #[cfg(feature = "cuda")]
        if let Target::Cuda(cuda) = target {
            cuda.launches();
        }
    }
}

fn close(actual: impl Iterator<Item = f32>, wanted: &[f64], allowed: f64) {
    let actual: Vec<f32> = actual.collect();
    assert_eq!(actual.len(), wanted.len());
    for (index, (&actual, wanted)) in actual.iter().zip(wanted).enumerate() {
        let error = (f64::from(actual) - wanted).abs();
        assert!(error <= allowed, "[{index}]: {actual}, must be {wanted}");
    }
}

#[test]
fn the_rule_shapes_what_is_found() {
    let target = &Target::Cpu;
    let golden = golden();
    let image = golden.input("even", target, DType::F32);
    let mut detector = Detector {
        model: model(&golden, target, DType::F32, true),
        rule: DetectionRule::default(),
    };
    let all = detector.detect(&image).unwrap();
    detector.rule.max_detections = 7;
    assert_eq!(detector.detect(&image).unwrap(), all[..7]);
    detector.rule.max_detections = 0;
    assert_eq!(detector.detect(&image).unwrap(), []);
    detector.rule = DetectionRule::mmdetection();
    assert!(!detector.detect(&image).unwrap().is_empty());
    detector.rule.score_threshold = 2.0;
    assert_eq!(detector.detect(&image).unwrap(), []);
    for shape in [&[9usize, 5, 4][..], &[1, 9, 5, 3], &[0, 5, 3], &[9, 5]] {
        let image = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let error = detector.detect(&image).unwrap_err().to_string();
        let expected = format!("cornernet: image must be [H, W, 3] with pixels, got {shape:?}");
        assert_eq!(error, expected);
    }
}

#[test]
fn the_published_model_has_its_parameters() {
    let mut weights = Weights::listing();
    let config = Config::of(&weights).unwrap();
    assert_eq!(config, Config::default());
    CornerNet::load(&mut weights, &config).unwrap();
    let parameters = weights.parameters().iter();
    let trained = parameters.filter(|(name, _)| !name.contains(".running_"));
    let count: usize = trained
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(count, 201_035_212);
}

#[test]
fn a_file_that_does_not_fit_is_one_error() {
    let golden = golden();
    let mut weights = golden.weights(&Target::Cpu, DType::F32);
    let lost = ["kps.1.low2.low2.0.conv2.weight", "tl_regrs.1.1.bias"];
    let without = |name: &str| (!lost.contains(&name)).then(|| name.to_string());
    weights.rename(without).unwrap();
    rename(&mut weights).unwrap();
    let config = Config::of(&weights).unwrap();
    CornerNet::load(&mut weights, &config).unwrap();
    let error = weights.finish().unwrap_err().to_string();
    let expected = lost.map(|name| format!("`{name}` is missing")).join("; ");
    assert_eq!(error, format!("golden: does not fit the model: {expected}"));
}

#[test]
fn the_loss_is_the_official_one() {
    everywhere(|target, dtype| {
        let golden = losses();
        let heads = |stack: usize, corner: &str| {
            let head =
                |name: &str| golden.input(&format!("{stack}_{corner}_{name}"), target, dtype);
            CornerHeads {
                heat: head("heat"),
                embedding: head("embed"),
                offset: head("offset"),
            }
        };
        let stacks = [0, 1].map(|stack| Outputs {
            top_left: heads(stack, "tl"),
            bottom_right: heads(stack, "br"),
        });
        let boxes = golden.input("boxes", target, DType::F32);
        let classes = golden.input("classes", target, dtype);
        let size = golden.input("size", target, dtype).to_vec::<i32>().unwrap();
        let rule = LossRule::new(size[0] as usize, size[1] as usize);
        let (losses, gradients) = loss_with_gradient(&stacks, &boxes, &classes, &rule).unwrap();
        let parts = [
            ("heat", losses.heat),
            ("pull", losses.pull),
            ("push", losses.push),
            ("offset", losses.offset),
        ];
        for (name, loss) in parts {
            let loss = Tensor::from_vec(vec![loss], &[1], &Device::Cpu).unwrap();
            // A loss is f32 whatever the type of the heads, whose error it has.
            golden.check(name, &loss.to_dtype(dtype).unwrap(), target);
        }
        for (stack, gradient) in gradients.iter().enumerate() {
            for (name, gradient) in named(gradient) {
                golden.check(&format!("d_{stack}_{name}"), gradient, target);
            }
        }
    });
}
