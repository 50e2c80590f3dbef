//! `ocelli op` and `ocelli info` as a user runs them.

#[path = "../program/mod.rs"]
mod program;

mod anchor_decode;
mod attention;
mod corner_decode;
mod corner_pool;
mod heatmap_focal_loss;
mod match_anchors;
mod nms;
mod sigmoid_focal_loss;
mod soft_nms;

use ocelli::io::TensorFile;
use program::{Scratch, assert_success, ocelli, text};
use std::path::Path;
use std::process::Output;

/// Runs an op with these further arguments.
fn op(name: &str, input: &Path, output: &Path, more: &[&str]) -> Output {
    let fixed = ["op", name, "--in", text(input), "--out", text(output)];
    ocelli(&[&fixed[..], more].concat())
}

/// Runs an op on the CPU and by the reference, and returns what both wrote, which must have the same bits.
fn agreed(scratch: &Scratch, name: &str, input: &Path, more: &[&str]) -> TensorFile {
    let files = ["reference", "cpu"].map(|device| {
        let output = scratch.file(device);
        let run = op(
            name,
            input,
            &output,
            &[more, &["--device", device]].concat(),
        );
        assert_success(&run);
        output
    });
    assert_eq!(
        std::fs::read(&files[0]).unwrap(),
        std::fs::read(&files[1]).unwrap()
    );
    TensorFile::open(&files[1]).unwrap()
}

#[test]
fn info_names_devices_and_kernels() {
    let run = ocelli(&["info"]);
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success());
    for part in ["ocelli ", "kernels: ", "cpu: ", "cuda"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
