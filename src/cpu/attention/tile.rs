//! Blocks of keys and tiles of queries in `f32`, as the products read them.

use super::problem::{Heads, Problem, Sequence};
use super::product::ROWS;
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;
use std::ops::Range;

/// Keys of a block: 128 rows of 24 scores (12 KiB) and a pass over 128 rows of values fit the 32 KiB of L1 together.
pub(super) const KEYS: usize = 128;
/// Queries of a tile: the columns of the widest register tile.
pub(super) const QUERIES: usize = 3 * LANES;
/// Greatest head dimension, of rows on the stack.
const MAX_HEAD_DIM: usize = 256;

/// Rows of keys or values, `[rows, head_dim]`, zeros up to a multiple of [`ROWS`].
#[derive(Default)]
pub(super) struct Block {
    pub(super) rows: Vec<f32>,
    /// Whether every element is finite.
    pub(super) is_finite: bool,
}

impl Block {
    /// Takes over the rows of tokens `first..first + count` of one head.
    pub(super) fn fill<T: Float>(
        &mut self,
        from: &Heads<'_, T>,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
    ) {
        let padded = tokens.len().next_multiple_of(ROWS);
        let Some(dim) = tokens
            .clone()
            .next()
            .map(|token| from.row(batch, token, head).len())
        else {
            self.rows.clear();
            return;
        };
        self.rows.resize(padded * dim, 0.0);
        let mut rows = self.rows.chunks_exact_mut(dim);
        for (token, row) in tokens.zip(&mut rows) {
            T::widen(from.row(batch, token, head), row);
        }
        rows.for_each(|row| row.fill(0.0));
        self.is_finite = all_finite(&self.rows);
    }

    /// These rows, whose length is a multiple of 8.
    pub(super) fn from_rows(rows: Vec<f32>) -> Self {
        Self {
            is_finite: all_finite(&rows),
            rows,
        }
    }
}

/// Whether all are finite, of a multiple of 8 numbers.
fn all_finite(numbers: &[f32]) -> bool {
    // A NaN or an infinity times 0 is NaN, and stays it.
    let mut zeros = [0.0f32; LANES];
    for part in numbers.as_chunks::<LANES>().0 {
        zeros
            .iter_mut()
            .zip(part)
            .for_each(|(zero, x)| *zero += x * 0.0);
    }
    zeros.iter().all(|&zero| zero == 0.0)
}

/// Up to [`QUERIES`] neighbouring queries of a head.
pub(super) struct Tile {
    /// The first, counted within the sequence.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Keys that each may see; none for the columns behind the last query.
    visible: [Range<usize>; QUERIES],
}

impl Tile {
    pub(super) fn new<T>(problem: &Problem<'_, T>, sequence: &Sequence, first: usize) -> Self {
        let count = QUERIES.min(sequence.queries - first);
        let visible = std::array::from_fn(|lane| match lane {
            lane if lane < count => problem.visible(sequence, first + lane),
            _ => 0..0,
        });
        Self {
            first,
            count,
            visible,
        }
    }

    /// Vectors that hold the queries.
    pub(super) fn vectors(&self) -> usize {
        self.count.div_ceil(LANES)
    }

    /// Keys that any query sees.
    pub(super) fn keys(&self) -> Range<usize> {
        let seen = || self.visible.iter().filter(|range| !range.is_empty());
        let first = seen().map(|range| range.start).min().unwrap_or(0);
        first..seen().map(|range| range.end).max().unwrap_or(0)
    }

    /// What the tile sees of the block of keys from `block` on.
    pub(super) fn view(&self, block: usize) -> View {
        let keys = self.keys();
        let (first, end) = (keys.start.max(block), keys.end.min(block + KEYS));
        let relative = |key: usize| (key.clamp(block, block + KEYS) - block) as f32;
        let all_see = |range: &Range<usize>| range.start <= first && end <= range.end;
        let mut view = View {
            keys: 0..0,
            is_masked: false,
            first: [0.0; QUERIES],
            end: [0.0; QUERIES],
        };
        if first >= end {
            return view;
        }
        // The rows of a product come in fours.
        let start = (first - block) / ROWS * ROWS;
        view.keys = start..end - block;
        view.is_masked = block + start != first || !self.visible[..self.count].iter().all(all_see);
        for (lane, range) in self.visible.iter().enumerate() {
            (view.first[lane], view.end[lane]) = (relative(range.start), relative(range.end));
        }
        view
    }
}

