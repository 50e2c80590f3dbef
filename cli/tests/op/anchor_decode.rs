//! `ocelli op anchor_decode`.

use crate::op;
use crate::program::{Scratch, assert_success};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// Two levels, one image, one class; the fourth anchor of each level's first cell is found.
fn head_input(path: &Path) {
    let mut tensors = BTreeMap::new();
    for (level, side) in [(0, 2), (1, 1)] {
        let mut logits = vec![-9f32; side * side * 9];
        logits[3] = 2.0;
        let logits = Tensor::from_vec(logits, &[1, side, side, 9], &Device::Cpu).unwrap();
        let deltas = Tensor::zeros(&[1, side, side, 36], DType::F32, &Device::Cpu).unwrap();
        tensors.insert(format!("logits_{level}"), logits);
        tensors.insert(format!("deltas_{level}"), deltas);
    }
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn anchors_are_decoded_in_every_type_and_style() {
    let scratch = Scratch::new("decode");
    let input = scratch.file("in.safetensors");
    head_input(&input);
    for device in ["reference", "cpu"] {
        for (style, dtype) in [
            ("torchvision", "f32"),
            ("detectron2", "f16"),
            ("torchvision", "bf16"),
        ] {
            let output = scratch.file(&format!("{device}-{style}-{dtype}"));
            let style = format!("style={style}");
            let settings = [
                "--device",
                device,
                "--dtype",
                dtype,
                "--set",
                &style,
                "--set",
                "image_height=20",
                "--set",
                "image_width=24",
                "--set",
                "topk=5",
            ];
            let run = op("anchor_decode", &input, &output, &settings);
            assert_success(&run);
            let file = TensorFile::open(&output).unwrap();
            assert_eq!(file.names(), ["boxes", "classes", "count", "scores"]);
            let boxes = file.tensor("boxes").unwrap();
            assert_eq!(boxes.shape(), [1, 10, 4]);
            assert_eq!(file.tensor("count").unwrap().to_vec::<i32>().unwrap(), [2]);
            let boxes = boxes.to_vec::<f32>().unwrap();
            // Of detectron2 the fourth shape is wide: 28.5 x 20.2 from its centre.
            let (right, bottom) = if style.ends_with("2") {
                (24., 14.)
            } else {
                (16., 16.)
            };
            assert_eq!(boxes[..2], [0., 0.]);
            assert!(
                (boxes[2] - right).abs() < 0.3 && (boxes[3] - bottom).abs() < 0.3,
                "{boxes:?}"
            );
        }
    }
}
