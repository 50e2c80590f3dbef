//! The Vision Transformer against torchvision, timm, transformers and DINOv2's own structure.

use super::golden::{Golden, everywhere};
use ocelli::io::{TensorFile, Weights};
use ocelli::models::vit::{Config, Naming, Vit};
use ocelli::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

/// Sizes of the golden models that no file tells.
const HEADS: usize = 2;

macro_rules! golden {
    ($name:literal) => {
        Golden::new(include_bytes!(concat!(
            "../../golden/models/vit_",
            $name,
            ".safetensors"
        )))
    };
}

fn load(mut weights: Weights, naming: Naming) -> Vit {
    let config = Config::of(&weights).unwrap();
    assert_eq!(config.naming, naming);
    assert_eq!((config.grid, config.width, config.depth), (4, 16, 2));
    let config = Config {
        heads: HEADS,
        ..config
    };
    let vit = Vit::load(&mut weights, &config).unwrap();
    weights.finish().unwrap();
    vit
}

/// Holds all outputs of a golden file against the model's.
fn check(golden: &Golden, naming: Naming, outputs: &[&str]) {
    everywhere(|target, dtype| {
        let vit = load(golden.weights(target, dtype), naming);
        let image = golden.input("image", target, dtype);
        let encoded = vit.forward(&image).unwrap();
        for &name in outputs {
            let actual = match name {
                "features" => encoded.features.clone(),
                "logits" => encoded.logits.clone().unwrap(),
                "resized" => {
                    let other = golden.input("other", target, dtype);
                    let resized = vit.clone().with_extents([20, 24]).unwrap();
                    resized.forward(&other).unwrap().features
                }
                _ => {
                    let probabilities = vit.attention(&image, 1, &[0, 7]).unwrap();
                    assert_eq!(probabilities.dtype(), DType::F32);
                    // They are f32 whatever the type of the projections, whose error they have.
                    probabilities.to_dtype(dtype).unwrap()
                }
            };
            golden.check(name, &actual, target);
        }
    });
}

#[test]
fn torchvision() {
    let outputs = ["features", "logits"];
    check(&golden!("torchvision"), Naming::Torchvision, &outputs);
}

#[test]
fn timm() {
    let outputs = ["features", "logits", "resized"];
    check(&golden!("timm"), Naming::Timm, &outputs);
}

#[test]
fn timm_dinov2_with_registers() {
    let outputs = ["features", "resized"];
    check(&golden!("timm_dinov2"), Naming::Timm, &outputs);
}

#[test]
fn dinov2() {
    let outputs = ["features", "resized"];
    check(&golden!("dinov2"), Naming::Dinov2, &outputs);
}

#[test]
fn hugging_face() {
    let outputs = ["features", "logits", "resized", "probabilities"];
    check(&golden!("hugging_face"), Naming::HuggingFace, &outputs);
}

#[test]
fn hugging_face_dinov2() {
    let outputs = ["features", "resized", "probabilities"];
    let golden = golden!("hugging_face_dinov2");
    check(&golden, Naming::HuggingFaceDinov2, &outputs);
}

#[test]
fn hugging_face_dinov2_with_registers() {
    let outputs = ["features", "resized", "probabilities"];
    let golden = golden!("hugging_face_registers");
    check(&golden, Naming::HuggingFaceDinov2, &outputs);
}

/// Weights of a golden file on the CPU under other names; `None` drops a tensor.
fn renamed(golden: &Golden, rename: impl FnMut(&str) -> Option<String>) -> Weights {
    let mut weights = golden.weights(&crate::device::Target::Cpu, DType::F32);
    weights.rename(rename).unwrap();
    weights
}

#[test]
fn torchvisions_old_names_are_the_same_model() {
    let golden = golden!("torchvision");
    let image = golden.input("image", &crate::device::Target::Cpu, DType::F32);
    let old = |name: &str| {
        let name = name.replace("mlp.0.", "mlp.linear_1.");
        Some(name.replace("mlp.3.", "mlp.linear_2."))
    };
    let old = load(renamed(&golden, old), Naming::TorchvisionLegacy);
    let new = load(
        renamed(&golden, |name| Some(name.into())),
        Naming::Torchvision,
    );
    let [old, new] = [old, new].map(|vit| vit.forward(&image).unwrap().features);
    assert_eq!(old.to_vec::<f32>().unwrap(), new.to_vec::<f32>().unwrap());
}

