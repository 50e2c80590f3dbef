//! `ocelli detect` and `ocelli infer` with RetinaNet, as a user runs them.

mod program;

use image::{GrayImage, Luma, Rgb, RgbImage, RgbaImage};
use ocelli::io::{TensorFile, Weights, write_tensors};
use ocelli::models::resnet;
use ocelli::models::retinanet::{Config, ImageTransform, RetinaNet};
use ocelli::{DType, Device, Tensor};
use program::{Scratch, assert_success, ocelli};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The path of a file of a test.
fn file(scratch: &Scratch, name: &str) -> String {
    scratch.file(name).to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A RetinaNet of two classes with weights that find something everywhere; `metadata` goes into the file.
fn write_weights(path: &str, metadata: &[(&str, &str)]) {
    let config = Config {
        backbone: resnet::Config {
            bottleneck: false,
            depths: [1; 4],
            width: 4,
        },
        channels: 8,
        classes: 2,
        ..Config::default()
    };
    let mut listing = Weights::listing();
    RetinaNet::load(&mut listing, &config).unwrap();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensors = HashMap::new();
    for (name, shape) in listing.parameters() {
        let len: usize = shape.iter().product();
        let fan: usize = shape.iter().skip(1).product();
        let value = |_| match name {
            name if name.ends_with("running_var") => 1.0,
            name if name.ends_with("cls_logits.bias") => -1.0,
            _ => random() * (6.0 / fan.max(1) as f32).sqrt().min(1.0),
        };
        let values: Vec<f32> = (0..len).map(value).collect();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        tensors.insert(name.clone(), (shape.clone(), bytes));
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    let pairs = metadata
        .iter()
        .map(|&(key, value)| (key.into(), value.into()));
    let bytes = safetensors::serialize(views, Some(pairs.collect())).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A picture of coloured stripes.
fn stripes(width: u32, height: u32) -> RgbImage {
    let colour = |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, ((x ^ y) * 5) as u8]);
    RgbImage::from_fn(width, height, colour)
}

fn results(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str::<Vec<Value>>(&text).unwrap()
}

#[test]
fn a_folder_with_an_unreadable_image_is_gone_through_to_its_end() {
    let scratch = Scratch::new("folder");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[("classes", "cat,dog"), ("resize", "none")]);
    let folder = file(&scratch, "images");
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &str| Path::new(&folder).join(name);
    std::fs::write(path("a_broken.png"), b"\x89PNG\r\n\x1a\n nothing more").unwrap();
    stripes(40, 31).save(path("b.png")).unwrap();
    GrayImage::from_fn(33, 20, |x, y| Luma([(x * y) as u8]))
        .save(path("c.png"))
        .unwrap();
    RgbaImage::new(7, 64).save(path("d.png")).unwrap();
    stripes(50, 20).save(path("e.jpg")).unwrap();
    std::fs::write(path("notes.txt"), "no image").unwrap();
    let (json, out) = (file(&scratch, "found.json"), file(&scratch, "pictures"));
    let common = [
        "detect",
        "--model",
        "retinanet",
        "--device",
        "cpu",
        "--weights",
    ];
    let more = [
        &weights,
        &folder,
        "--json",
        &json,
        "--out",
        &out,
        "--repeat",
        "2",
        "--show-above",
        "0.06",
    ];
    let run = ocelli(&[&common[..], &more[..]].concat());
    assert!(!run.status.success());
    let (printed, errors) = (text(&run.stdout), text(&run.stderr));
    assert!(
        errors.contains("a_broken.png: cannot be read as an image"),
        "{errors}"
    );
    assert!(
        errors.ends_with("error: 1 of 5 images could not be read\n"),
        "{errors}"
    );
    assert_eq!(printed.lines().count(), 4, "{printed}");
    assert!(
        printed.contains(" x dog") && printed.contains(" ms)"),
        "{printed}"
    );
    let results = results(&json);
    let ids: std::collections::BTreeSet<_> = results
        .iter()
        .map(|found| found["image_id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    for found in &results {
        let bounds: Vec<f64> = found["bbox"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect();
        let file = found["file"].as_str().unwrap();
        let (width, height) = image::image_dimensions(file).unwrap();
        assert!(bounds[0] >= 0.0 && bounds[0] + bounds[2] <= f64::from(width) + 1e-3);
        assert!(bounds[1] >= 0.0 && bounds[1] + bounds[3] <= f64::from(height) + 1e-3);
        assert!(found["category_id"].as_u64().unwrap() < 2);
        assert!(found["score"].as_f64().unwrap() > 0.05);
    }
    let drawn = image::open(Path::new(&out).join("b.png"))
        .unwrap()
        .into_rgb8();
    assert_eq!(drawn.dimensions(), (40, 31));
    assert_ne!(drawn, stripes(40, 31));
    assert!(Path::new(&out).join("e.png").exists());
    assert!(!Path::new(&out).join("a_broken.png").exists());
}

/// The start of a PNG of 10,000 x 2,147,483,647 pixels, 64 TB, and an empty chunk of them.
const IMMENSE: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x27\x10\x7f\xff\xff\xff\x08\x02\0\0\0\x43\x43\x1b\xe7\
    \0\0\0\0IDAT\x35\xaf\x06\x1e";

#[test]
fn an_image_that_asks_for_more_than_memory_is_passed_over() {
    let scratch = Scratch::new("immense");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[("resize", "none")]);
    let [immense, sound] = ["immense.png", "sound.png"].map(|name| file(&scratch, name));
    std::fs::write(&immense, IMMENSE).unwrap();
    stripes(40, 31).save(&sound).unwrap();
    let common = ["detect", "--model", "retinanet", "--device", "cpu"];
    let more = ["--weights", &weights, &immense, &sound];
    let run = ocelli(&[&common[..], &more].concat());
    let (printed, errors) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("immense.png: cannot be read as an image: Memory limit exceeded"),
        "{errors}"
    );
    assert!(
        errors.ends_with("error: 1 of 2 images could not be read\n"),
        "{errors}"
    );
    assert!(printed.starts_with(&format!("{sound}: ")), "{printed}");
}

