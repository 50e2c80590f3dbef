//! BERT's encoder of tokens, and sentence embeddings from it.
//!
//! Source: Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers*, 2019; the mean of the tokens as a
//! sentence's embedding, Reimers and Gurevych, *Sentence-BERT*, 2019.

use super::layers::{LayerNorm, Projection};
use super::transformer::{EncoderLayer, LayerConfig, LayerNames};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{AttentionMask, add_positions, embedding};
use crate::params::Activation;
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "bert";

/// Sizes of a BERT. The default is the paper's base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Words and pieces of words.
    pub vocabulary: usize,
    /// Tokens of the longest text.
    pub positions: usize,
    /// Kinds of tokens: of a first and of a second text.
    pub types: usize,
    /// Layers of the encoder.
    pub layers: usize,
    /// Of each layer: post-norm, the exact GELU, epsilon 1e-12.
    pub layer: LayerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocabulary: 30_522,
            positions: 512,
            types: 2,
            layers: 12,
            layer: LayerConfig {
                width: 768,
                heads: 12,
                feedforward: 3072,
                norm_first: false,
                activation: Activation::Gelu,
                epsilon: 1e-12,
            },
        }
    }
}

impl Config {
    /// With the sizes of the weights, under [`own_names`]; the number of heads is not in them.
    pub fn of(weights: &Weights, heads: usize) -> Self {
        let default = Self::default();
        let rows = |table: &str, default: usize| {
            let shape = weights.shape(&format!("embeddings.{table}.weight"));
            shape
                .and_then(|shape| shape.first())
                .map_or(default, |&rows| rows)
        };
        let first = |layer: &usize| format!("encoder.layer.{layer}.intermediate.dense.weight");
        let layer = LayerConfig {
            heads,
            ..default.layer
        };
        Self {
            vocabulary: rows("word_embeddings", default.vocabulary),
            positions: rows("position_embeddings", default.positions),
            types: rows("token_type_embeddings", default.types),
            layers: (0..)
                .take_while(|layer| weights.contains(&first(layer)))
                .count(),
            layer: layer.with_sizes_of(weights, &first(&0)),
        }
    }
}

/// Gives the tensors of a file the names that [`Bert`] reads: without the prefix `bert.`, `weight` and `bias` for the
/// `gamma` and `beta` of old files, and without what is no part of the encoder: the buffer of position indices, the
/// pooler, and the heads that the model was trained with.
///
/// # Errors
/// When two tensors come to the same name.
pub fn own_names(weights: &mut Weights) -> Result<()> {
    weights.rename(|name| {
        let name = name.strip_prefix("bert.").unwrap_or(name);
        let other = ["embeddings.position_ids", "embeddings.token_type_ids"].contains(&name)
            || ["pooler.", "cls."]
                .iter()
                .any(|part| name.starts_with(part));
        let name = match name.rsplit_once('.') {
            Some((norm, "gamma")) => format!("{norm}.weight"),
            Some((norm, "beta")) => format!("{norm}.bias"),
            _ => name.to_string(),
        };
        (!other).then_some(name)
    })
}

/// Hugging Face's names of layer `layer`.
fn layer_names(layer: usize) -> LayerNames {
    let name = |part: &str| format!("encoder.layer.{layer}.{part}");
    let own = |part: &str| name(&format!("attention.self.{part}"));
    LayerNames {
        projection: Projection::Separate(["query", "key", "value"].map(own)),
        out: name("attention.output.dense"),
        linear: ["intermediate.dense", "output.dense"].map(name),
        norms: ["attention.output.LayerNorm", "output.LayerNorm"].map(name),
    }
}

/// BERT's encoder: embeddings of words, positions and token types, and post-norm encoder layers.
///
/// Reads Hugging Face's names (`BertModel`) as [`own_names`] leaves them:
/// `embeddings.{word, position, token_type}_embeddings.weight`, `embeddings.LayerNorm`, and of each `encoder.layer.<i>`
/// `attention.self.{query, key, value}`, `attention.output.{dense, LayerNorm}`, `intermediate.dense` and
/// `output.{dense, LayerNorm}`.
#[derive(Debug, Clone)]
pub struct Bert {
    words: Tensor,
    positions: Tensor,
    /// The positions with the first token type's row added to each.
    first_type_positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
    layers: Vec<EncoderLayer>,
}

