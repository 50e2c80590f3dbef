//! `ocelli op corner_decode`.

use crate::agreed;
use crate::program::Scratch;
use ocelli::io::write_tensors;
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;

#[test]
fn corner_decode_pairs_two_corners() {
    let scratch = Scratch::new("corner-decode");
    let input = scratch.file("in.safetensors");
    let mut tensors = BTreeMap::new();
    for (kind, peak) in [("tl", 1usize), ("br", 14)] {
        let mut logits = vec![-20f32; 16];
        logits[peak] = 2.0;
        let map = |values: Vec<f32>, last| {
            Tensor::from_vec(values, &[1, 4, 4, last], &Device::Cpu).unwrap()
        };
        tensors.insert(format!("{kind}_heat"), map(logits, 1));
        tensors.insert(format!("{kind}_embed"), map(vec![0.5; 16], 1));
        tensors.insert(format!("{kind}_offset"), map(vec![0.25; 32], 2));
    }
    write_tensors(&input, &tensors).unwrap();
    for dtype in ["f32", "f16", "bf16"] {
        let settings = ["--dtype", dtype, "--set", "topk=3", "--set", "num_dets=2"];
        let found = agreed(&scratch, "corner_decode", &input, &settings);
        let boxes = found.tensor("boxes").unwrap().to_vec::<f32>().unwrap();
        assert_eq!(boxes[..4], [1.25, 0.25, 2.25, 3.25], "{dtype}");
        assert_eq!(found.names(), ["boxes", "classes", "count", "scores"]);
    }
}
