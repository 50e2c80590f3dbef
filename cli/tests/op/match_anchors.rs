//! `ocelli op match_anchors`.

use crate::op;
use crate::program::{Scratch, assert_success, error_text};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;

#[test]
fn anchors_are_matched() {
    let scratch = Scratch::new("match");
    let input = scratch.file("in.safetensors");
    let boxes = Tensor::from_vec(
        vec![-16f32, -16., 16., 16., 0., 0., 0., 0.],
        &[1, 2, 4],
        &Device::Cpu,
    )
    .unwrap();
    let tensors = BTreeMap::from([
        ("boxes".into(), boxes),
        (
            "classes".into(),
            Tensor::from_vec(vec![7, 9], &[1, 2], &Device::Cpu).unwrap(),
        ),
        (
            "count".into(),
            Tensor::from_vec(vec![1], &[1], &Device::Cpu).unwrap(),
        ),
    ]);
    write_tensors(&input, &tensors).unwrap();
    let size = ["--set", "image_height=16", "--set", "image_width=16"];
    let mut all = Vec::new();
    for device in ["reference", "cpu"] {
        let output = scratch.file(device);
        let settings = [&size[..], &["--device", device, "--set", "grids=2x2,1x1"]].concat();
        let run = op("match_anchors", &input, &output, &settings);
        assert_success(&run);
        let file = TensorFile::open(&output).unwrap();
        let read = |name: &str| file.tensor(name).unwrap().to_vec::<i32>().unwrap();
        assert_eq!((read("labels")[3], read("matched")[3]), (7, 0));
        assert_eq!(read("labels").len(), 45);
        all.push((read("labels"), read("matched"), read("foreground")));
    }
    assert_eq!(all[0], all[1]);
    let output = scratch.file("bad");
    for (more, message) in [
        (&["--set", "grids=2x"][..], "must be as in 8x8,4x4"),
        (&[], "--set grids=.. is missing"),
        (
            &["--set", "grids=2x2", "--set", "style=yolo"],
            "torchvision or detectron2",
        ),
    ] {
        let run = op("match_anchors", &input, &output, &[&size, more].concat());
        let text = error_text(&run);
        assert!(!run.status.success() && text.contains(message), "{text}");
        assert!(!output.exists());
    }
}
