//! The Transformer: an encoder, and a decoder that attends to its output.
//!
//! Source: Vaswani et al., *Attention Is All You Need*, 2017. As `torch.nn.Transformer` has it: without embeddings and
//! positions, and with a norm at the end of encoder and decoder, which the paper lacks.

use super::layers::{LayerNorm, Linear, MultiheadAttention, Projection, SelfAttention};
use crate::error::Result;
use crate::io::Weights;
use crate::ops::AttentionMask;
use crate::params::{Activation, Attention};
use crate::tensor::Tensor;

/// What all layers of a Transformer have in common. The default is the paper's base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Elements of a token, `D`.
    pub width: usize,
    /// Heads of each attention: they divide the width into multiples of 8.
    pub heads: usize,
    /// Elements between the two linear layers.
    pub feedforward: usize,
    /// Whether the norm of a sublayer comes before it (pre-norm) instead of after it and its residual (post-norm).
    pub norm_first: bool,
    /// Between the two linear layers.
    pub activation: Activation,
    /// Of the norms.
    pub epsilon: f32,
}

impl Default for LayerConfig {
    fn default() -> Self {
        Self {
            width: 512,
            heads: 8,
            feedforward: 2048,
            norm_first: false,
            activation: Activation::Relu,
            epsilon: 1e-5,
        }
    }
}

impl LayerConfig {
    /// With the sizes of a linear layer's weight, `[feedforward, width]`, where the weights have it.
    pub(super) fn with_sizes_of(self, weights: &Weights, weight: &str) -> Self {
        match weights.shape(weight) {
            Some(&[feedforward, width]) => Self {
                width,
                feedforward,
                ..self
            },
            _ => self,
        }
    }
}

/// A Transformer's sizes and options. The default is the paper's base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Of each layer.
    pub layer: LayerConfig,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            layer: LayerConfig::default(),
            encoder_layers: 6,
            decoder_layers: 6,
        }
    }
}

impl Config {
    /// With the sizes of the weights; the heads, the place of the norms and the activation are not in them.
    pub fn of(weights: &Weights) -> Self {
        Self {
            layer: LayerConfig::default().with_sizes_of(weights, "encoder.layers.0.linear1.weight"),
            encoder_layers: layers(weights, "encoder."),
            decoder_layers: layers(weights, "decoder."),
        }
    }
}

/// How many layers there are whose tensors' names begin with `<prefix>layers.`.
fn layers(weights: &Weights, prefix: &str) -> usize {
    let norm = |layer: &usize| format!("{prefix}layers.{layer}.norm1.weight");
    (0..)
        .take_while(|layer| weights.contains(&norm(layer)))
        .count()
}

/// Names of the parts of an encoder layer in a file.
#[derive(Debug, Clone)]
pub struct LayerNames {
    /// To queries, keys and values.
    pub projection: Projection,
    /// Prefix of the projection back.
    pub out: String,
    /// Prefixes of the two linear layers.
    pub linear: [String; 2],
    /// Prefixes of the norms of the attention and of the linear layers.
    pub norms: [String; 2],
}

impl LayerNames {
    /// The names of `torch.nn.TransformerEncoderLayer`, each behind `prefix`.
    pub fn torch(prefix: &str) -> Self {
        let name = |part: &str| format!("{prefix}{part}");
        Self {
            projection: Projection::torch(&name("self_attn")),
            out: name("self_attn.out_proj"),
            linear: ["linear1", "linear2"].map(name),
            norms: ["norm1", "norm2"].map(name),
        }
    }
}

/// Two linear layers with an activation between them.
#[derive(Debug, Clone)]
struct FeedForward {
    linear1: Linear,
    linear2: Linear,
    activation: Activation,
}

impl FeedForward {
    fn load(weights: &mut Weights, names: &[String; 2], config: &LayerConfig) -> Result<Self> {
        let (width, hidden) = (config.width, config.feedforward);
        Ok(Self {
            linear1: Linear::load(weights, &names[0], [hidden, width], true)?,
            linear2: Linear::load(weights, &names[1], [width, hidden], true)?,
            activation: config.activation,
        })
    }

    fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let hidden = self.linear1.forward_with(x, None, self.activation)?;
        self.linear2
            .forward_with(&hidden, Some(residual), Activation::None)
    }
}