#[test]
fn a_prefix_may_be_missing() {
    let golden = golden!("hugging_face");
    let bare = |name: &str| Some(name.strip_prefix("vit.").unwrap_or(name).to_string());
    load(renamed(&golden, bare), Naming::HuggingFace);
}

#[test]
fn parameters_are_counted_as_in_the_papers_library() {
    let mut weights = Weights::listing();
    Vit::load(&mut weights, &Config::default()).unwrap();
    let count = |shape: &Vec<usize>| shape.iter().product::<usize>();
    let parameters: usize = weights.parameters().values().map(count).sum();
    assert_eq!(parameters, 86_567_656);
}

#[test]
fn a_file_that_does_not_fit_is_one_error() {
    let golden = golden!("timm");
    let mut weights = renamed(&golden, |name| match name {
        "blocks.1.mlp.fc1.bias" => None,
        "norm.weight" => Some("surplus".into()),
        name => Some(name.into()),
    });
    let config = Config {
        heads: HEADS,
        ..Config::of(&weights).unwrap()
    };
    Vit::load(&mut weights, &config).unwrap();
    let error = weights.finish().unwrap_err().to_string();
    for part in [
        "`blocks.1.mlp.fc1.bias` is missing",
        "`norm.weight` is missing",
        "`surplus`",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn files_of_other_models_are_errors() {
    let golden = golden!("timm");
    for lost in ["patch_embed.proj.weight", "pos_embed"] {
        let weights = renamed(&golden, |name| (name != lost).then(|| name.into()));
        let error = Config::of(&weights).unwrap_err().to_string();
        assert!(error.starts_with("vit: "), "{error}");
    }
    let swapped = |name: &str| {
        Some(match name {
            "pos_embed" => "head.bias".into(),
            "head.bias" => "pos_embed".into(),
            name => name.to_string(),
        })
    };
    let error = Config::of(&renamed(&golden, swapped))
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "vit: pos_embed must be [1, 1 + a square, 16], got [40]"
    );
}

#[test]
fn published_widths_have_their_heads() {
    // Ti, S, B, L; SoViT-400m, H, g and G have 16.
    let published = [
        (192, 3),
        (384, 6),
        (768, 12),
        (1024, 16),
        (1152, 16),
        (1280, 16),
        (1408, 16),
        (1664, 16),
    ];
    for (width, heads) in published {
        let zeros = vec![0; 4 * 2 * width];
        let tensor = |shape: &[usize]| {
            let bytes = &zeros[..4 * shape.iter().product::<usize>()];
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()
        };
        let tensors = [
            ("patch_embed.proj.weight", tensor(&[width, 1, 1, 1])),
            ("pos_embed", tensor(&[1, 2, width])),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let file = TensorFile::from_bytes("published".into(), bytes).unwrap();
        let config = Config::of(&Weights::new(file, &Device::Cpu, DType::F32)).unwrap();
        assert_eq!((config.width, config.heads), (width, heads));
    }
}

#[test]
fn images_of_other_sizes_are_errors() {
    let image = Tensor::zeros(&[1, 16, 20, 3], DType::F32, &Device::Cpu).unwrap();
    let same = |name: &str| Some(name.to_string());
    let vit = load(renamed(&golden!("timm"), same), Naming::Timm);
    let error = vit.forward(&image).unwrap_err().to_string();
    assert_eq!(
        error,
        "vit: image must be [B, 16, 16, 3], got [1, 16, 20, 3]"
    );
    let error = vit.clone().with_extents([16, 18]).unwrap_err().to_string();
    assert_eq!(
        error,
        "vit: image must be 1 to 4096 times the patch's 4 x 4, got 16 x 18"
    );
    assert!(vit.with_extents([0, 16]).is_err());
    let fixed = load(renamed(&golden!("torchvision"), same), Naming::Torchvision);
    let error = fixed.with_extents([16, 20]).unwrap_err().to_string();
    assert_eq!(
        error,
        "vit: image must be 16 x 16, as its positions, got 16 x 20"
    );
}

#[test]
fn tokens_and_blocks_that_are_not_there_are_errors() {
    let same = |name: &str| Some(name.to_string());
    let vit = load(renamed(&golden!("timm"), same), Naming::Timm);
    let image = Tensor::zeros(&[1, 16, 16, 3], DType::F32, &Device::Cpu).unwrap();
    assert!(vit.attention(&image, 2, &[0]).is_err());
    assert!(vit.attention(&image, 0, &[17]).is_err());
    let none = vit.attention(&image, 0, &[]).unwrap();
    assert_eq!(none.shape(), [1, HEADS, 0, 17]);
}
