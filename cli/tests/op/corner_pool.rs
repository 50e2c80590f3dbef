//! `ocelli op corner_pool` and `ocelli op corner_pool_pair`.

use crate::op;
use crate::program::{Scratch, assert_success, error_text};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;

#[test]
fn corner_pools_agree_with_the_reference_and_need_a_direction() {
    let scratch = Scratch::new("corner-pool");
    let input = scratch.file("in.safetensors");
    let map = |start: usize| {
        let values: Vec<f32> = (start..start + 60).map(|i| ((i * 7) % 13) as f32).collect();
        Tensor::from_vec(values, &[1, 5, 4, 3], &Device::Cpu).unwrap()
    };
    let tensors = BTreeMap::from([
        ("x".into(), map(0)),
        ("vertical".into(), map(1)),
        ("horizontal".into(), map(2)),
        ("dout".into(), map(3)),
    ]);
    write_tensors(&input, &tensors).unwrap();
    for (name, setting, outputs) in [
        ("corner_pool", "direction=bottom", &["dx", "out"][..]),
        (
            "corner_pool_pair",
            "corner=top_left",
            &["dhorizontal", "dvertical", "out"],
        ),
    ] {
        let files = ["reference", "cpu"].map(|device| {
            let output = scratch.file(&format!("{name}-{device}"));
            let run = op(
                name,
                &input,
                &output,
                &["--device", device, "--set", setting],
            );
            assert_success(&run);
            TensorFile::open(&output).unwrap()
        });
        assert_eq!(files[0].names(), outputs);
        for output in outputs {
            let values = |file: &TensorFile| file.tensor(output).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(values(&files[0]), values(&files[1]), "{name} {output}");
        }
        let missing = op(name, &input, &scratch.file("none"), &["--device", "cpu"]);
        let key = setting.split('=').next().unwrap();
        let text = error_text(&missing);
        assert!(
            text.contains(&format!("--set {key}=.. is missing")),
            "{text}"
        );
    }
}
