//! `ocelli op attention`.

use crate::op;
use crate::program::{Scratch, assert_success, error_text};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

fn attention_input(path: &Path) {
    let tensor = |shape: &[usize], seed: usize| {
        let len: usize = shape.iter().product();
        let values = (0..len)
            .map(|i| ((i * 37 + seed * 11) as f32).sin())
            .collect();
        Tensor::from_vec::<f32>(values, shape, &Device::Cpu).unwrap()
    };
    let lengths = Tensor::from_vec(vec![7i32, 4], &[2], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([
        ("q".into(), tensor(&[2, 5, 4, 8], 1)),
        ("k".into(), tensor(&[2, 7, 2, 8], 2)),
        ("v".into(), tensor(&[2, 7, 2, 8], 3)),
        ("bias".into(), tensor(&[1, 4, 5, 7], 4)),
        ("kv_lengths".into(), lengths),
        ("dout".into(), tensor(&[2, 5, 4, 8], 5)),
    ]);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn attention_gives_outputs_and_gradients_on_every_device() {
    let scratch = Scratch::new("attention");
    let input = scratch.file("in.safetensors");
    attention_input(&input);
    let names = ["dbias", "dk", "dq", "dv", "lse", "out"];
    let mut results = Vec::new();
    for device in ["reference", "cpu"] {
        let output = scratch.file(device);
        let settings = [
            "--set",
            "causal=true",
            "--set",
            "window_left=3",
            "--set",
            "window_right=-1",
            "--set",
            "softcap=2",
        ];
        let run = op(
            "attention",
            &input,
            &output,
            &[&settings[..], &["--device", device]].concat(),
        );
        assert_success(&run);
        let file = TensorFile::open(&output).unwrap();
        assert_eq!(file.names(), names);
        assert_eq!(file.tensor("lse").unwrap().shape(), [2, 4, 5]);
        assert_eq!(file.tensor("dbias").unwrap().shape(), [1, 4, 5, 7]);
        results.push(names.map(|name| file.tensor(name).unwrap().to_vec::<f32>().unwrap()));
    }
    for (exact, actual) in results[0].iter().zip(&results[1]) {
        for (exact, actual) in exact.iter().zip(actual) {
            assert!(
                exact == actual || (exact - actual).abs() <= 2e-6,
                "{exact} and {actual}"
            );
        }
    }
    let output = scratch.file("wrong");
    let run = op(
        "attention",
        &input,
        &output,
        &["--device", "cpu", "--set", "window_left=-2"],
    );
    let error = error_text(&run);
    assert!(!run.status.success() && !output.exists());
    assert!(
        error.contains("window_left=-2: must be -1 for none, or at least 0"),
        "{error}"
    );
}
