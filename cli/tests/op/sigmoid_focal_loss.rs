//! `ocelli op sigmoid_focal_loss`, and on its inputs what every op has in common.

use crate::op;
use crate::program::{Scratch, assert_success, error_text, ocelli_simulated, text};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

fn focal_input(path: &Path) {
    let logits: Vec<f32> = (0..12).map(|i| i as f32 - 6.0).collect();
    let logits = Tensor::from_vec(logits, &[4, 3], &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(vec![-1i32, 2, -2, 0], &[4], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("logits".into(), logits), ("labels".into(), labels)]);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn cpu_and_reference_agree() {
    let scratch = Scratch::new("agree");
    let input = scratch.file("in.safetensors");
    focal_input(&input);
    let mut losses = Vec::new();
    for device in ["reference", "cpu"] {
        let output = scratch.file(device);
        let settings = [
            "--device",
            device,
            "--set",
            "gamma=1.5",
            "--set",
            "normalizer=3",
        ];
        let run = op("sigmoid_focal_loss", &input, &output, &settings);
        assert_success(&run);
        let file = TensorFile::open(&output).unwrap();
        assert_eq!(file.names(), ["dlogits", "loss"]);
        assert_eq!(file.tensor("dlogits").unwrap().shape(), [4, 3]);
        losses.push(file.tensor("loss").unwrap().to_vec::<f32>().unwrap()[0]);
    }
    assert!(
        (losses[0] - losses[1]).abs() <= 1e-6 * losses[0],
        "{losses:?}"
    );
}

#[test]
fn the_simulated_gpu_agrees_with_the_cpu() {
    let scratch = Scratch::new("simulated");
    let (input, cpu, cuda) = (
        scratch.file("in"),
        scratch.file("cpu"),
        scratch.file("cuda"),
    );
    focal_input(&input);
    let run = op("sigmoid_focal_loss", &input, &cpu, &["--device", "cpu"]);
    assert_success(&run);
    let arguments = ["op", "sigmoid_focal_loss", "--device", "cuda", "--in"];
    let files = [text(&input), "--out", text(&cuda)];
    let Some(run) = ocelli_simulated(&[&arguments[..], &files].concat()) else {
        return;
    };
    assert_success(&run);
    let loss = |path: &Path| {
        TensorFile::open(path)
            .unwrap()
            .tensor("loss")
            .unwrap()
            .to_vec::<f32>()
            .unwrap()[0]
    };
    assert!((loss(&cuda) - loss(&cpu)).abs() <= 1e-6 * loss(&cpu));
}

#[test]
fn dtype_casts_the_input() {
    let scratch = Scratch::new("dtype");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    focal_input(&input);
    let run = op(
        "sigmoid_focal_loss",
        &input,
        &output,
        &["--device", "cpu", "--dtype", "bf16"],
    );
    assert!(run.status.success());
    let gradient = TensorFile::open(&output)
        .unwrap()
        .tensor("dlogits")
        .unwrap();
    assert_eq!(gradient.dtype(), DType::BF16);
}

#[test]
fn mistakes_are_one_clear_line_and_no_file() {
    let scratch = Scratch::new("mistakes");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    focal_input(&input);
    let empty = scratch.file("empty");
    write_tensors(&empty, &BTreeMap::new()).unwrap();
    let missing = scratch.file("missing");
    let cases: [(&str, &Path, &[&str], &str); 8] = [
        ("nonsense", &input, &[], "unknown op `nonsense`"),
        ("sigmoid_focal_loss", &missing, &[], "No such file"),
        ("sigmoid_focal_loss", &empty, &[], "has no tensor `logits`"),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "beta=1"],
            "unknown key `beta`",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "alpha=x"],
            "alpha=x",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "alpha=2"],
            "alpha must be in [0, 1], got 2",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "gamma=nan"],
            "gamma must be",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--dtype", "f64"],
            "f32, f16 or bf16",
        ),
    ];
    for (name, input, more, message) in cases {
        for device in ["cpu", "reference"] {
            let run = op(
                name,
                input,
                &output,
                &[more, &["--device", device]].concat(),
            );
            let text = error_text(&run);
            assert!(
                !run.status.success() && text.contains(message),
                "{message}: {text}"
            );
            assert!(!output.exists(), "{message}");
        }
    }
}

#[test]
fn a_misshapen_tensor_is_named() {
    let scratch = Scratch::new("misshapen");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    let logits = Tensor::zeros(&[4, 3], DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::zeros(&[5], DType::I32, &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("logits".into(), logits), ("labels".into(), labels)]);
    write_tensors(&input, &tensors).unwrap();
    let run = op("sigmoid_focal_loss", &input, &output, &["--device", "cpu"]);
    let text = error_text(&run);
    assert!(
        text.contains("sigmoid_focal_loss: labels must be [4], got [5]"),
        "{text}"
    );
}
