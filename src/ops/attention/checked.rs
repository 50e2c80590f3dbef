//! The checks of both directions.

use super::super::check;
use super::{AttentionMask, OP};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, Layout, Qkv};
use crate::tensor::{Device, ShapeText, Tensor};

/// A call whose operands fit each other.
pub(super) struct Checked {
    pub(super) geometry: Geometry,
    pub(super) dtype: DType,
    pub(super) device: Device,
}

/// `[B, N, heads, D]`, or `[1, T, heads, D]`.
type Extents = [usize; 4];

impl Checked {
    pub(super) fn new(
        qkv: Qkv<&Tensor>,
        mask: &AttentionMask<'_>,
        params: &Attention,
    ) -> Result<Self> {
        params.check()?;
        let packed = mask.sequences.is_some();
        let ([queries, keys], [q, k, v]) = match qkv {
            Qkv::Separate { q, k, v } => separate([q, k, v], packed)?,
            Qkv::Packed(all) => projection(all, packed)?,
        };
        let [batch, tokens, heads, head_dim] = queries;
        let mut geometry = Geometry {
            batch,
            heads,
            kv_heads: keys[2],
            queries: tokens,
            keys: keys[1],
            head_dim,
            packed: None,
            bias: None,
            q,
            k,
            v,
            out: Layout::contiguous(tokens, heads, head_dim),
        };
        let first = *qkv.parts()[0];
        let call = |geometry| Self {
            geometry,
            dtype: first.dtype(),
            device: first.device(),
        };
        if let Some(sequences) = mask.sequences {
            let &[ends] = sequences.offsets_q.shape() else {
                return Err(Error::input(
                    OP,
                    "offsets_q",
                    "[B + 1]",
                    ShapeText(sequences.offsets_q.shape()),
                ));
            };
            let Some(batch) = ends.checked_sub(1) else {
                return Err(Error::input(OP, "offsets_q", "[B + 1]", ShapeText(&[0])));
            };
            geometry.packed = Some([geometry.queries, geometry.keys]);
            (geometry.batch, geometry.queries, geometry.keys) =
                (batch, sequences.max_queries, sequences.max_keys);
            call(geometry).integers("offsets_q", sequences.offsets_q, &[ends])?;
            call(geometry).integers("offsets_k", sequences.offsets_k, &[ends])?;
        }
        if let Some(lengths) = mask.kv_lengths {
            call(geometry).integers("kv_lengths", lengths, &[geometry.batch])?;
        }
        if let Some(bias) = mask.bias {
            geometry.bias = Some(call(geometry).bias(bias)?);
        }
        for (argument, tensor) in ["q", "k", "v"].into_iter().zip(qkv.parts()) {
            check::dtype(OP, argument, tensor, first.dtype())?;
            check::device(OP, argument, tensor, &first.device())?;
        }
        if !first.dtype().is_float() {
            return Err(Error::input(
                OP,
                "q",
                "of type f32, f16 or bf16",
                first.dtype(),
            ));
        }
        geometry.check(first.dtype().size())?;
        Ok(call(geometry))
    }

    /// `[B, Nq, H, D]`, or `[Tq, H, D]`.
    pub(super) fn out_shape(&self) -> Vec<usize> {
        let extents = self.geometry.query_extents();
        extents[usize::from(self.geometry.packed.is_some())..].to_vec()
    }

    /// `[B, H, Nq]`, or `[H, Tq]`.
    pub(super) fn rows_shape(&self) -> Vec<usize> {
        let [batch, tokens, heads, _] = self.geometry.query_extents();
        [batch, heads, tokens][usize::from(self.geometry.packed.is_some())..].to_vec()
    }

    /// Whether there is no query, or none has a key.
    pub(super) fn sees_nothing(&self) -> bool {
        let [_, keys, ..] = self.geometry.key_extents();
        self.geometry.rows() == 0 || keys == 0 || self.geometry.batch == 0
    }

    fn integers(&self, argument: &str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        check::shape(OP, argument, tensor, shape)?;
        check::dtype(OP, argument, tensor, DType::I32)?;
        check::device(OP, argument, tensor, &self.device)
    }

    /// The first two extents of the bias.
    fn bias(&self, bias: &Tensor) -> Result<[usize; 2]> {
        check::dtype(OP, "bias", bias, self.dtype)?;
        check::device(OP, "bias", bias, &self.device)?;
        let Geometry {
            batch,
            heads,
            queries,
            keys,
            ..
        } = self.geometry;
        match *bias.shape() {
            [b, h, i, j]
                if [i, j] == [queries, keys]
                    && [1, batch].contains(&b)
                    && [1, heads].contains(&h) =>
            {
                Ok([b, h])
            }
            _ => {
                let rule = format!("[{batch} or 1, {heads} or 1, {queries}, {keys}]");
                Err(Error::input(OP, "bias", rule, ShapeText(bias.shape())))
            }
        }
    }
}

/// The extents of queries and keys, and the layouts of all three, each a tensor.
fn separate(tensors: [&Tensor; 3], packed: bool) -> Result<([Extents; 2], [Layout; 3])> {
    let rule = if packed {
        "[T, heads, D]"
    } else {
        "[B, N, heads, D]"
    };
    let extents = |argument: &str, tensor: &Tensor| match *tensor.shape() {
        [tokens, heads, dim] if packed => Ok([1, tokens, heads, dim]),
        [batch, tokens, heads, dim] if !packed => Ok([batch, tokens, heads, dim]),
        _ => Err(Error::input(OP, argument, rule, ShapeText(tensor.shape()))),
    };
    let [q, k, v] = tensors;
    let (queries, keys) = (extents("q", q)?, extents("k", k)?);
    check::shape(OP, "v", v, k.shape())?;
    if [queries[0], queries[3]] != [keys[0], keys[3]] {
        let rule = format!("[{}, N, heads, {}], as q is", queries[0], queries[3]);
        return Err(Error::input(OP, "k", rule, ShapeText(k.shape())));
    }
    let layout = |[_, tokens, heads, dim]: Extents| Layout::contiguous(tokens, heads, dim);
    Ok((
        [queries, keys],
        [layout(queries), layout(keys), layout(keys)],
    ))
}

/// The same of a packed projection.
fn projection(tensor: &Tensor, packed: bool) -> Result<([Extents; 2], [Layout; 3])> {
    let [batch, tokens, heads, dim] = match *tensor.shape() {
        [tokens, 3, heads, dim] if packed => [1, tokens, heads, dim],
        [batch, tokens, 3, heads, dim] if !packed => [batch, tokens, heads, dim],
        _ => {
            let rule = if packed {
                "[T, 3, H, D]"
            } else {
                "[B, N, 3, H, D]"
            };
            return Err(Error::input(OP, "qkv", rule, ShapeText(tensor.shape())));
        }
    };
    let width = heads * dim;
    let part = |part: usize| Layout::columns(tokens, 3 * width, part * width, dim);
    Ok((
        [[batch, tokens, heads, dim]; 2],
        [part(0), part(1), part(2)],
    ))
}
