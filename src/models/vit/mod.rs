//! The Vision Transformer: Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021.
//!
//! Of any size, from the files of torchvision, timm, Hugging Face and DINOv2 (layer scale and registers: Oquab et al.,
//! *DINOv2*, 2023; Darcet et al., *Vision Transformers Need Registers*, 2024): see [`Naming`].

mod config;
mod names;
mod positions;
mod preprocess;

pub use config::Config;
pub use names::Naming;
pub use positions::Interpolation;
pub(crate) use preprocess::IMAGENET;
pub use preprocess::Preprocess;

use super::layers::{Convolution, LayerNorm, Linear, SelfAttention, rows};
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{AttentionMask, add_positions};
use crate::params::{Activation, Conv2d};
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "vit";
/// Of a row or column of an image: positions are laid out before any image is at hand, and none has as many.
const MOST_PATCHES: usize = 1 << 12;

/// What the model gives.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// All tokens after the last norm, `[B, N, D]`: the class token, registers, patches row by row.
    pub features: Tensor,
    /// `[B, K]`, of the class token, where the file has a head.
    pub logits: Option<Tensor>,
}

/// A Vision Transformer.
///
/// With patches `p_1 .. p_n` of an image and `E`, `e`, `z` learned (the paper's equations 1 to 4; `s` and `t` are 1 but
/// in DINOv2):
///
/// ```text
/// x  = [class; E p_1; ..; E p_n] + e
/// x := x + s * attention(norm(x))      in each block
/// x := x + t * mlp(norm(x))            W_2 gelu(W_1 x + b_1) + b_2
/// features = norm(x);  logits = W features[0] + b
/// ```
///
/// # Example
/// ```no_run
/// use ocelli::io::Weights;
/// use ocelli::models::vit::{Config, Vit};
/// use ocelli::{DType, Device, Tensor};
///
/// let mut weights = Weights::open("vit_b_16.safetensors", &Device::Cpu, DType::F32)?;
/// let config = Config::of(&weights)?;
/// let vit = Vit::load(&mut weights, &config)?;
/// weights.finish()?;
/// let image = Tensor::zeros(&[1, 224, 224, 3], DType::F32, &Device::Cpu)?;
/// let features = vit.forward(&image)?.features;
/// assert_eq!(features.shape(), [1, 197, 768]);
/// # Ok::<(), ocelli::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Vit {
    config: Config,
    patches: Convolution,
    /// Class token and registers, `[S, D]`.
    prefix: Tensor,
    /// For those and the patches of an image of `extents`, `[S + N, D]`.
    positions: Tensor,
    extents: [usize; 2],
    /// Positions as they were learned, `[1 + grid * grid, D]`.
    learned: Vec<f32>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Option<Linear>,
}

/// Attention and MLP with their norms.
#[derive(Debug, Clone)]
struct Block {
    norms: [LayerNorm; 2],
    attention: SelfAttention,
    mlp: [Linear; 2],
}

