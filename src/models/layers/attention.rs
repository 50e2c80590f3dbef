//! Multi-head attention with its projections.

use super::Linear;
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{AttentionMask, attention, attention_probabilities};
use crate::params::Attention;
use crate::params::attention::Qkv;
use crate::tensor::{ShapeText, Tensor};

/// Names of the projections of queries, keys and values in a file.
#[derive(Debug, Clone)]
pub enum Projection {
    /// One matrix `[3 D, D]` of all three, queries first: names of its weight and its bias.
    Packed {
        /// e.g. `self_attn.in_proj_weight`, `blocks.0.attn.qkv.weight`.
        weight: String,
        /// `[3 D]`.
        bias: String,
    },
    /// A linear layer each: prefixes of queries, keys and values.
    Separate([String; 3]),
}

impl Projection {
    /// The names of `torch.nn.MultiheadAttention`.
    pub fn torch(prefix: &str) -> Self {
        Projection::Packed {
            weight: format!("{prefix}.in_proj_weight"),
            bias: format!("{prefix}.in_proj_bias"),
        }
    }

    /// All three matrices `[3 D, D]` and biases `[3 D]`, one below the other; `heads` must divide the width.
    fn values(&self, weights: &mut Weights, width: usize, heads: usize) -> [Option<Vec<f32>>; 2] {
        if heads == 0 || !width.is_multiple_of(heads) {
            weights.fault(format!("{heads} heads do not divide the width {width}"));
        }
        match self {
            Projection::Packed { weight, bias } => [
                weights.values(weight, &[3 * width, width]),
                weights.values(bias, &[3 * width]),
            ],
            Projection::Separate(prefixes) => {
                let (mut matrix, mut vector) = (Some(Vec::new()), Some(Vec::new()));
                for prefix in prefixes {
                    let part = weights.values(&format!("{prefix}.weight"), &[width, width]);
                    matrix = joined(matrix, part);
                    let part = weights.values(&format!("{prefix}.bias"), &[width]);
                    vector = joined(vector, part);
                }
                [matrix, vector]
            }
        }
    }
}

fn joined(first: Option<Vec<f32>>, second: Option<Vec<f32>>) -> Option<Vec<f32>> {
    let (mut first, second) = (first?, second?);
    first.extend(second);
    Some(first)
}

/// Self-attention: one projection to queries, keys and values, which attention reads in place, and one back.
///
/// With `x` `[B, N, D]` and `heads` of `D / heads` elements each:
///
/// ```text
/// [q k v] = x W_in^T + b_in        [B, N, 3, heads, D / heads]
/// y = attention(q, k, v) W_out^T + b_out
/// ```
///
/// as `torch.nn.MultiheadAttention` with `query = key = value = x` and `batch_first`.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    projection: Linear,
    out: Linear,
    heads: usize,
    params: Attention,
}

impl SelfAttention {
    /// Loads the projection to queries, keys and values, and `<out>.{weight, bias}` back. `width` must be a multiple of
    /// `heads`, heads of a multiple of 8 elements.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        projection: &Projection,
        out: &str,
        width: usize,
        heads: usize,
    ) -> Result<Self> {
        Self::load_scaled(weights, projection, out, None, width, heads)
    }

    /// As [`load`](Self::load), with the layer's result multiplied by `<scale>` `[width]` where it is given.
    ///
    /// # Errors
    /// From the device.
    pub fn load_scaled(
        weights: &mut Weights,
        projection: &Projection,
        out: &str,
        scale: Option<&str>,
        width: usize,
        heads: usize,
    ) -> Result<Self> {
        let [matrix, bias] = projection.values(weights, width, heads);
        let projection =
            Linear::from_values(weights, matrix, [3 * width, width], Some((bias, 3 * width)))?;
        Ok(Self {
            projection,
            out: Linear::load_scaled(weights, out, [width, width], scale)?,
            // 0 is a fault that `Weights::finish` reports.
            heads: heads.max(1),
            params: Attention::default(),
        })
    }

    /// The same layer with other scalars: causal, with windows or a soft cap.
    pub fn with_params(self, params: Attention) -> Self {
        Self { params, ..self }
    }

    /// The layer's output plus `residual`, which is added in the same pass as the last product. Both are `[B, N, D]`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        let qkv = self.qkv(x)?;
        let attended = attention(Qkv::Packed(&qkv), mask, &self.params)?;
        let joined = attended.out.reshape(x.shape())?;
        self.out.forward_with(&joined, residual, Default::default())
    }

    /// What the queries at `rows` (`[R]` i32) attend to: f32 `[B, heads, R, N]`. Fused attention never stores these, so
    /// they are computed for the chosen queries alone.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn probabilities(
        &self,
        x: &Tensor,
        rows: &Tensor,
        mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        attention_probabilities(Qkv::Packed(&self.qkv(x)?), rows, mask, &self.params)
    }

    /// `[B, N, 3, heads, D / heads]`.
    fn qkv(&self, x: &Tensor) -> Result<Tensor> {
        let &[batch, tokens, width] = x.shape() else {
            let value = ShapeText(x.shape());
            return Err(Error::input("self-attention", "x", "[B, N, D]", value));
        };
        let projected = self.projection.forward(x)?;
        projected.reshape(&[batch, tokens, 3, self.heads, width / self.heads])
    }
}

/// Attention of one sequence to another, as `torch.nn.MultiheadAttention` with `key = value` and `batch_first`:
/// `y = attention(x W_q^T + b_q, m W_k^T + b_k, m W_v^T + b_v) W_out^T + b_out`.
#[derive(Debug, Clone)]
pub struct MultiheadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl MultiheadAttention {
    /// Loads the projections and `<out>.{weight, bias}`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        projection: &Projection,
        out: &str,
        width: usize,
        heads: usize,
    ) -> Result<Self> {
        let [matrix, bias] = projection.values(weights, width, heads);
        let part = |index: usize| {
            let rows = |values: &Option<Vec<f32>>, row: usize| {
                let (from, to) = (index * width * row, (index + 1) * width * row);
                values.as_ref().map(|values| values[from..to].to_vec())
            };
            let bias = Some((rows(&bias, 1), width));
            Linear::from_values(weights, rows(&matrix, width), [width, width], bias)
        };
        Ok(Self {
            query: part(0)?,
            key: part(1)?,
            value: part(2)?,
            out: Linear::load(weights, out, [width, width], true)?,
            heads: heads.max(1),
        })
    }

    /// `x` `[B, N, D]` attends to `memory` `[B, M, D]`; `residual` is added in the same pass as the last product.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        memory: &Tensor,
        residual: Option<&Tensor>,
        mask: &AttentionMask<'_>,
    ) -> Result<Tensor> {
        let [q, k, v] = [
            self.heads(&self.query, x)?,
            self.heads(&self.key, memory)?,
            self.heads(&self.value, memory)?,
        ];
        let (q, k, v) = (&q, &k, &v);
        let attended = attention(Qkv::Separate { q, k, v }, mask, &Attention::default())?;
        let joined = attended.out.reshape(x.shape())?;
        self.out.forward_with(&joined, residual, Default::default())
    }

    /// `[B, N, heads, D / heads]`.
    fn heads(&self, projection: &Linear, x: &Tensor) -> Result<Tensor> {
        let &[batch, tokens, width] = x.shape() else {
            let value = ShapeText(x.shape());
            return Err(Error::input("attention", "x", "[B, N, D]", value));
        };
        let projected = projection.forward(x)?;
        projected.reshape(&[batch, tokens, self.heads, width / self.heads])
    }
}
