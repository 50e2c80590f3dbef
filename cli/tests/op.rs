//! `ocelli op` and `ocelli info` as a user runs them.

use ocelli::io::{TensorFile, write_tensors};
use ocelli::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of its own for a test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ocelli-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ocelli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs an op with these further arguments.
fn op(name: &str, input: &Path, output: &Path, more: &[&str]) -> Output {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    ocelli(&[&["op", name, "--in", input, "--out", output], more].concat())
}

fn focal_input(path: &Path) {
    let logits: Vec<f32> = (0..12).map(|i| i as f32 - 6.0).collect();
    let logits = Tensor::from_vec(logits, &[4, 3], &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(vec![-1i32, 2, -2, 0], &[4], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("logits".into(), logits), ("labels".into(), labels)]);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn cpu_and_reference_agree() {
    let scratch = Scratch::new("agree");
    let input = scratch.file("in.safetensors");
    focal_input(&input);
    let mut losses = Vec::new();
    for device in ["reference", "cpu"] {
        let output = scratch.file(device);
        let settings = [
            "--device",
            device,
            "--set",
            "gamma=1.5",
            "--set",
            "normalizer=3",
        ];
        let run = op("sigmoid_focal_loss", &input, &output, &settings);
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        let file = TensorFile::open(&output).unwrap();
        assert_eq!(file.names(), ["dlogits", "loss"]);
        assert_eq!(file.tensor("dlogits").unwrap().shape(), [4, 3]);
        losses.push(file.tensor("loss").unwrap().to_vec::<f32>().unwrap()[0]);
    }
    assert!(
        (losses[0] - losses[1]).abs() <= 1e-6 * losses[0],
        "{losses:?}"
    );
}

#[test]
fn the_simulated_gpu_agrees_with_the_cpu() {
    let simulator = match ptxsim::client::load_always() {
        Ok(simulator) => simulator.path().to_owned(),
        Err(error) => {
            assert!(
                !std::env::var("OCELLI_REQUIRE_SIM").is_ok_and(|value| value == "1"),
                "{error}"
            );
            println!("skipped: {error}");
            return;
        }
    };
    let scratch = Scratch::new("simulated");
    let (input, cpu, cuda) = (
        scratch.file("in"),
        scratch.file("cpu"),
        scratch.file("cuda"),
    );
    focal_input(&input);
    assert!(
        op("sigmoid_focal_loss", &input, &cpu, &["--device", "cpu"])
            .status
            .success()
    );
    let run = Command::new(env!("CARGO_BIN_EXE_ocelli"))
        .env("LD_PRELOAD", simulator)
        .args([
            "op",
            "sigmoid_focal_loss",
            "--device",
            "cuda",
            "--in",
            input.to_str().unwrap(),
        ])
        .args(["--out", cuda.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stderr);
    if text.contains("holds no CUDA kernels") {
        println!("skipped: {text}");
        return;
    }
    assert!(run.status.success(), "{text}");
    let loss = |path: &Path| {
        TensorFile::open(path)
            .unwrap()
            .tensor("loss")
            .unwrap()
            .to_vec::<f32>()
            .unwrap()[0]
    };
    assert!((loss(&cuda) - loss(&cpu)).abs() <= 1e-6 * loss(&cpu));
}

#[test]
fn dtype_casts_the_input() {
    let scratch = Scratch::new("dtype");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    focal_input(&input);
    let run = op(
        "sigmoid_focal_loss",
        &input,
        &output,
        &["--device", "cpu", "--dtype", "bf16"],
    );
    assert!(run.status.success());
    let gradient = TensorFile::open(&output)
        .unwrap()
        .tensor("dlogits")
        .unwrap();
    assert_eq!(gradient.dtype(), DType::BF16);
}

#[test]
fn mistakes_are_one_clear_line_and_no_file() {
    let scratch = Scratch::new("mistakes");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    focal_input(&input);
    let empty = scratch.file("empty");
    write_tensors(&empty, &BTreeMap::new()).unwrap();
    let missing = scratch.file("missing");
    let cases: [(&str, &Path, &[&str], &str); 8] = [
        ("nonsense", &input, &[], "unknown op `nonsense`"),
        ("sigmoid_focal_loss", &missing, &[], "No such file"),
        ("sigmoid_focal_loss", &empty, &[], "has no tensor `logits`"),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "beta=1"],
            "unknown key `beta`",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "alpha=x"],
            "alpha=x",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "alpha=2"],
            "alpha must be in [0, 1], got 2",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--set", "gamma=nan"],
            "gamma must be",
        ),
        (
            "sigmoid_focal_loss",
            &input,
            &["--dtype", "f64"],
            "f32, f16 or bf16",
        ),
    ];
    for (name, input, more, message) in cases {
        for device in ["cpu", "reference"] {
            let run = op(
                name,
                input,
                &output,
                &[more, &["--device", device]].concat(),
            );
            let text = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(
                !run.status.success() && text.contains(message),
                "{message}: {text}"
            );
            assert!(!output.exists(), "{message}");
        }
    }
}

