//! `ocelli op heatmap_focal_loss`.

use crate::op;
use crate::program::{Scratch, assert_success};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{Device, Tensor};
use std::collections::BTreeMap;

#[test]
fn a_heatmap_loss_keeps_its_targets_exact_in_every_type() {
    let scratch = Scratch::new("heatmap");
    let input = scratch.file("in.safetensors");
    let logits = (0..24).map(|i| i as f32 / 4.0 - 3.0).collect();
    let logits = Tensor::from_vec::<f32>(logits, &[1, 3, 4, 2], &Device::Cpu).unwrap();
    // In bf16 this would be 1, and so a positive.
    let mut target = vec![0.999f32; 24];
    target[5] = 1.0;
    let target = Tensor::from_vec(target, &[1, 3, 4, 2], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("logits".into(), logits), ("target".into(), target)]);
    write_tensors(&input, &tensors).unwrap();
    let mut losses = Vec::new();
    for device in ["reference", "cpu"] {
        for dtype in ["f32", "bf16"] {
            let output = scratch.file(&format!("{device}-{dtype}"));
            let settings = ["--device", device, "--dtype", dtype, "--set", "clamp=1e-4"];
            let run = op("heatmap_focal_loss", &input, &output, &settings);
            assert_success(&run);
            let file = TensorFile::open(&output).unwrap();
            assert_eq!(file.names(), ["dlogits", "loss"]);
            losses.push(file.tensor("loss").unwrap().to_vec::<f32>().unwrap()[0]);
        }
    }
    for loss in &losses {
        assert!((loss - losses[0]).abs() <= 1e-6 * losses[0], "{losses:?}");
    }
}
