//! Extents of attention, and where its operands lie.

use super::OP;
use super::layout::Layout;
use crate::error::{Error, Result};

/// Largest head dimension.
pub(crate) const MAX_HEAD_DIM: usize = 256;
/// The head dimension is a multiple of this, so that a head of any element type is whole 16-byte loads.
pub(crate) const HEAD_DIM_STEP: usize = 8;
/// Most tokens of a tensor and most heads of a batch: a place fits an `i32` with room for sums, and their product with
/// a head's elements fits an `i64`.
const MAX_COUNT: usize = 1 << 27;

/// Extents of attention, and where its operands lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Sequences, `B`.
    pub batch: usize,
    /// Query heads, `H`.
    pub heads: usize,
    /// Key and value heads, `Hkv`; query head `h` reads head `h / (H / Hkv)`.
    pub kv_heads: usize,
    /// Queries of a sequence, `Nq`; where sequences are packed, of the longest.
    pub queries: usize,
    /// Keys of a sequence, `Nk`; where sequences are packed, of the longest.
    pub keys: usize,
    /// Elements of a head, `D`: a multiple of 8 up to 256.
    pub head_dim: usize,
    /// Where sequences are packed, the tokens of all: `Tq` and `Tk`.
    pub packed: Option<[usize; 2]>,
    /// Where there is a bias, its first two extents: `B` or 1, and `H` or 1.
    pub bias: Option<[usize; 2]>,
    /// Queries.
    pub q: Layout,
    /// Keys.
    pub k: Layout,
    /// Values.
    pub v: Layout,
    /// Output.
    pub out: Layout,
}

/// Where the gradients lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientLayouts {
    /// Gradient of the output, an input of the backward pass.
    pub dout: Layout,
    /// Gradient of the queries.
    pub dq: Layout,
    /// Gradient of the keys.
    pub dk: Layout,
    /// Gradient of the values.
    pub dv: Layout,
}

impl Geometry {
    /// Extents of the queries and of all that is laid out like them: `[B, Nq, H, D]`, or `[1, Tq, H, D]`.
    pub(crate) fn query_extents(&self) -> [usize; 4] {
        let [batch, tokens] = self
            .packed
            .map_or([self.batch, self.queries], |[queries, _]| [1, queries]);
        [batch, tokens, self.heads, self.head_dim]
    }

    /// Extents of the keys and the values: `[B, Nk, Hkv, D]`, or `[1, Tk, Hkv, D]`.
    pub(crate) fn key_extents(&self) -> [usize; 4] {
        let [batch, tokens] = self
            .packed
            .map_or([self.batch, self.keys], |[_, keys]| [1, keys]);
        [batch, tokens, self.kv_heads, self.head_dim]
    }

    /// Elements of the log-sum-exp: `[B, H, Nq]`, or `[H, Tq]`.
    pub(crate) fn rows(&self) -> usize {
        let [batch, tokens, heads, _] = self.query_extents();
        batch * tokens * heads
    }

    /// Elements of the bias.
    pub(crate) fn bias_len(&self) -> usize {
        self.bias
            .map_or(0, |[batch, heads]| batch * heads * self.queries * self.keys)
    }

    /// Checks extents and layouts for elements of `element_size` bytes.
    pub(crate) fn check(&self, element_size: usize) -> Result<()> {
        self.check_extents()?;
        let layouts = [
            ("q", self.q, self.query_extents()),
            ("k", self.k, self.key_extents()),
            ("v", self.v, self.key_extents()),
            ("out", self.out, self.query_extents()),
        ];
        for (argument, layout, extents) in layouts {
            check_layout(argument, &layout, extents, element_size)?;
        }
        check_output("out", &self.out, self.query_extents())
    }

    fn check_extents(&self) -> Result<()> {
        let &Self {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_dim,
            ..
        } = self;
        let dim = head_dim.is_multiple_of(HEAD_DIM_STEP) && (1..=MAX_HEAD_DIM).contains(&head_dim);
        if !dim {
            let rule = format!("a multiple of {HEAD_DIM_STEP} up to {MAX_HEAD_DIM}");
            return Err(Error::input(OP, "head_dim", rule, head_dim));
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            let rule = "a multiple of the key and value heads, both at least 1";
            return Err(Error::input(
                OP,
                "heads",
                rule,
                format!("{heads} and {kv_heads}"),
            ));
        }
        let [total_queries, total_keys] = self.packed.unwrap_or([queries, keys]);
        let counts = [
            ("queries", queries.max(total_queries)),
            ("keys", keys.max(total_keys)),
            ("batch * heads", batch.saturating_mul(heads)),
        ];
        for (argument, count) in counts {
            if count > MAX_COUNT {
                return Err(Error::input(
                    OP,
                    argument,
                    format!("at most {MAX_COUNT}"),
                    count,
                ));
            }
        }
        let Some([bias_batch, bias_heads]) = self.bias else {
            return Ok(());
        };
        if self.packed.is_some() {
            return Err(Error::input(
                OP,
                "bias",
                "absent where sequences are packed",
                "one",
            ));
        }
        let broadcast =
            (bias_batch == batch || bias_batch == 1) && (bias_heads == heads || bias_heads == 1);
        let fits = || {
            (queries * keys)
                .checked_mul(bias_batch * bias_heads)
                .is_some_and(|scores| scores <= 1 << 48)
        };
        if !broadcast || !fits() {
            let rule = format!("[{batch} or 1, {heads} or 1, {queries}, {keys}]");
            let value = format!("[{bias_batch}, {bias_heads}, {queries}, {keys}]");
            return Err(Error::input(OP, "bias", rule, value));
        }
        Ok(())
    }
}