#[test]
fn a_misshapen_tensor_is_named() {
    let scratch = Scratch::new("misshapen");
    let (input, output) = (scratch.file("in"), scratch.file("out"));
    let logits = Tensor::zeros(&[4, 3], DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::zeros(&[5], DType::I32, &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([("logits".into(), logits), ("labels".into(), labels)]);
    write_tensors(&input, &tensors).unwrap();
    let run = op("sigmoid_focal_loss", &input, &output, &["--device", "cpu"]);
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        text.contains("sigmoid_focal_loss: labels must be [4], got [5]"),
        "{text}"
    );
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

fn nms_input(path: &Path) {
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
            let error = String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{error}");
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
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && !output.exists());
    let expected = "nms: iou_threshold must be finite and at least 0, got -0.5";
    assert!(error.contains(expected), "{error}");
}

fn attention_input(path: &Path) {
    let tensor = |shape: &[usize], seed: usize| {
        let len: usize = shape.iter().product();
        let values = (0..len)
            .map(|i| ((i * 37 + seed * 11) as f32).sin())
            .collect();
        Tensor::from_vec::<f32>(values, shape, &Device::Cpu).unwrap()
    };
    let lengths = Tensor::from_vec(vec![7i32, 4], &[2], &Device::Cpu).unwrap();
    let tensors = BTreeMap::from([
        ("q".into(), tensor(&[2, 5, 4, 8], 1)),
        ("k".into(), tensor(&[2, 7, 2, 8], 2)),
        ("v".into(), tensor(&[2, 7, 2, 8], 3)),
        ("bias".into(), tensor(&[1, 4, 5, 7], 4)),
        ("kv_lengths".into(), lengths),
        ("dout".into(), tensor(&[2, 5, 4, 8], 5)),
    ]);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn attention_gives_outputs_and_gradients_on_every_device() {
    let scratch = Scratch::new("attention");
    let input = scratch.file("in.safetensors");
    attention_input(&input);
    let names = ["dbias", "dk", "dq", "dv", "lse", "out"];
    let mut results = Vec::new();
    for device in ["reference", "cpu"] {
        let output = scratch.file(device);
        let settings = [
            "--set",
            "causal=true",
            "--set",
            "window_left=3",
            "--set",
            "window_right=-1",
            "--set",
            "softcap=2",
        ];
        let run = op(
            "attention",
            &input,
            &output,
            &[&settings[..], &["--device", device]].concat(),
        );
        let error = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{error}");
        let file = TensorFile::open(&output).unwrap();
        assert_eq!(file.names(), names);
        assert_eq!(file.tensor("lse").unwrap().shape(), [2, 4, 5]);
        assert_eq!(file.tensor("dbias").unwrap().shape(), [1, 4, 5, 7]);
        results.push(names.map(|name| file.tensor(name).unwrap().to_vec::<f32>().unwrap()));
    }
    for (exact, actual) in results[0].iter().zip(&results[1]) {
        for (exact, actual) in exact.iter().zip(actual) {
            assert!(
                exact == actual || (exact - actual).abs() <= 2e-6,
                "{exact} and {actual}"
            );
        }
    }
    let output = scratch.file("wrong");
    let run = op(
        "attention",
        &input,
        &output,
        &["--device", "cpu", "--set", "window_left=-2"],
    );
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && !output.exists());
    assert!(
        error.contains("window_left=-2: must be -1 for none, or at least 0"),
        "{error}"
    );
}

#[test]
fn corner_pools_agree_with_the_reference_and_need_a_direction() {
    let scratch = Scratch::new("corner-pool");
    let input = scratch.file("in.safetensors");
    let map = |start: usize| {
        let values: Vec<f32> = (start..start + 60).map(|i| ((i * 7) % 13) as f32).collect();
        Tensor::from_vec(values, &[1, 5, 4, 3], &Device::Cpu).unwrap()
    };
    let tensors = BTreeMap::from([
        ("x".into(), map(0)),
        ("vertical".into(), map(1)),
        ("horizontal".into(), map(2)),
        ("dout".into(), map(3)),
    ]);
    write_tensors(&input, &tensors).unwrap();
    for (name, setting, outputs) in [
        ("corner_pool", "direction=bottom", &["dx", "out"][..]),
        (
            "corner_pool_pair",
            "corner=top_left",
            &["dhorizontal", "dvertical", "out"],
        ),
    ] {
        let files = ["reference", "cpu"].map(|device| {
            let output = scratch.file(&format!("{name}-{device}"));
            let run = op(
                name,
                &input,
                &output,
                &["--device", device, "--set", setting],
            );
            assert!(
                run.status.success(),
                "{}",
                String::from_utf8_lossy(&run.stderr)
            );
            TensorFile::open(&output).unwrap()
        });
        assert_eq!(files[0].names(), outputs);
        for output in outputs {
            let values = |file: &TensorFile| file.tensor(output).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(values(&files[0]), values(&files[1]), "{name} {output}");
        }
        let missing = op(name, &input, &scratch.file("none"), &["--device", "cpu"]);
        let key = setting.split('=').next().unwrap();
        let text = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert!(
            text.contains(&format!("--set {key}=.. is missing")),
            "{text}"
        );
    }
}

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
            assert!(
                run.status.success(),
                "{}",
                String::from_utf8_lossy(&run.stderr)
            );
            let file = TensorFile::open(&output).unwrap();
            assert_eq!(file.names(), ["dlogits", "loss"]);
            losses.push(file.tensor("loss").unwrap().to_vec::<f32>().unwrap()[0]);
        }
    }
    for loss in &losses {
        assert!((loss - losses[0]).abs() <= 1e-6 * losses[0], "{losses:?}");
    }
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
        let error = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{error}");
        output
    });
    assert_eq!(
        std::fs::read(&files[0]).unwrap(),
        std::fs::read(&files[1]).unwrap()
    );
    TensorFile::open(&files[1]).unwrap()
}