impl Bert {
    /// Loads the encoder; [`Weights::finish`] then tells what does not fit.
    ///
    /// # Errors
    /// From the device.
    pub fn load(weights: &mut Weights, config: &Config) -> Result<Self> {
        let width = config.layer.width;
        let [words, positions, types] = ["word", "position", "token_type"]
            .map(|table| format!("embeddings.{table}_embeddings.weight"));
        let extents = [config.positions, width];
        let rows = weights.values(&positions, &extents);
        if config.types == 0 {
            weights.fault(format!("{types}: no token type"));
        }
        let kinds = weights.values(&types, &[config.types, width]);
        let kinds = kinds.filter(|kinds| !kinds.is_empty());
        let summed = rows.as_ref().zip(kinds.as_ref()).map(|(rows, kinds)| {
            let first = kinds.iter().take(width).cycle();
            rows.iter()
                .zip(first)
                .map(|(row, first)| row + first)
                .collect()
        });
        let placed = |values, shape: &[usize]| {
            let host = weights.host_tensor(values, shape)?;
            host.to_device(weights.device())
        };
        let positions = placed(rows, &extents)?;
        let first_type_positions = placed(summed, &extents)?;
        let types = placed(kinds, &[config.types, width])?;
        let layers = (0..config.layers)
            .map(|layer| EncoderLayer::load(weights, &layer_names(layer), &config.layer));
        let layers = layers.collect::<Result<_>>()?;
        let epsilon = config.layer.epsilon;
        Ok(Self {
            words: weights.tensor(&words, &[config.vocabulary, width])?,
            positions,
            first_type_positions,
            types,
            norm: LayerNorm::load(weights, "embeddings.LayerNorm", width, epsilon)?,
            layers,
        })
    }

    /// The last layer's tokens, `[B, N, D]`, of `input_ids` `[B, N]` i32. An id outside of the vocabulary has a row of
    /// zeros. `token_types` `[B, N]` i32 tells first and second texts apart; without it all are first. `mask` hides what
    /// is padding: see [`Padding`].
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit; more tokens than the model has positions.
    pub fn forward(
        &self,
        input_ids: &Tensor,
        token_types: Option<&Tensor>,
        mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        let embedded = self.embed(input_ids, token_types)?;
        let mut layers = self.layers.iter();
        layers.try_fold(embedded, |x, layer| layer.forward(&x, mask))
    }

    /// `[B, N, D]`.
    fn embed(&self, ids: &Tensor, token_types: Option<&Tensor>) -> Result<Tensor> {
        let &[batch, tokens] = ids.shape() else {
            let value = ShapeText(ids.shape());
            return Err(Error::input(OP, "input_ids", "[B, N]", value));
        };
        let limit = self.positions.shape()[0];
        if tokens > limit {
            let rule = format!("[B, N] with N at most {limit}");
            return Err(Error::input(OP, "input_ids", rule, ShapeText(ids.shape())));
        }
        let words = embedding(&self.words, ids)?;
        let places = (0..tokens as i32).collect();
        let places = Tensor::from_vec::<i32>(places, &[tokens], &ids.device())?;
        let summed = match token_types {
            None => add_positions(
                &words,
                None,
                &embedding(&self.first_type_positions, &places)?,
            )?,
            Some(types) if types.shape() == ids.shape() => {
                let kinds = embedding(&self.types, types)?;
                let width = self.types.shape()[1];
                // As one long sequence, each token has a term of its own.
                let flat = words.reshape(&[1, batch * tokens, width])?;
                let kinds = kinds.reshape(&[batch * tokens, width])?;
                let typed = add_positions(&flat, None, &kinds)?;
                let positions = embedding(&self.positions, &places)?;
                add_positions(&typed.reshape(words.shape())?, None, &positions)?
            }
            Some(types) => {
                let rule = format!("{:?}, as input_ids is", ids.shape());
                let value = ShapeText(types.shape());
                return Err(Error::input(OP, "token_types", rule, value));
            }
        };
        self.norm.forward(&summed)
    }
}