/// The norm of a sublayer, and its place.
#[derive(Debug, Clone)]
struct Normed {
    norm: LayerNorm,
    first: bool,
}

impl Normed {
    fn load(weights: &mut Weights, prefix: &str, config: &LayerConfig) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::load(weights, prefix, config.width, config.epsilon)?,
            first: config.norm_first,
        })
    }

    /// `norm(x + sublayer(x))`, or `x + sublayer(norm(x))`. `sublayer` takes its input and the residual to add.
    fn around(
        &self,
        x: &Tensor,
        sublayer: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.first {
            sublayer(&self.norm.forward(x)?, x)
        } else {
            self.norm.forward(&sublayer(x, x)?)
        }
    }
}

/// A layer of an encoder: self-attention and a feed-forward network, each with a residual and a norm.
#[derive(Debug, Clone)]
pub struct EncoderLayer {
    attention: SelfAttention,
    feedforward: FeedForward,
    norms: [Normed; 2],
}

impl EncoderLayer {
    /// Loads the tensors of these names.
    ///
    /// # Errors
    /// From the device.
    pub fn load(weights: &mut Weights, names: &LayerNames, config: &LayerConfig) -> Result<Self> {
        let (width, heads) = (config.width, config.heads);
        Ok(Self {
            attention: SelfAttention::load(weights, &names.projection, &names.out, width, heads)?,
            feedforward: FeedForward::load(weights, &names.linear, config)?,
            norms: [
                Normed::load(weights, &names.norms[0], config)?,
                Normed::load(weights, &names.norms[1], config)?,
            ],
        })
    }

    /// `x` is `[B, N, D]`, and so is the result.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, x: &Tensor, mask: &AttentionMask<'_>) -> Result<Tensor> {
        let attended = self.norms[0].around(x, |x, residual| {
            self.attention.forward(x, Some(residual), mask)
        })?;
        self.norms[1].around(&attended, |x, residual| {
            self.feedforward.forward(x, residual)
        })
    }
}

/// A stack of encoder layers, and a norm where one ends it, as `torch.nn.TransformerEncoder`.
#[derive(Debug, Clone)]
pub struct TransformerEncoder {
    layers: Vec<EncoderLayer>,
    norm: Option<LayerNorm>,
}

impl TransformerEncoder {
    /// Loads `<prefix>layers.<i>` with the names of `torch.nn.TransformerEncoderLayer` and, where `norm`,
    /// `<prefix>norm.{weight, bias}`. The prefix is empty, or ends with a dot.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &LayerConfig,
        layers: usize,
        norm: bool,
    ) -> Result<Self> {
        let names = (0..layers).map(|layer| LayerNames::torch(&format!("{prefix}layers.{layer}.")));
        let layers = names.map(|names| EncoderLayer::load(weights, &names, config));
        let layers = layers.collect::<Result<_>>()?;
        let norm = norm
            .then(|| final_norm(weights, prefix, config))
            .transpose()?;
        Ok(Self { layers, norm })
    }

    /// `src` is `[B, S, D]`, and so is the result.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, src: &Tensor, mask: &AttentionMask<'_>) -> Result<Tensor> {
        let layers = self.layers.iter();
        let x = layers
            .clone()
            .try_fold(src.clone(), |x, layer| layer.forward(&x, mask))?;
        self.norm
            .as_ref()
            .map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

fn final_norm(weights: &mut Weights, prefix: &str, config: &LayerConfig) -> Result<LayerNorm> {
    LayerNorm::load(
        weights,
        &format!("{prefix}norm"),
        config.width,
        config.epsilon,
    )
}

/// A layer of the decoder: causal self-attention, attention to the encoder's output, and a feed-forward network.
#[derive(Debug, Clone)]
struct DecoderLayer {
    attention: SelfAttention,
    cross: MultiheadAttention,
    feedforward: FeedForward,
    norms: [Normed; 3],
}

