//! What the tensors of a Vision Transformer are called, file by file.

use super::positions::Interpolation;
use crate::io::Weights;
use crate::models::layers::Projection;

/// A way of naming, of the library that writes such files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Naming {
    /// `torchvision.models.VisionTransformer`.
    Torchvision,
    /// The same before torchvision 0.14: `mlp.linear_1` for `mlp.0`.
    TorchvisionLegacy,
    /// `timm.models.VisionTransformer`, DINOv2 in it.
    Timm,
    /// DINOv2's own.
    Dinov2,
    /// `transformers`' `ViTModel` and `ViTForImageClassification`.
    HuggingFace,
    /// `transformers`' `Dinov2Model`, with registers or without.
    HuggingFaceDinov2,
}

/// The names of one [`Naming`]; those of blocks follow `<blocks><index>.`.
pub(super) struct Names {
    pub class_token: &'static str,
    pub registers: Option<&'static str>,
    pub positions: &'static str,
    pub patches: &'static str,
    pub blocks: &'static str,
    pub norms: [&'static str; 2],
    projection: [&'static str; 3],
    pub out: &'static str,
    pub mlp: [&'static str; 2],
    /// Factors of attention's and the MLP's results; not every file has them.
    pub scales: Option<[&'static str; 2]>,
    pub norm: &'static str,
    pub head: &'static str,
}

const TORCHVISION: Names = Names {
    class_token: "class_token",
    registers: None,
    positions: "encoder.pos_embedding",
    patches: "conv_proj",
    blocks: "encoder.layers.encoder_layer_",
    norms: ["ln_1", "ln_2"],
    projection: ["self_attention.in_proj_", "", ""],
    out: "self_attention.out_proj",
    mlp: ["mlp.0", "mlp.3"],
    scales: None,
    norm: "encoder.ln",
    head: "heads.head",
};

const TORCHVISION_LEGACY: Names = Names {
    mlp: ["mlp.linear_1", "mlp.linear_2"],
    ..TORCHVISION
};

const TIMM: Names = Names {
    class_token: "cls_token",
    registers: Some("reg_token"),
    positions: "pos_embed",
    patches: "patch_embed.proj",
    blocks: "blocks.",
    norms: ["norm1", "norm2"],
    projection: ["attn.qkv.", "", ""],
    out: "attn.proj",
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: Some(["ls1.gamma", "ls2.gamma"]),
    norm: "norm",
    head: "head",
};

const DINOV2: Names = Names {
    registers: Some("register_tokens"),
    ..TIMM
};

const HUGGING_FACE: Names = Names {
    class_token: "embeddings.cls_token",
    registers: None,
    positions: "embeddings.position_embeddings",
    patches: "embeddings.patch_embeddings.projection",
    blocks: "encoder.layer.",
    norms: ["layernorm_before", "layernorm_after"],
    projection: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ],
    out: "attention.output.dense",
    mlp: ["intermediate.dense", "output.dense"],
    scales: None,
    norm: "layernorm",
    head: "classifier",
};

const HUGGING_FACE_DINOV2: Names = Names {
    registers: Some("embeddings.register_tokens"),
    norms: ["norm1", "norm2"],
    mlp: ["mlp.fc1", "mlp.fc2"],
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    ..HUGGING_FACE
};

/// What may stand before all names but that of the head.
const PREFIXES: [&str; 5] = ["", "vit.", "dinov2.", "dinov2_with_registers.", "backbone."];

impl Naming {
    /// The way in which a file's tensors are named, and what stands before the names.
    pub(super) fn of(weights: &Weights) -> Option<(Self, &'static str)> {
        let has = |name: &str| weights.contains(name);
        if has("conv_proj.weight") {
            let legacy = has("encoder.layers.encoder_layer_0.mlp.linear_1.weight");
            return Some(match legacy {
                true => (Naming::TorchvisionLegacy, ""),
                false => (Naming::Torchvision, ""),
            });
        }
        PREFIXES.into_iter().find_map(|prefix| {
            let has = |name: &str| weights.contains(&format!("{prefix}{name}"));
            if has("patch_embed.proj.weight") {
                // timm drops the mask token, and has another name for registers.
                let own = has("mask_token") || has("register_tokens");
                return Some((if own { Naming::Dinov2 } else { Naming::Timm }, prefix));
            }
            has("embeddings.patch_embeddings.projection.weight").then(|| {
                let dinov2 = has("encoder.layer.0.norm1.weight");
                let naming = if dinov2 {
                    Naming::HuggingFaceDinov2
                } else {
                    Naming::HuggingFace
                };
                (naming, prefix)
            })
        })
    }

    pub(super) fn names(self) -> &'static Names {
        match self {
            Naming::Torchvision => &TORCHVISION,
            Naming::TorchvisionLegacy => &TORCHVISION_LEGACY,
            Naming::Timm => &TIMM,
            Naming::Dinov2 => &DINOV2,
            Naming::HuggingFace => &HUGGING_FACE,
            Naming::HuggingFaceDinov2 => &HUGGING_FACE_DINOV2,
        }
    }

    /// The layer norms' epsilon: Hugging Face's default for ViT differs from all others.
    pub(super) fn epsilon(self) -> f32 {
        match self {
            Naming::HuggingFace => 1e-12,
            _ => 1e-6,
        }
    }

    /// How the library fits positions to other image sizes.
    pub(super) fn interpolation(self, registers: usize) -> Interpolation {
        match self {
            Naming::Torchvision | Naming::TorchvisionLegacy => Interpolation::None,
            Naming::Timm => Interpolation::Antialiased,
            Naming::Dinov2 if registers == 0 => Interpolation::Offset,
            Naming::Dinov2 => Interpolation::Antialiased,
            Naming::HuggingFaceDinov2 if registers > 0 => Interpolation::Antialiased,
            Naming::HuggingFace | Naming::HuggingFaceDinov2 => Interpolation::Bicubic,
        }
    }
}

impl Names {
    /// The projection to queries, keys and values of the block under `prefix`.
    pub(super) fn projection(&self, prefix: &str) -> Projection {
        match self.projection {
            [packed, "", ""] => Projection::Packed {
                weight: format!("{prefix}{packed}weight"),
                bias: format!("{prefix}{packed}bias"),
            },
            names => Projection::Separate(names.map(|name| format!("{prefix}{name}"))),
        }
    }
}
