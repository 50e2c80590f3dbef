//! The detectors of `assets/` on held-out scenes: average precision by COCO's rules.

mod program;

use hotcoco::params::IouType;
use hotcoco::{COCO, COCOeval};
use ocelli::io::{TensorFile, write_tensors};
use ocelli::{DType, Device, Tensor};
use program::{Scratch, ocelli};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Average precision over IoU 0.5 to 0.95, and at 0.5, on the scenes of `assets/digits`.
fn precision(model: &str) -> [f64; 2] {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let weights = assets.join(format!("{model}_digits.safetensors"));
    let scratch = Scratch::new(model);
    let results = scratch.file("results.json");
    let scenes = scenes(&assets.join("digits"));
    let mut arguments = vec!["detect", "--device", "cpu", "--model", model];
    for (option, path) in [("--weights", &weights), ("--json", &results)] {
        arguments.extend([option, path.to_str().unwrap()]);
    }
    arguments.extend(scenes.iter().map(|scene| scene.to_str().unwrap()));
    let run = ocelli(&arguments);
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let truth = COCO::new(&assets.join("digits/annotations.json")).unwrap();
    let found = truth.load_res(&results).unwrap();
    let mut evaluation = COCOeval::new(truth, found, IouType::Bbox);
    evaluation.run().unwrap();
    let stats = evaluation.stats().unwrap();
    println!("{model}: AP {:.3}, AP50 {:.3}", stats[0], stats[1]);
    [stats[0], stats[1]]
}

/// In the order of the annotations, by which results are numbered.
fn scenes(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut scenes: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "jpg"))
        .collect();
    scenes.sort();
    assert_eq!(scenes.len(), 20);
    scenes
}

/// AP and AP50 must reach a floor a quarter below what PyTorch finds with the same weights and scenes.
fn at_least(model: &str, floor: [f64; 2]) {
    let found = precision(model);
    assert!(found[0] >= floor[0] && found[1] >= floor[1], "{found:?}");
}

#[test]
fn retinanet_finds_the_digits() {
    at_least("retinanet", [0.14, 0.22]);
}

#[test]
fn cornernet_finds_the_digits() {
    at_least("cornernet", [0.31, 0.43]);
}

#[test]
fn infer_gives_the_heads() {
    let weights =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/cornernet_digits.safetensors");
    let scratch = Scratch::new("heads");
    let (input, output) = (
        scratch.file("in.safetensors"),
        scratch.file("out.safetensors"),
    );
    let image = Tensor::zeros(&[1, 63, 95, 3], DType::F32, &Device::Cpu).unwrap();
    write_tensors(&input, &BTreeMap::from([("image".into(), image)])).unwrap();
    let heat = |more: &[&str]| {
        let [weights, input, output] =
            [&weights, &input, &output].map(|path| path.to_str().unwrap());
        let model = ["infer", "cornernet_hourglass104", "--device", "cpu"];
        let files = ["--weights", weights, "--in", input, "--out", output];
        let run = ocelli(&[&model[..], &files, more].concat());
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let outputs = TensorFile::open(output).unwrap();
        for corner in ["tl", "br"] {
            for (head, channels) in [("heat", 10), ("embed", 1), ("offset", 2)] {
                let head = outputs.tensor(&format!("{corner}_{head}")).unwrap();
                assert_eq!(head.shape(), [1, 16, 24, channels]);
            }
        }
        outputs.tensor("tl_heat").unwrap().to_vec::<f32>().unwrap()
    };
    assert_ne!(heat(&[]), heat(&["--set", "pooling=false"]));
}