#[test]
fn classes_without_names_have_numbers() {
    let scratch = Scratch::new("numbers");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[("resize", "none")]);
    let picture = file(&scratch, "x.png");
    stripes(40, 31).save(&picture).unwrap();
    let common = ["detect", "--model", "retinanet", "--device", "cpu"];
    let more = ["--weights", &weights, &picture, "--show-above", "0.06"];
    let run = ocelli(&[&common[..], &more].concat());
    assert_success(&run);
    let printed = text(&run.stdout);
    assert!(
        printed.contains(" x class ") && !printed.contains("person"),
        "{printed}"
    );
}

#[test]
fn results_are_those_of_the_library_at_torchvisions_scale() {
    let scratch = Scratch::new("scale");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[]);
    let image = stripes(37, 23);
    let (picture, json) = (file(&scratch, "x.png"), file(&scratch, "x.json"));
    image.save(&picture).unwrap();
    let run = ocelli(&[
        "detect",
        "--model",
        "retinanet",
        "--device",
        "cpu",
        "--weights",
        &weights,
        &picture,
        "--json",
        &json,
        "--set",
        "min_size=64",
        "--set",
        "max_size=90",
    ]);
    assert_success(&run);
    let mut loaded = Weights::open(&weights, &Device::Cpu, DType::F32).unwrap();
    let model = RetinaNet::open(&mut loaded).unwrap();
    loaded.finish().unwrap();
    let values = image.as_raw().iter().map(|&byte| f32::from(byte) / 255.0);
    let pixels = Tensor::from_vec(values.collect(), &[23, 37, 3], &Device::Cpu).unwrap();
    let transform = ImageTransform {
        sides: Some([64, 90]),
        ..ImageTransform::default()
    };
    let found = model
        .detect(&[pixels], &transform, &Default::default())
        .unwrap();
    let results = results(&json);
    assert_eq!(results.len(), found[0].len());
    assert!(!results.is_empty());
    for (result, detection) in results.iter().zip(&found[0]) {
        assert_eq!(result["score"].as_f64().unwrap() as f32, detection.score);
        assert_eq!(
            result["bbox"][0].as_f64().unwrap() as f32,
            detection.corners[0]
        );
        assert_eq!(
            result["category_id"].as_u64().unwrap() as usize,
            detection.class
        );
    }
}

