//! What one call attends: its sequences, and the keys that each query may see.

use super::OP;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Dropout, Geometry, Layout, Mask, Qkv};
use std::ops::Range;

/// A tensor's elements and where its heads lie in them.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a, T> {
    elements: &'a [T],
    layout: Layout,
    pub(super) head_dim: usize,
}

impl<'a, T> Heads<'a, T> {
    /// The elements of one head of one token.
    #[inline(always)]
    pub(super) fn row(&self, batch: usize, token: usize, head: usize) -> &'a [T] {
        let Layout {
            offset,
            batch: by_batch,
            token: by_token,
            head: by_head,
        } = self.layout;
        &self.elements[offset + batch * by_batch + token * by_token + head * by_head..]
            [..self.head_dim]
    }
}

/// The same for an output that several threads write, each its own rows.
pub(super) struct HeadsMut<T> {
    elements: *mut T,
    layout: Layout,
    head_dim: usize,
}

// SAFETY: it stands for `&mut [T]`, of which `row` hands out parts that its callers promise not to share.
unsafe impl<T: Send> Sync for HeadsMut<T> {}

impl<T> HeadsMut<T> {
    /// # Safety
    /// `elements` points to as many writable elements as the layout spans, and nothing else reads or writes the rows of
    /// this layout while it lives. The layout gives no two rows a common element.
    pub(super) unsafe fn new(elements: *mut T, layout: Layout, head_dim: usize) -> Self {
        Self {
            elements,
            layout,
            head_dim,
        }
    }

    /// Sets every row of these extents to zero.
    ///
    /// # Safety
    /// The extents are those that the layout was checked for; nobody holds a row.
    pub(super) unsafe fn clear(&self, [batch, tokens, heads, _]: [usize; 4])
    where
        T: Default + Clone,
    {
        for row in 0..batch * tokens * heads {
            let (batch, token, head) = (row / heads / tokens, row / heads % tokens, row % heads);
            // SAFETY: the row is within the extents, and let go at once.
            unsafe { self.row(batch, token, head) }.fill(T::default());
        }
    }

    /// The elements of one head of one token.
    ///
    /// # Safety
    /// The row exists, and is not held by anyone else meanwhile.
    #[expect(
        clippy::mut_from_ref,
        reason = "rows do not overlap, and the caller promises to hold each once"
    )]
    pub(super) unsafe fn row(&self, batch: usize, token: usize, head: usize) -> &mut [T] {
        let Layout {
            offset,
            batch: by_batch,
            token: by_token,
            head: by_head,
        } = self.layout;
        let at = offset + batch * by_batch + token * by_token + head * by_head;
        // SAFETY: `at + head_dim` is within the layout's span, which `new` was promised to be writable.
        unsafe { std::slice::from_raw_parts_mut(self.elements.add(at), self.head_dim) }
    }
}

/// Tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Its number.
    pub(super) index: usize,
    /// The number by which its tensors are laid out: 0 where sequences are packed.
    pub(super) batch: usize,
    pub(super) first_query: usize,
    pub(super) queries: usize,
    pub(super) first_key: usize,
    pub(super) keys: usize,
    /// Keys that may be seen.
    kv_length: usize,
}

/// A call's inputs and scalars.
pub(super) struct Problem<'a, T> {
    pub(super) geometry: &'a Geometry,
    pub(super) q: Heads<'a, T>,
    pub(super) k: Heads<'a, T>,
    pub(super) v: Heads<'a, T>,
    bias: Option<&'a [T]>,
    pub(super) sequences: Vec<Sequence>,
    pub(super) scale: f32,
    pub(super) softcap: f32,
    window: [Option<usize>; 2],
    pub(super) dropout: Option<Dropout>,
}

impl<'a, T> Problem<'a, T> {
    /// Checks everything but the outputs.
    pub(super) fn new(
        geometry: &'a Geometry,
        params: &Attention,
        qkv: Qkv<&'a [T]>,
        mask: &Mask<&'a [T], &'a [i32]>,
    ) -> Result<Self> {
        geometry.check(size_of::<T>())?;
        params.check()?;
        let [&q, &k, &v] = qkv.parts();
        let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
        let length = |argument: &str, is: Option<usize>, expected: Option<usize>| {
            if is == expected {
                return Ok(());
            }
            let text = |length: Option<usize>| {
                length.map_or("absent".to_owned(), |n| format!("{n} elements"))
            };
            Err(Error::input(OP, argument, text(expected), text(is)))
        };
        length(
            "bias",
            mask.bias.map(<[T]>::len),
            geometry.bias.map(|_| geometry.bias_len()),
        )?;
        length(
            "kv_lengths",
            mask.kv_lengths.map(<[i32]>::len),
            mask.kv_lengths.map(|_| geometry.batch),
        )?;
        for (argument, place) in [("offsets_q", 0), ("offsets_k", 1)] {
            let offsets = mask.offsets.map(|offsets| offsets[place].len());
            length(
                argument,
                offsets,
                geometry.packed.map(|_| geometry.batch + 1),
            )?;
        }
        Ok(Self {
            geometry,
            q: heads("q", q, geometry.q, queries)?,
            k: heads("k", k, geometry.k, keys)?,
            v: heads("v", v, geometry.v, keys)?,
            bias: mask.bias,
            sequences: sequences(geometry, mask),
            scale: params.scale(geometry.head_dim),
            softcap: params.softcap,
            window: params.window(),
            dropout: params.dropout,
        })
    }