#[test]
fn the_first_command_of_the_readme_runs() {
    let boxes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/boxes.safetensors");
    let scratch = Scratch::new("readme");
    let kept = agreed(&scratch, "nms", &boxes, &["--set", "iou_threshold=0.5"]);
    let indices = kept.tensor("indices").unwrap().to_vec::<i32>().unwrap();
    assert_eq!(indices, [3, 0, 6, 7, -1, -1, -1, -1]);
}

#[test]
fn soft_nms_lowers_scores() {
    let scratch = Scratch::new("soft-nms");
    let input = scratch.file("in.safetensors");
    nms_input(&input);
    for method in ["linear", "gaussian"] {
        let method = format!("method={method}");
        let settings = [
            "--set",
            &method,
            "--set",
            "inclusive=true",
            "--set",
            "max_output=3",
        ];
        let kept = agreed(&scratch, "soft_nms", &input, &settings);
        let indices = kept.tensor("indices").unwrap().to_vec::<i32>().unwrap();
        let scores = kept.tensor("scores").unwrap().to_vec::<f32>().unwrap();
        assert_eq!(indices, [1, 2, 0], "{method}");
        assert!(scores[0] == 0.9 && scores[1] == 0.7 && scores[2] < 0.4);
    }
    let run = op(
        "soft_nms",
        &input,
        &scratch.file("out"),
        &["--set", "method=hard"],
    );
    assert!(!run.status.success());
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(error.contains("method=hard"), "{error}");
}

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
            assert!(
                run.status.success(),
                "{}",
                String::from_utf8_lossy(&run.stderr)
            );
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
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
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
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && text.contains(message), "{text}");
        assert!(!output.exists());
    }
}
