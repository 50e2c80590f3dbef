//! `ocelli infer vit`, `infer saliency`, `classify`, `saliency` and `attend` as a user runs them, on the golden weights
//! of the library's tests.

mod program;

use image::{Rgb, RgbImage};
use ocelli::io::{TensorFile, Weights};
use ocelli::models::saliency::Saliency;
use ocelli::models::vit::{Config, Vit};
use ocelli::{DType, Device};
use program::{
    Scratch, assert_success, error_text, golden, ocelli, ocelli_simulated, text, write_part,
};
use std::path::PathBuf;
use std::process::Output;

/// A golden model's weights and inputs as files `weights` and `in`, and two pictures.
fn files(test: &str, model: &str) -> Scratch {
    let scratch = Scratch::new(test);
    write_part(&golden(model), "weights.", &scratch.file("weights"));
    write_part(&golden(model), "in.", &scratch.file("in"));
    for (name, [width, height]) in [("wide.png", [40, 20]), ("tall.jpg", [9, 30])] {
        let pixel = |x: u32, y: u32| Rgb([(x * 6) as u8, (y * 8) as u8, 90]);
        let picture = RgbImage::from_fn(width, height, pixel);
        picture.save(scratch.file(name)).unwrap();
    }
    scratch
}

fn infer(scratch: &Scratch, model: &str, options: &[&str]) -> Output {
    let [weights, input, out] = ["weights", "in", "out"].map(|name| scratch.file(name));
    let arguments = [
        "infer",
        model,
        "--weights",
        text(&weights),
        "--in",
        text(&input),
        "--out",
        text(&out),
    ];
    ocelli(&[&arguments, options].concat())
}

fn values(file: PathBuf, name: &str) -> Vec<f32> {
    let tensor = TensorFile::open(file).unwrap().tensor(name).unwrap();
    tensor.to_vec::<f32>().unwrap()
}

#[test]
fn vit_is_the_librarys() {
    let scratch = files("vit", "vit_timm");
    let heads = ["--device", "cpu", "--set", "heads=2"];
    assert_success(&infer(&scratch, "vit", &heads));
    let mut weights = Weights::open(scratch.file("weights"), &Device::Cpu, DType::F32).unwrap();
    let config = Config {
        heads: 2,
        ..Config::of(&weights).unwrap()
    };
    let vit = Vit::load(&mut weights, &config).unwrap();
    let image = TensorFile::open(scratch.file("in"))
        .unwrap()
        .tensor("image")
        .unwrap();
    let encoded = vit.forward(&image).unwrap();
    let features = encoded.features.to_vec::<f32>().unwrap();
    assert_eq!(values(scratch.file("out"), "features"), features);
    let logits = encoded.logits.unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values(scratch.file("out"), "logits"), logits);
}

#[test]
fn saliency_is_the_librarys() {
    let scratch = files("infer-saliency", "saliency");
    assert_success(&infer(&scratch, "saliency", &["--device", "cpu"]));
    let mut weights = Weights::open(scratch.file("weights"), &Device::Cpu, DType::F32).unwrap();
    let config = Config::of(&weights).unwrap();
    let model = Saliency::load(&mut weights, &config, [24, 24]).unwrap();
    let image = TensorFile::open(scratch.file("in"))
        .unwrap()
        .tensor("image")
        .unwrap();
    let importance = model.forward(&image).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(values(scratch.file("out"), "importance"), importance);
}

#[test]
fn images_are_classified_on_both_backends() {
    let scratch = files("classify", "vit_torchvision");
    let [weights, wide, tall] = ["weights", "wide.png", "tall.jpg"].map(|name| scratch.file(name));
    let arguments = [
        "classify",
        "--weights",
        text(&weights),
        "--set",
        "heads=2",
        text(&wide),
        text(&tall),
    ];
    let run = ocelli(&[&arguments[..], &["--device", "cpu"]].concat());
    assert_success(&run);
    let output = String::from_utf8(run.stdout).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert!(
        lines[0].starts_with(&format!("{}: class ", wide.display())),
        "{output}"
    );
    assert_eq!(lines[0].matches(" %").count(), 5, "{output}");
    let Some(run) = ocelli_simulated(&[&arguments[..], &["--device", "cuda"]].concat()) else {
        return;
    };
    assert_success(&run);
    let simulated = String::from_utf8(run.stdout).unwrap();
    for (line, cpu) in simulated.lines().zip(lines) {
        let classes = |line: &str| line.split(" (").next().map(str::to_owned);
        assert_eq!(classes(line), classes(cpu));
    }
}