/// A tile's part of a block of keys, counted from the block's first.
pub(super) struct View {
    /// The rows to compute: from a multiple of [`ROWS`] on.
    pub(super) keys: Range<usize>,
    /// Whether some query does not see some of these keys.
    pub(super) is_masked: bool,
    /// The first key that each query sees, and the end of them.
    first: [f32; QUERIES],
    end: [f32; QUERIES],
}

impl View {
    /// Whether a query sees a key.
    pub(super) fn sees(&self, lane: usize, key: usize) -> bool {
        (self.first[lane]..self.end[lane]).contains(&(key as f32))
    }

    /// `x` for the queries of vector `w` that see `key`, else `hidden`.
    #[inline(always)]
    pub(super) fn select<V: Lanes>(&self, w: usize, key: usize, x: V, hidden: V) -> V {
        let key = V::splat(key as f32);
        // SAFETY: `w` is below 3, so the arrays hold eight numbers from there.
        let [first, end] =
            unsafe { [&self.first, &self.end].map(|bound| V::load(bound.as_ptr().add(w * LANES))) };
        key.select_less(end, key.select_less(first, hidden, x), hidden)
    }
}

/// Puts rows side by side: row `lane` of `rows` becomes column `lane` of `to`, `[columns, 8 * vectors]`. What a row lacks
/// is zero.
#[inline(always)]
pub(super) fn transpose<'r, V: Lanes, T: Float>(
    vectors: usize,
    columns: usize,
    row: impl Fn(usize) -> Option<&'r [T]>,
    to: &mut [f32],
) {
    let mut wide = [[0.0f32; MAX_HEAD_DIM]; LANES];
    let width = vectors * LANES;
    let padded = columns.next_multiple_of(LANES);
    assert!(
        padded <= MAX_HEAD_DIM && to.len() >= padded * width,
        "a buffer holds its columns"
    );
    for w in 0..vectors {
        for (lane, wide) in wide.iter_mut().enumerate() {
            match row(w * LANES + lane) {
                Some(row) => T::widen(row, &mut wide[..columns]),
                None => wide[..columns].fill(0.0),
            }
        }
        for column in (0..padded).step_by(LANES) {
            // SAFETY: `column + 8 <= padded`, which the rows of `wide` hold; the assertion covers every row of `to`.
            unsafe {
                let rows = std::array::from_fn(|lane| V::load(wide[lane].as_ptr().add(column)));
                for (step, lanes) in V::transpose(rows).into_iter().enumerate() {
                    lanes.store(to.as_mut_ptr().add((column + step) * width + w * LANES));
                }
            }
        }
    }
}

/// The way back: column `lane` of `from`, `[columns, 8 * vectors]` with `columns` a multiple of 8, goes to `to(lane)`.
#[inline(always)]
pub(super) fn transpose_back<'r, V: Lanes, T: Float>(
    vectors: usize,
    columns: usize,
    from: &[f32],
    mut to: impl FnMut(usize) -> Option<&'r mut [T]>,
) {
    let mut wide = [[0.0f32; MAX_HEAD_DIM]; LANES];
    let width = vectors * LANES;
    assert!(
        columns <= MAX_HEAD_DIM && from.len() >= columns * width,
        "a buffer holds its columns"
    );
    for w in 0..vectors {
        for column in (0..columns).step_by(LANES) {
            // SAFETY: as in `transpose`.
            unsafe {
                let rows = std::array::from_fn(|step| {
                    V::load(from.as_ptr().add((column + step) * width + w * LANES))
                });
                for (lane, lanes) in V::transpose(rows).into_iter().enumerate() {
                    lanes.store(wide[lane].as_mut_ptr().add(column));
                }
            }
        }
        for (lane, wide) in wide.iter().enumerate() {
            if let Some(row) = to(w * LANES + lane) {
                T::narrow(&wide[..columns], row);
            }
        }
    }
}
