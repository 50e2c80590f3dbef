//! `ocelli infer` as a user runs it, on the golden files of the library's tests.

mod program;

use ocelli::io::{TensorFile, Weights};
use ocelli::models::bert::{self, Bert, Padding};
use ocelli::models::transformer::{Config, Transformer};
use ocelli::params::Activation;
use ocelli::{DType, Device, Tensor};
use program::{
    Scratch, assert_success, error_text, golden, ocelli, ocelli_simulated, text, write_part,
};
use std::process::Output;

/// The files of one call.
struct Files {
    scratch: Scratch,
}

impl Files {
    fn new(test: &str, model: &str) -> Self {
        let scratch = Scratch::new(test);
        let golden = golden(model);
        write_part(&golden, "weights.", &scratch.file("weights"));
        write_part(&golden, "in.", &scratch.file("in"));
        Self { scratch }
    }

    /// The arguments of a call that writes `out`.
    fn arguments(&self, model: &str, out: &str, more: &[&str]) -> Vec<String> {
        let [weights, input, out] = ["weights", "in", out].map(|name| self.scratch.file(name));
        let fixed = [
            "infer",
            model,
            "--weights",
            text(&weights),
            "--in",
            text(&input),
        ];
        let all = [&fixed[..], &["--out", text(&out)], more].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn infer(&self, model: &str, out: &str, more: &[&str]) -> Output {
        let arguments = self.arguments(model, out, more);
        ocelli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A tensor of a file that the program wrote.
    fn output(&self, file: &str, name: &str) -> Tensor {
        let file = TensorFile::open(self.scratch.file(file)).unwrap();
        file.tensor(name).unwrap()
    }

    fn weights(&self) -> Weights {
        Weights::open(self.scratch.file("weights"), &Device::Cpu, DType::F32).unwrap()
    }

    fn input(&self, name: &str) -> Tensor {
        self.output("in", name)
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().to_vec().unwrap()
}

#[test]
fn the_transformer_is_the_librarys() {
    let files = Files::new("transformer", "transformer");
    let options = ["nhead=2", "norm_first=true", "activation=gelu"];
    let options = options.map(|option| ["--set", option]).concat();
    let run = files.infer(
        "transformer",
        "out",
        &[&options[..], &["--device", "cpu"][..]].concat(),
    );
    assert_success(&run);
    let mut weights = files.weights();
    let mut config = Config::of(&weights);
    config.layer.heads = 2;
    config.layer.norm_first = true;
    config.layer.activation = Activation::Gelu;
    let model = Transformer::load(&mut weights, &config).unwrap();
    let expected = model
        .forward(&files.input("src"), &files.input("tgt"))
        .unwrap();
    let out = files.output("out", "out");
    assert_eq!(out.shape(), expected.shape());
    assert_eq!(values(&out), values(&expected));
    let more = ["--set", "nhead=2", "--device", "cpu", "--dtype", "bf16"];
    assert_success(&files.infer("transformer", "bf16", &more));
    assert_eq!(files.output("bf16", "out").dtype(), DType::BF16);
}

#[test]
fn a_simulated_gpu_agrees() {
    let files = Files::new("simulated", "transformer");
    let more = ["--set", "nhead=2", "--device"];
    assert_success(&files.infer("transformer", "cpu", &[&more[..], &["cpu"]].concat()));
    let arguments = files.arguments("transformer", "cuda", &[&more[..], &["cuda"]].concat());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let Some(run) = ocelli_simulated(&arguments) else {
        return;
    };
    assert_success(&run);
    let [cpu, cuda] = ["cpu", "cuda"].map(|file| values(&files.output(file, "out")));
    for (cpu, cuda) in cpu.iter().zip(&cuda) {
        // Twice the error of f32 in the golden file, on each side.
        assert!((cpu - cuda).abs() <= 3e-6, "{cpu} and {cuda}");
    }
}

#[test]
fn bert_is_the_librarys_and_needs_its_heads() {
    let files = Files::new("bert", "bert");
    let run = files.infer("bert", "none", &["--device", "cpu"]);
    let error = error_text(&run);
    assert!(
        !run.status.success() && error.contains("--set heads=.."),
        "{error}"
    );
    let more = ["--device", "cpu", "--set", "heads=4"];
    assert_success(&files.infer("bert", "set", &more));
    let config = r#"{"model_type": "bert", "num_attention_heads": 4, "layer_norm_eps": 1e-12}"#;
    std::fs::write(files.scratch.file("config.json"), config).unwrap();
    assert_success(&files.infer("bert", "beside", &["--device", "cpu"]));
    let mut weights = files.weights();
    bert::own_names(&mut weights).unwrap();
    let config = bert::Config::of(&weights, 4);
    let model = Bert::load(&mut weights, &config).unwrap();
    let mask = files.input("attention_mask");
    let padding = Padding::of(&mask, &Device::Cpu, DType::F32).unwrap();
    let [ids, types] = ["input_ids", "token_type_ids"].map(|name| files.input(name));
    let hidden = model.forward(&ids, Some(&types), &padding.mask()).unwrap();
    for file in ["set", "beside"] {
        assert_eq!(values(&files.output(file, "hidden")), values(&hidden));
    }
}

#[test]
fn mistakes_are_one_clear_line_and_no_file() {
    let files = Files::new("infer-mistakes", "transformer");
    let cases: [(&str, &[&str], &str); 7] = [
        ("nonsense", &[], "unknown model `nonsense`; known: "),
        ("transformer", &["--set", "heads=2"], "unknown key `heads`"),
        (
            "transformer",
            &["--set", "activation=silu"],
            "must be relu or gelu",
        ),
        (
            "transformer",
            &["--set", "nhead=3"],
            "3 heads do not divide the width 32",
        ),
        (
            "transformer",
            &["--set", "nhead=8"],
            "head_dim must be a multiple of 8",
        ),
        (
            "bert",
            &["--set", "heads=4"],
            "belongs to no part of the model",
        ),
        (
            "transformer",
            &["--dtype", "i32"],
            "must be f32, f16 or bf16",
        ),
    ];
    for (model, more, message) in cases {
        let run = files.infer(model, "out", &[more, &["--device", "cpu"]].concat());
        let error = error_text(&run);
        assert!(
            !run.status.success() && error.contains(message),
            "{message}: {error}"
        );
        assert!(!files.scratch.file("out").exists(), "{message}");
    }
    let run = files.infer("transformer", "out", &["--device", "reference"]);
    assert!(!run.status.success() && error_text(&run).contains("possible values: cpu, cuda"));
}