#[test]
fn a_model_without_a_head_does_not_classify() {
    let scratch = files("headless", "vit_dinov2");
    let [weights, wide] = ["weights", "wide.png"].map(|name| scratch.file(name));
    let run = ocelli(&[
        "classify",
        "--weights",
        text(&weights),
        "--device",
        "cpu",
        text(&wide),
    ]);
    assert!(!run.status.success());
    let error = error_text(&run);
    assert!(
        error.ends_with("weights: the model has no head to classify with\n"),
        "{error}"
    );
}

#[test]
fn places_get_pictures_and_unreadable_images_are_passed_over() {
    let scratch = files("attend", "vit_timm");
    let bad = scratch.file("bad.png");
    std::fs::write(&bad, "no image").unwrap();
    let [weights, wide, tall, out] =
        ["weights", "wide.png", "tall.jpg", "out"].map(|name| scratch.file(name));
    let run = ocelli(&[
        "attend",
        "--weights",
        text(&weights),
        "--set",
        "heads=2",
        "--device",
        "cpu",
        "--at",
        "0.5,0.5",
        "--at",
        "0.1,0.9",
        "--out",
        text(&out),
        text(&wide),
        text(&bad),
        text(&tall),
    ]);
    assert!(!run.status.success());
    let error = error_text(&run);
    assert!(
        error.contains("bad.png: cannot be read as an image"),
        "{error}"
    );
    assert!(
        error.ends_with("error: 1 of 3 images could not be read\n"),
        "{error}"
    );
    for (name, size) in [("wide.png", (120, 20)), ("tall.png", (27, 30))] {
        assert_eq!(
            image::open(out.join(name))
                .unwrap()
                .into_rgb8()
                .dimensions(),
            size
        );
    }
}

#[test]
fn no_picture_replaces_an_input() {
    let scratch = files("replaces", "vit_timm");
    let [weights, folder, wide] = ["weights", "", "wide.png"].map(|name| scratch.file(name));
    let before = std::fs::read(&wide).unwrap();
    // The same folder by another name.
    let out = folder.join("../").join(folder.file_name().unwrap());
    for command in [
        &["detect", "--model", "retinanet"][..],
        &["attend", "--at", "0.5,0.5"],
        &["saliency"],
    ] {
        let paths = [
            text(&folder),
            "--weights",
            text(&weights),
            "--out",
            text(&out),
        ];
        let run = ocelli(&[command, &paths, &["--device", "cpu"]].concat());
        assert!(!run.status.success());
        let error = error_text(&run);
        let message = "wide.png: would overwrite an input; choose another --out\n";
        assert!(error.ends_with(message), "{error}");
        assert_eq!(std::fs::read(&wide).unwrap(), before);
        // The picture of tall.jpg would have been the first, and replaces nothing.
        assert!(!scratch.file("tall.png").exists());
    }
}

#[test]
fn bad_arguments_are_errors() {
    let scratch = files("bad-vit", "vit_timm");
    for (set, message) in [
        ("heads=3", "3 heads do not divide the width 16"),
        ("depth=2", "unknown key `depth`"),
    ] {
        let run = infer(&scratch, "vit", &["--device", "cpu", "--set", set]);
        assert!(!run.status.success());
        assert!(error_text(&run).contains(message), "{}", error_text(&run));
    }
    assert!(!scratch.file("out").exists());
    // The input is of no size that torchvision's positions fit.
    write_part(
        &golden("vit_torchvision"),
        "weights.",
        &scratch.file("weights"),
    );
    let input = TensorFile::open(scratch.file("in"))
        .unwrap()
        .tensor("other")
        .unwrap();
    let tensors = [("image".to_string(), input)].into();
    ocelli::io::write_tensors(scratch.file("in"), &tensors).unwrap();
    let run = infer(&scratch, "vit", &["--device", "cpu", "--set", "heads=2"]);
    let error = error_text(&run);
    assert!(
        error.contains("vit: image must be 16 x 16, as its positions, got 20 x 24"),
        "{error}"
    );
}
