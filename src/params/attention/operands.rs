//! Buffers that attention reads and writes, whatever holds them.

use crate::error::Result;

/// Queries, keys and values, or their gradients: a buffer each, or all in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qkv<T> {
    /// A buffer each.
    Separate {
        /// Queries.
        q: T,
        /// Keys.
        k: T,
        /// Values.
        v: T,
    },
    /// One buffer, of a packed projection `[B, N, 3, H, D]` for example.
    Packed(T),
}

impl<T> Qkv<T> {
    /// The buffers of queries, keys and values.
    pub fn parts(&self) -> [&T; 3] {
        match self {
            Qkv::Separate { q, k, v } => [q, k, v],
            Qkv::Packed(all) => [all; 3],
        }
    }

    /// The same to be written to.
    pub fn each_mut(&mut self) -> Qkv<&mut T> {
        match self {
            Qkv::Separate { q, k, v } => Qkv::Separate { q, k, v },
            Qkv::Packed(all) => Qkv::Packed(all),
        }
    }

    /// Each buffer with its counterpart.
    pub fn zip<U, V>(self, other: &Qkv<U>, mut join: impl FnMut(T, &U) -> V) -> Qkv<V> {
        let [first, second, third] = other.parts();
        match self {
            Qkv::Separate { q, k, v } => Qkv::Separate {
                q: join(q, first),
                k: join(k, second),
                v: join(v, third),
            },
            Qkv::Packed(all) => Qkv::Packed(join(all, first)),
        }
    }

    /// The same with each buffer converted.
    ///
    /// # Errors
    /// The first that `convert` gives.
    pub fn try_map<U>(self, mut convert: impl FnMut(T) -> Result<U>) -> Result<Qkv<U>> {
        Ok(match self {
            Qkv::Separate { q, k, v } => Qkv::Separate {
                q: convert(q)?,
                k: convert(k)?,
                v: convert(v)?,
            },
            Qkv::Packed(all) => Qkv::Packed(convert(all)?),
        })
    }
}

/// What limits or biases the scores, besides the scalars: buffers of floats `F` and of integers `I`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask<F, I> {
    /// Added to the scores: `[B or 1, H or 1, Nq, Nk]`, contiguous.
    pub bias: Option<F>,
    /// Keys of each sequence, `[B]`, clamped to `[0, Nk]`; where sequences are packed, to the sequence's own number.
    pub kv_lengths: Option<I>,
    /// Where sequences are packed, the first token of each and the end of the last, `[B + 1]`, of queries and of keys.
    /// Made to ascend within the tokens there are: offset `b` stands for `clamp(max(offsets[..=b]), 0, T)`.
    pub offsets: Option<[I; 2]>,
}

impl<F, I> Default for Mask<F, I> {
    /// No limit.
    fn default() -> Self {
        Self {
            bias: None,
            kv_lengths: None,
            offsets: None,
        }
    }
}