impl DecoderLayer {
    fn load(weights: &mut Weights, prefix: &str, config: &LayerConfig) -> Result<Self> {
        let name = |part: &str| format!("{prefix}{part}");
        let (width, heads) = (config.width, config.heads);
        let causal = Attention {
            causal: true,
            ..Attention::default()
        };
        let own = Projection::torch(&name("self_attn"));
        let other = Projection::torch(&name("multihead_attn"));
        let outs = ["self_attn.out_proj", "multihead_attn.out_proj"].map(name);
        let attention = SelfAttention::load(weights, &own, &outs[0], width, heads)?;
        Ok(Self {
            attention: attention.with_params(causal),
            cross: MultiheadAttention::load(weights, &other, &outs[1], width, heads)?,
            feedforward: FeedForward::load(weights, &["linear1", "linear2"].map(name), config)?,
            norms: [
                Normed::load(weights, &name("norm1"), config)?,
                Normed::load(weights, &name("norm2"), config)?,
                Normed::load(weights, &name("norm3"), config)?,
            ],
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        memory: &Tensor,
        mask: &AttentionMask<'_>,
        memory_mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        let x = self.norms[0].around(x, |x, residual| {
            self.attention.forward(x, Some(residual), mask)
        })?;
        let x = self.norms[1].around(&x, |x, residual| {
            self.cross.forward(x, memory, Some(residual), memory_mask)
        })?;
        self.norms[2].around(&x, |x, residual| self.feedforward.forward(x, residual))
    }
}

/// The encoder-decoder Transformer, as `torch.nn.Transformer` with `batch_first` and a causal target mask.
///
/// Reads `{encoder, decoder}.layers.<i>.self_attn.{in_proj_weight, in_proj_bias, out_proj.{weight, bias}}`,
/// `decoder.layers.<i>.multihead_attn` with the same parts, `.{linear1, linear2, norm1, norm2}.{weight, bias}` of each
/// layer, `norm3` of the decoder's, and `{encoder, decoder}.norm`.
///
/// # Example
/// The number of parameters, without memory for them:
/// ```
/// use ocelli::io::Weights;
/// use ocelli::models::transformer::{Config, Transformer};
///
/// let mut weights = Weights::listing();
/// Transformer::load(&mut weights, &Config::default())?;
/// let elements = weights.parameters().values().map(|shape| shape.iter().product::<usize>());
/// assert_eq!(elements.sum::<usize>(), 44_140_544);
/// # Ok::<(), ocelli::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Transformer {
    encoder: TransformerEncoder,
    decoder: Vec<DecoderLayer>,
    norm: LayerNorm,
}

impl Transformer {
    /// Loads the model; [`Weights::finish`] then tells what does not fit.
    ///
    /// # Errors
    /// From the device.
    pub fn load(weights: &mut Weights, config: &Config) -> Result<Self> {
        let (layer, depth) = (&config.layer, config.encoder_layers);
        let encoder = TransformerEncoder::load(weights, "encoder.", layer, depth, true)?;
        let decoder = (0..config.decoder_layers)
            .map(|index| DecoderLayer::load(weights, &format!("decoder.layers.{index}."), layer));
        Ok(Self {
            encoder,
            decoder: decoder.collect::<Result<_>>()?,
            norm: final_norm(weights, "decoder.", layer)?,
        })
    }

    /// `src` `[B, S, D]` and `tgt` `[B, T, D]` to `[B, T, D]`. A target sees itself and those before it, and all of `src`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, src: &Tensor, tgt: &Tensor) -> Result<Tensor> {
        let all = AttentionMask::default();
        self.decode(tgt, &self.encode(src, &all)?, &all, &all)
    }

    /// The encoder's output for `src` `[B, S, D]`: what [`decode`](Self::decode) calls `memory`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn encode(&self, src: &Tensor, mask: &AttentionMask<'_>) -> Result<Tensor> {
        self.encoder.forward(src, mask)
    }

    /// `tgt` `[B, T, D]`, which attends causally to itself under `mask` and to `memory` `[B, S, D]` under `memory_mask`,
    /// to `[B, T, D]`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn decode(
        &self,
        tgt: &Tensor,
        memory: &Tensor,
        mask: &AttentionMask<'_>,
        memory_mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        let decoded = self.decoder.iter().try_fold(tgt.clone(), |x, layer| {
            layer.forward(&x, memory, mask, memory_mask)
        })?;
        self.norm.forward(&decoded)
    }
}
