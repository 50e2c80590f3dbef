//! `ocelli op nms`.

use crate::program::{Scratch, assert_success, error_text};
use crate::{agreed, op};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// Three boxes, of which the first two overlap and the second has the best score.
pub fn nms_input(path: &Path) {
    let boxes = vec![0f32, 0., 10., 10., 1., 1., 11., 11., 20., 20., 30., 30.];
    let boxes = Tensor::from_vec(boxes, &[1, 3, 4], &Device::Cpu).unwrap();
    let scores = Tensor::from_vec(vec![0.8f32, 0.9, 0.7], &[1, 3], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("boxes".into(), boxes), ("scores".into(), scores)]);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn nms_keeps_the_same_boxes_in_every_type_and_without_optional_inputs() {
    let scratch = Scratch::new("nms");
    let input = scratch.file("in.safetensors");
    nms_input(&input);
    for device in ["reference", "cpu"] {
        for dtype in ["f32", "f16", "bf16"] {
            let output = scratch.file(&format!("{device}-{dtype}"));
            let settings = [
                "--device",
                device,
                "--dtype",
                dtype,
                "--set",
                "max_output=2",
            ];
            let run = op("nms", &input, &output, &settings);
            assert_success(&run);
            let file = TensorFile::open(&output).unwrap();
            let read = |name: &str| file.tensor(name).unwrap().to_vec::<i32>().unwrap();
            assert_eq!((read("indices"), read("count")), (vec![1, 2], vec![2]));
        }
    }
}

#[test]
fn nms_names_a_threshold_out_of_range_and_writes_nothing() {
    let scratch = Scratch::new("nms-range");
    let (input, output) = (scratch.file("in.safetensors"), scratch.file("out"));
    nms_input(&input);
    let settings = ["--device", "cpu", "--set", "iou_threshold=-0.5"];
    let run = op("nms", &input, &output, &settings);
    let error = error_text(&run);
    assert!(!run.status.success() && !output.exists());
    let expected = "nms: iou_threshold must be finite and at least 0, got -0.5";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_first_command_of_the_readme_runs() {
    let boxes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/boxes.safetensors");
    let scratch = Scratch::new("readme");
    let kept = agreed(&scratch, "nms", &boxes, &["--set", "iou_threshold=0.5"]);
    let indices = kept.tensor("indices").unwrap().to_vec::<i32>().unwrap();
    assert_eq!(indices, [3, 0, 6, 7, -1, -1, -1, -1]);
}