impl Vit {
    /// Loads the model. Tensors that its output does not depend on, the pooler and the mask token, are dropped.
    ///
    /// # Errors
    /// From the device. What is wrong with the file, `weights.finish()` says.
    pub fn load(weights: &mut Weights, config: &Config) -> Result<Self> {
        config.check()?;
        let names = config.naming.names();
        let name = |name: &str| format!("{}{name}", config.prefix);
        let unused = [
            name("pooler."),
            name("mask_token"),
            name("embeddings.mask_token"),
        ];
        weights.rename(|name| {
            let unused = unused
                .iter()
                .any(|unused| name.starts_with(unused.as_str()));
            (!unused).then(|| name.to_string())
        })?;
        let &Config {
            width,
            channels,
            patch,
            epsilon,
            ..
        } = config;
        let params = Conv2d {
            stride: patch[0],
            ..Conv2d::default()
        };
        let extents = [width, channels, patch[0], patch[1]];
        let blocks = (0..config.depth).map(|index| Block::load(weights, config, index));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let mut prefix = weights.values(&name(names.class_token), &[1, 1, width]);
        if let Some(registers) = names.registers.filter(|_| config.registers > 0) {
            let tokens = weights.values(&name(registers), &[1, config.registers, width]);
            prefix = prefix
                .zip(tokens)
                .map(|(class, tokens)| [class, tokens].concat());
        }
        let complete = prefix.is_some();
        let prefix = weights.host_tensor(prefix, &[1 + config.registers, width])?;
        let learned = config.grid * config.grid + usize::from(config.class_position);
        let learned = weights.values(&name(names.positions), &[1, learned, width]);
        // Sizes that no tensor confirms are not to be allocated: such a model stays a placeholder.
        let learned = learned.filter(|_| complete);
        let positions = weights.host_tensor(None, &[1, 1])?;
        let head = config
            .classes
            .map(|classes| Linear::load(weights, names.head, [classes, width], true));
        let vit = Self {
            config: config.clone(),
            patches: Convolution::load(weights, &name(names.patches), extents, true, params)?,
            prefix: prefix.to_device(weights.device())?,
            positions,
            extents: config.extents(),
            blocks,
            norm: LayerNorm::load(weights, &name(names.norm), width, epsilon)?,
            head: head.transpose()?,
            learned: learned.unwrap_or_default(),
        };
        vit.place_positions(config.extents())
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Rows and columns of the images that [`forward`](Self::forward) takes.
    pub fn extents(&self) -> [usize; 2] {
        self.extents
    }

    /// The same model for images of other rows and columns: its positions are interpolated, on the host.
    ///
    /// # Errors
    /// When the extents are not multiples of the patch's, or the weights' own library takes one size alone.
    pub fn with_extents(self, extents: [usize; 2]) -> Result<Self> {
        let own = self.config.extents();
        if extents == self.extents {
            return Ok(self);
        }
        let fixed = self.config.interpolation == Interpolation::None && extents != own;
        let patch = self.config.patch;
        if fixed {
            let rule = format!("{} x {}, as its positions", own[0], own[1]);
            return Err(size_error(rule, extents));
        }
        let fits = |axis: usize| {
            (1..=MOST_PATCHES).contains(&(extents[axis] / patch[axis]))
                && extents[axis].is_multiple_of(patch[axis])
        };
        if !(fits(0) && fits(1)) {
            let [rows, columns] = patch;
            let rule = format!("1 to {MOST_PATCHES} times the patch's {rows} x {columns}");
            return Err(size_error(rule, extents));
        }
        self.place_positions(extents)
    }

    /// Lays out the positions of class token, registers and the patches of images of `extents`.
    fn place_positions(self, extents: [usize; 2]) -> Result<Self> {
        if self.learned.is_empty() {
            return Ok(Self { extents, ..self });
        }
        let Config {
            patch,
            grid,
            width,
            registers,
            class_position,
            interpolation,
            ..
        } = self.config;
        let to = [extents[0] / patch[0], extents[1] / patch[1]];
        let (class, learned) = self.learned.split_at(usize::from(class_position) * width);
        let mut positions = class.to_vec();
        positions.resize((1 + registers) * width, 0.0);
        match to == [grid; 2] {
            true => positions.extend(learned),
            false => positions.extend(interpolation.apply(learned, [grid; 2], to, width)),
        }
        let shape = [1 + registers + to[0] * to[1], width];
        let positions = Tensor::from_vec(positions, &shape, &Device::Cpu)?;
        let positions = positions.to_dtype(self.prefix.dtype())?;
        let positions = positions.to_device(&self.prefix.device())?;
        Ok(Self {
            positions,
            extents,
            ..self
        })
    }

    /// Features and logits of images `[B, H, W, C]`, normalised as for training: see [`Preprocess`].
    ///
    /// # Errors
    /// When the image is not of [`extents`](Self::extents), or of another type or device than the weights.
    pub fn forward(&self, image: &Tensor) -> Result<Encoded> {
        let mut x = self.embed(image)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let features = self.norm.forward(&x)?;
        let &[images, tokens, width] = features.shape() else {
            return Err(size_error("[B, N, D]".into(), self.extents));
        };
        let logits = self.head.as_ref().map(|head| {
            let class = rows(&features, width, (0..images).map(|image| image * tokens))?;
            head.forward(&class)
        });
        Ok(Encoded {
            logits: logits.transpose()?,
            features,
        })
    }

    /// What the tokens `queries` attend to in block `block`: f32 `[B, heads, R, N]`, each row a distribution over the
    /// tokens in the order of [`Encoded::features`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when there is no such block or token.
    pub fn attention(&self, image: &Tensor, block: usize, queries: &[usize]) -> Result<Tensor> {
        let mut x = self.embed(image)?;
        let tokens = x.shape()[1];
        if let Some(query) = queries.iter().find(|&&query| query >= tokens) {
            let rule = format!("below the number of tokens {tokens}");
            return Err(Error::input(OP, "queries", rule, query));
        }
        let Some(last) = self.blocks.get(block) else {
            let rule = format!("below the number of blocks {}", self.blocks.len());
            return Err(Error::input(OP, "block", rule, block));
        };
        for block in &self.blocks[..block] {
            x = block.forward(&x)?;
        }
        let queries: Vec<i32> = queries.iter().map(|&query| query as i32).collect();
        let shape = [queries.len()];
        let queries = Tensor::from_vec(queries, &shape, &x.device())?;
        let x = last.norms[0].forward(&x)?;
        last.attention
            .probabilities(&x, &queries, &AttentionMask::default())
    }

    /// `[B, H, W, C]` to tokens with positions, `[B, N, D]`.
    fn embed(&self, image: &Tensor) -> Result<Tensor> {
        let ([height, width], channels) = (self.extents, self.config.channels);
        if image.shape().len() != 4 || image.shape()[1..] != [height, width, channels] {
            let rule = format!("[B, {height}, {width}, {channels}]");
            return Err(Error::input(OP, "image", rule, ShapeText(image.shape())));
        }
        let patches = self.patches.forward(image)?;
        let [images, rows, columns, width] = patches.shape()[..] else {
            return Err(size_error("[B, H, W, D]".into(), self.extents));
        };
        let patches = patches.reshape(&[images, rows * columns, width])?;
        add_positions(&patches, Some(&self.prefix), &self.positions)
    }
}

fn size_error(rule: String, [height, width]: [usize; 2]) -> Error {
    Error::input(OP, "image", rule, format!("{height} x {width}"))
}

impl Block {
    fn load(weights: &mut Weights, config: &Config, index: usize) -> Result<Self> {
        let &Config {
            width,
            hidden,
            heads,
            epsilon,
            ..
        } = config;
        let names = config.naming.names();
        let prefix = format!("{}{}{index}.", config.prefix, names.blocks);
        let name = |name: &str| format!("{prefix}{name}");
        let scales = names.scales.filter(|_| config.layer_scale);
        let scales = scales.map(|scales| scales.map(name));
        let scale = |index: usize| scales.as_ref().map(|scales| scales[index].as_str());
        let (projection, out) = (names.projection(&prefix), name(names.out));
        let [first, second] = names.mlp.map(name);
        let attention =
            SelfAttention::load_scaled(weights, &projection, &out, scale(0), width, heads)?;
        let mut norm =
            |index: usize| LayerNorm::load(weights, &name(names.norms[index]), width, epsilon);
        Ok(Self {
            norms: [norm(0)?, norm(1)?],
            attention,
            mlp: [
                Linear::load(weights, &first, [hidden, width], true)?,
                Linear::load_scaled(weights, &second, [width, hidden], scale(1))?,
            ],
        })
    }

    /// `[B, N, D]` to the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [before, after] = &self.norms;
        let [first, second] = &self.mlp;
        let x = self
            .attention
            .forward(&before.forward(x)?, Some(x), &AttentionMask::default())?;
        let hidden = first.forward_with(&after.forward(&x)?, None, Activation::Gelu)?;
        second.forward_with(&hidden, Some(&x), Activation::None)
    }
}