impl GradientLayouts {
    /// Checks the layouts for elements of `element_size` bytes.
    pub(crate) fn check(&self, geometry: &Geometry, element_size: usize) -> Result<()> {
        let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
        check_layout("dout", &self.dout, queries, element_size)?;
        let outputs = [
            ("dq", self.dq, queries),
            ("dk", self.dk, keys),
            ("dv", self.dv, keys),
        ];
        for (argument, layout, extents) in outputs {
            check_layout(argument, &layout, extents, element_size)?;
            check_output(argument, &layout, extents)?;
        }
        Ok(())
    }

    /// Checks that gradients in one buffer share no place: that they are columns of the same tokens.
    pub(crate) fn check_packed(&self, geometry: &Geometry) -> Result<()> {
        let ([batch, tokens, ..], keys) = (geometry.query_extents(), geometry.key_extents());
        let steps = |layout: &Layout| [layout.batch, layout.token];
        let columns = |layout: &Layout, heads: usize| {
            layout.offset..layout.offset + (heads - 1) * layout.head + geometry.head_dim
        };
        let mut parts = [
            columns(&self.dq, geometry.heads),
            columns(&self.dk, geometry.kv_heads),
            columns(&self.dv, geometry.kv_heads),
        ];
        parts.sort_unstable_by_key(|part| part.start);
        let apart = parts.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let width = parts[2].end - parts[0].start;
        let same = [batch, tokens] == keys[..2]
            && [&self.dk, &self.dv]
                .iter()
                .all(|l| steps(l) == steps(&self.dq));
        if same && apart && self.dq.is_injective([batch, tokens, 1, width]) {
            return Ok(());
        }
        let rule = "columns of the same tokens, where they are packed in one buffer";
        Err(Error::input(OP, "dq, dk and dv", rule, format!("{self:?}")))
    }
}

fn check_layout(
    argument: &str,
    layout: &Layout,
    extents: [usize; 4],
    element_size: usize,
) -> Result<()> {
    const VECTOR_BYTES: usize = 16;
    let step = VECTOR_BYTES / element_size;
    if !layout.is_aligned(step) {
        let rule = format!("laid out in multiples of {step} elements");
        return Err(Error::input(OP, argument, rule, format!("{layout:?}")));
    }
    if layout.span(extents).is_none() {
        return Err(Error::input(
            OP,
            argument,
            "within 2^48 elements",
            format!("{layout:?}"),
        ));
    }
    Ok(())
}

fn check_output(argument: &str, layout: &Layout, extents: [usize; 4]) -> Result<()> {
    if layout.is_injective(extents) {
        return Ok(());
    }
    let rule = "laid out so that no two elements share a place";
    Err(Error::input(OP, argument, rule, format!("{layout:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense() -> Geometry {
        let q = Layout::contiguous(5, 4, 16);
        let k = Layout::contiguous(7, 2, 16);
        Geometry {
            batch: 3,
            heads: 4,
            kv_heads: 2,
            queries: 5,
            keys: 7,
            head_dim: 16,
            packed: None,
            bias: Some([1, 4]),
            q,
            k,
            v: k,
            out: q,
        }
    }

    #[test]
    fn a_packed_projection_passes() {
        let part = |part: usize| Layout::columns(5, 3 * 64, part * 64, 16);
        let geometry = Geometry {
            kv_heads: 4,
            keys: 5,
            q: part(0),
            k: part(1),
            v: part(2),
            ..dense()
        };
        geometry.check(2).unwrap();
        let [dout, dq, dk, dv] = [dense().out, part(0), part(1), part(2)];
        GradientLayouts { dout, dq, dk, dv }
            .check(&geometry, 2)
            .unwrap();
        assert_eq!(part(2).span(geometry.key_extents()), Some(3 * 5 * 3 * 64));
    }

    #[test]
    fn each_rule_is_held() {
        dense().check(4).unwrap();
        let narrow = Layout {
            token: 48,
            ..dense().out
        };
        let crooked = Layout {
            offset: 4,
            ..dense().q
        };
        let wrong = [
            Geometry {
                head_dim: 12,
                ..dense()
            },
            Geometry {
                head_dim: 264,
                ..dense()
            },
            Geometry {
                kv_heads: 3,
                ..dense()
            },
            Geometry {
                kv_heads: 0,
                ..dense()
            },
            Geometry {
                bias: Some([2, 4]),
                ..dense()
            },
            Geometry {
                packed: Some([9, 9]),
                ..dense()
            },
            Geometry {
                queries: usize::MAX,
                ..dense()
            },
            Geometry {
                out: narrow,
                ..dense()
            },
            Geometry {
                q: crooked,
                ..dense()
            },
            Geometry {
                q: Layout {
                    batch: usize::MAX & !7,
                    ..dense().q
                },
                ..dense()
            },
        ];
        for geometry in wrong {
            assert!(geometry.check(2).is_err(), "{geometry:?}");
        }
        let aligned = Geometry {
            q: crooked,
            ..dense()
        };
        aligned.check(4).unwrap();
    }
}