/// Which tokens may be seen, for attention: as a number of keys where each sequence's padding is at its end, else as a
/// bias of `-inf`. Both hide the same keys; a number of keys needs no memory.
#[derive(Debug, Clone)]
pub enum Padding {
    /// `[B]` i32.
    Lengths(Tensor),
    /// `[B, 1, N, N]`.
    Bias(Tensor),
}

impl Padding {
    /// From an attention mask on the host: i32 `[B, N]`, 0 for padding and anything else for a token. The result lies on
    /// `device`, a bias is of type `dtype`.
    ///
    /// A sequence of padding alone sees nothing: its attention is 0.
    ///
    /// # Errors
    /// Another shape, type or place; the environment family from the device.
    pub fn of(attention_mask: &Tensor, device: &Device, dtype: DType) -> Result<Self> {
        let (shape, mask) = host_mask(attention_mask)?;
        let [batch, tokens] = shape;
        let seen = |row: &[i32]| row.iter().take_while(|&&seen| seen != 0).count();
        let lengths = (0..batch).map(|row| seen(&mask[row * tokens..(row + 1) * tokens]));
        let lengths: Vec<i32> = lengths.map(|length| length as i32).collect();
        let total: usize = lengths.iter().map(|&length| length as usize).sum();
        if total == mask.iter().filter(|&&seen| seen != 0).count() {
            let lengths = Tensor::from_vec(lengths, &[batch], device)?;
            return Ok(Padding::Lengths(lengths));
        }
        let mut bias = vec![0f32; batch * tokens * tokens];
        for (at, value) in bias.iter_mut().enumerate() {
            let (row, key) = (at / (tokens * tokens), at % tokens);
            if mask[row * tokens + key] == 0 {
                *value = f32::NEG_INFINITY;
            }
        }
        let bias = Tensor::from_vec(bias, &[batch, 1, tokens, tokens], &Device::Cpu)?;
        Ok(Padding::Bias(bias.to_dtype(dtype)?.to_device(device)?))
    }

    /// As attention takes it.
    pub fn mask(&self) -> AttentionMask<'_> {
        match self {
            Padding::Lengths(lengths) => AttentionMask {
                kv_lengths: Some(lengths),
                ..AttentionMask::default()
            },
            Padding::Bias(bias) => AttentionMask {
                bias: Some(bias),
                ..AttentionMask::default()
            },
        }
    }
}

/// Shape and values of an attention mask on the host.
fn host_mask(mask: &Tensor) -> Result<([usize; 2], &[i32])> {
    match *mask.shape() {
        [batch, tokens] => Ok(([batch, tokens], mask.as_slice()?)),
        _ => {
            let value = ShapeText(mask.shape());
            Err(Error::input(OP, "attention_mask", "[B, N]", value))
        }
    }
}

/// Embeddings of sentences, f32 `[B, D]` on the host: the mean of a sequence's tokens, divided by its Euclidean norm.
///
/// `hidden` is `[B, N, D]`, from whichever device: on CUDA this waits for it. `attention_mask` is as of [`Padding::of`]:
/// only its tokens count. Sums are in f64. A sequence of padding alone has zeros.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn sentence_embeddings(hidden: &Tensor, attention_mask: &Tensor) -> Result<Tensor> {
    let ([batch, tokens], mask) = host_mask(attention_mask)?;
    let width = match *hidden.shape() {
        [b, n, width] if [b, n] == [batch, tokens] => width,
        _ => {
            let (rule, value) = (format!("[{batch}, {tokens}, D]"), ShapeText(hidden.shape()));
            return Err(Error::input(OP, "hidden", rule, value));
        }
    };
    let hidden = hidden.to_dtype(DType::F32)?.to_vec::<f32>()?;
    let mut embeddings = Vec::with_capacity(batch * width);
    for sequence in 0..batch {
        let mut sums = vec![0f64; width];
        for token in (sequence * tokens..(sequence + 1) * tokens).filter(|&at| mask[at] != 0) {
            let row = &hidden[token * width..(token + 1) * width];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        // The number of tokens cancels between the mean and its norm.
        let norm = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        let scale = if norm == 0.0 { 0.0 } else { 1.0 / norm };
        embeddings.extend(sums.iter().map(|sum| (sum * scale) as f32));
    }
    Tensor::from_vec(embeddings, &[batch, width], &Device::Cpu)
}
