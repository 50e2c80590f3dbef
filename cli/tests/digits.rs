//! The detectors of `assets/` on held-out scenes: average precision by COCO's rules.

use hotcoco::params::IouType;
use hotcoco::{COCO, COCOeval};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Average precision over IoU 0.5 to 0.95, and at 0.5, on the scenes of `assets/digits`.
fn precision(model: &str) -> [f64; 2] {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let weights = assets.join(format!("{model}_digits.safetensors"));
    let results = std::env::temp_dir().join(format!("ocelli-{model}-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(["detect", "--device", "cpu", "--model", model, "--weights"])
        .arg(weights)
        .arg("--json")
        .arg(&results)
        .args(scenes(&assets.join("digits")))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let truth = COCO::new(&assets.join("digits/annotations.json")).unwrap();
    let found = truth.load_res(&results).unwrap();
    std::fs::remove_file(results).unwrap();
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

#[test]
fn retinanet_finds_the_digits() {
    let [all, half] = precision("retinanet");
    assert!(all >= 0.3 && half >= 0.5, "AP {all}, AP50 {half}");
}

#[test]
fn cornernet_finds_the_digits() {
    let [all, half] = precision("cornernet");
    assert!(all >= 0.3 && half >= 0.5, "AP {all}, AP50 {half}");
}