    /// Keys that query `i` of a sequence may see.
    pub(super) fn visible(&self, sequence: &Sequence, i: usize) -> Range<usize> {
        let place = i as i64 + sequence.keys as i64 - sequence.queries as i64;
        let [left, right] = self.window;
        let within = |key: i64| key.clamp(0, sequence.kv_length as i64) as usize;
        let first = left.map_or(0, |left| within(place.saturating_sub_unsigned(left as u64)));
        let end = right.map_or(sequence.kv_length, |right| {
            within(place.saturating_add_unsigned(right as u64) + 1)
        });
        first.min(end)..end
    }

    /// The key and value head that a query head reads.
    pub(super) fn kv_head(&self, head: usize) -> usize {
        head / (self.geometry.heads / self.geometry.kv_heads)
    }

    /// Where a query's row lies among those of the log-sum-exp.
    pub(super) fn row_index(&self, sequence: &Sequence, head: usize, i: usize) -> usize {
        match self.geometry.packed {
            Some([total, _]) => head * total + sequence.first_query + i,
            None => (sequence.index * self.geometry.heads + head) * self.geometry.queries + i,
        }
    }

    /// The bias of a query.
    pub(super) fn bias_row(&self, sequence: &Sequence, head: usize, i: usize) -> Option<&'a [T]> {
        let ([batch, heads], bias) = (self.geometry.bias?, self.bias?);
        let (b, h) = (sequence.index.min(batch - 1), head.min(heads - 1));
        let start = ((b * heads + h) * self.geometry.queries + i) * self.geometry.keys;
        Some(&bias[start..start + self.geometry.keys])
    }
}

/// A tensor whose elements hold its layout.
pub(super) fn heads<'a, T>(
    argument: &str,
    elements: &'a [T],
    layout: Layout,
    extents: [usize; 4],
) -> Result<Heads<'a, T>> {
    check_span(argument, elements.len(), &layout, extents)?;
    Ok(Heads {
        elements,
        layout,
        head_dim: extents[3],
    })
}

/// Checks that so many elements hold a layout.
pub(super) fn check_span(
    argument: &str,
    len: usize,
    layout: &Layout,
    extents: [usize; 4],
) -> Result<()> {
    match layout.span(extents) {
        Some(span) if span <= len => Ok(()),
        span => {
            let rule = format!("at least {} elements", span.unwrap_or(usize::MAX));
            Err(Error::input(OP, argument, rule, len))
        }
    }
}

fn sequences<T>(geometry: &Geometry, mask: &Mask<&[T], &[i32]>) -> Vec<Sequence> {
    let bounds = |side: usize, b: usize| {
        let (Some(offsets), Some(totals)) = (mask.offsets, geometry.packed) else {
            return 0;
        };
        let most = offsets[side][..=b]
            .iter()
            .fold(0, |most, &offset| most.max(offset));
        (most as usize).min(totals[side])
    };
    let sequence = |index: usize| {
        let (first_query, first_key, queries, keys) = if geometry.packed.is_some() {
            let [first_query, first_key] = [bounds(0, index), bounds(1, index)];
            let queries = (bounds(0, index + 1) - first_query).min(geometry.queries);
            let keys = (bounds(1, index + 1) - first_key).min(geometry.keys);
            (first_query, first_key, queries, keys)
        } else {
            (0, 0, geometry.queries, geometry.keys)
        };
        let length = mask
            .kv_lengths
            .map_or(keys, |lengths| lengths[index].max(0) as usize);
        let batch = if geometry.packed.is_some() { 0 } else { index };
        Sequence {
            index,
            batch,
            first_query,
            queries,
            first_key,
            keys,
            kv_length: length.min(keys),
        }
    };
    (0..geometry.batch).map(sequence).collect()
}