#[test]
fn mistakes_are_one_clear_line() {
    let scratch = Scratch::new("mistakes");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[("classes", "cat,dog,bird")]);
    let image = file(&scratch, "x.png");
    stripes(8, 8).save(&image).unwrap();
    let other = file(&scratch, "other.safetensors");
    let tensor = Tensor::zeros(&[1], DType::F32, &Device::Cpu).unwrap();
    write_tensors(&other, &BTreeMap::from([("surplus".into(), tensor)])).unwrap();
    let empty = file(&scratch, "empty");
    std::fs::create_dir(&empty).unwrap();
    let run = |model: &str, weights: &str, image: &str, more: &[&str]| {
        let arguments = [
            "detect",
            "--device",
            "cpu",
            "--model",
            model,
            "--weights",
            weights,
            image,
        ];
        let run = ocelli(&[&arguments[..], more].concat());
        assert!(!run.status.success());
        let errors = text(&run.stderr);
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    };
    for (errors, part) in [
        (
            run("yolo", &weights, &image, &[]),
            "unknown model `yolo`; known: cornernet, retinanet",
        ),
        (
            run("retinanet", &weights, &image, &[]),
            "the metadata name 3 classes, the head has 2",
        ),
        (
            run("retinanet", &other, &image, &[]),
            "`surplus` belongs to no part of the model",
        ),
        (
            run("retinanet", &other, &image, &[]),
            "`backbone.body.conv1.weight` is missing",
        ),
        (run("retinanet", "nowhere", &image, &[]), "nowhere: "),
        (
            run("retinanet", &weights, &empty, &[]),
            "no PNG or JPEG file in this folder",
        ),
        (
            run("retinanet", &weights, &image, &["--set", "scale=1"]),
            "unknown key `scale`",
        ),
        (
            run("retinanet", &weights, &image, &["--set", "min_size=0"]),
            "must be 1 to 32768",
        ),
        (
            run("retinanet", &weights, &image, &["--set", "norm_eps=NaN"]),
            "finite and at least 0",
        ),
    ] {
        assert!(errors.contains(part), "{errors}");
    }
}

#[test]
fn infer_gives_the_heads_outputs() {
    let scratch = Scratch::new("infer");
    let weights = file(&scratch, "w.safetensors");
    write_weights(&weights, &[]);
    let (input, output) = (file(&scratch, "in"), file(&scratch, "out"));
    let values: Vec<f32> = (0..64 * 32 * 3).map(|i| (i as f32 * 0.37).sin()).collect();
    let image = Tensor::from_vec(values, &[1, 64, 32, 3], &Device::Cpu).unwrap();
    write_tensors(&input, &BTreeMap::from([("image".into(), image.clone())])).unwrap();
    let infer = |model: &str| {
        ocelli(&[
            "infer",
            model,
            "--weights",
            &weights,
            "--in",
            &input,
            "--out",
            &output,
            "--device",
            "cpu",
        ])
    };
    let run = infer("retinanet_resnet50_fpn");
    assert_success(&run);
    let file = TensorFile::open(&output).unwrap();
    let mut loaded = Weights::open(&weights, &Device::Cpu, DType::F32).unwrap();
    let expected = RetinaNet::open(&mut loaded)
        .unwrap()
        .forward(&image)
        .unwrap();
    for level in 0..5 {
        let logits = file.tensor(&format!("logits_{level}")).unwrap();
        assert_eq!(logits.shape(), expected.logits[level].shape());
        assert_eq!(
            logits.to_vec::<f32>(),
            expected.logits[level].to_vec::<f32>()
        );
        let deltas = file.tensor(&format!("deltas_{level}")).unwrap();
        assert_eq!(
            deltas.to_vec::<f32>(),
            expected.deltas[level].to_vec::<f32>()
        );
    }
    // The second version has norms in its heads, which this file lacks.
    let run = infer("retinanet_resnet50_fpn_v2");
    assert!(!run.status.success());
    assert!(text(&run.stderr).contains("conv.0.1.weight` is missing"));
}
