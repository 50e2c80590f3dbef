//! Blocks of keys and tiles of queries in `f32`, as the products read them.

use super::dropout::QUARTET;
use super::matrix::{LINE, Matrix};
use super::problem::{Heads, Problem, Sequence};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;
use std::ops::Range;

/// Most keys of a block: with 48 queries, 24 KiB of scores, which stay in L1 between the products; the rows of keys and
/// values stream from L2.
const KEYS: usize = 128;
/// Queries of a tile: whole strips of six rows and whole vectors of eight lanes, and as many as let a row of keys or values
/// serve 48 multiply-adds an element.
pub(super) const QUERIES: usize = 48;
/// Greatest head dimension, of rows on the stack.
const MAX_HEAD_DIM: usize = 256;

/// Keys of each block but the last, at least 1: blocks as even as may be, since a short one has the costs of a long one.
pub(super) fn block_keys(keys: usize) -> usize {
    let blocks = keys.div_ceil(KEYS).max(1);
    keys.div_ceil(blocks).max(1).next_multiple_of(QUARTET)
}

/// Rows of one head, `[tokens, head_dim]`.
#[derive(Default)]
pub(super) struct Block {
    pub(super) rows: Matrix,
    head_dim: usize,
}

impl Block {
    /// Takes over the rows of tokens of one head.
    #[inline(always)]
    pub(super) fn fill<V: Lanes, T: Float>(
        &mut self,
        from: &Heads<'_, T>,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
    ) {
        let row = |row: usize| Some(from.row(batch, tokens.start + row, head));
        self.fill_with::<V, T>(tokens.len(), from.head_dim, row);
    }

    /// Takes over `count` rows: zeros where there is none.
    #[inline(always)]
    pub(super) fn fill_with<'a, V: Lanes, T: Float>(
        &mut self,
        count: usize,
        dim: usize,
        from: impl Fn(usize) -> Option<&'a [T]>,
    ) {
        self.rows.reshape(count, dim);
        self.head_dim = dim;
        for at in 0..count {
            if at + AHEAD < count {
                prefetch::<V, T>(from(at + AHEAD));
            }
            let row = &mut self.rows.row_mut(at)[..dim];
            match from(at) {
                Some(from) => T::widen(from, row),
                None => row.fill(0.0),
            }
        }
    }

    /// Whether every element is finite.
    #[inline(always)]
    pub(super) fn is_finite(&self) -> bool {
        let mut zeros = [0.0f32; LANES];
        for row in 0..self.rows.rows() {
            // A NaN or an infinity times 0 is NaN, and stays it.
            for part in self.rows.row(row)[..self.head_dim].as_chunks::<LANES>().0 {
                for (zero, x) in zeros.iter_mut().zip(part) {
                    *zero += x * 0.0;
                }
            }
        }
        zeros == [0.0; LANES]
    }
}

/// Rows to ask memory for before they are read: rows of a head are pages apart in a packed projection, where processors
/// foresee none.
pub(super) const AHEAD: usize = 8;

/// Asks for a row.
#[inline(always)]
pub(super) fn prefetch<V: Lanes, T>(row: Option<&[T]>) {
    for line in row.unwrap_or_default().chunks(64 / size_of::<T>()) {
        V::prefetch(line.as_ptr());
    }
}

/// Up to [`QUERIES`] neighbouring queries of a head.
pub(super) struct Tile {
    /// The first, counted within the sequence.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Keys that any query sees.
    pub(super) keys: Range<usize>,
    /// Keys that each may see; none for the lanes behind the last query.
    visible: [Range<usize>; QUERIES],
}

impl Tile {
    pub(super) fn new<T>(problem: &Problem<'_, T>, sequence: &Sequence, first: usize) -> Self {
        let count = QUERIES.min(sequence.queries - first);
        let visible = std::array::from_fn(|lane| match lane {
            lane if lane < count => problem.visible(sequence, first + lane),
            _ => 0..0,
        });
        let seen = || visible.iter().filter(|range| !range.is_empty());
        let start = seen().map(|range| range.start).min().unwrap_or(0);
        let end = seen().map(|range| range.end).max().unwrap_or(0);
        Self {
            first,
            count,
            keys: start..end,
            visible,
        }
    }

    /// Lanes that hold the queries: whole cache lines.
    pub(super) fn width(&self) -> usize {
        self.count.next_multiple_of(LINE)
    }

    /// What the tile sees of a block of keys.
    pub(super) fn view(&self, block: Range<usize>) -> View {
        let (first, end) = (
            self.keys.start.max(block.start),
            self.keys.end.min(block.end),
        );
        let mut view = View {
            keys: 0..0,
            is_masked: false,
            first: [0.0; QUERIES],
            end: [0.0; QUERIES],
        };
        if first >= end {
            return view;
        }
        // Dropout draws by quartets.
        let start = (first - block.start) / QUARTET * QUARTET;
        view.keys = start..end - block.start;
        let all_see = |range: &Range<usize>| range.start <= first && end <= range.end;
        view.is_masked =
            block.start + start != first || !self.visible[..self.count].iter().all(all_see);
        if view.is_masked {
            let relative = |key: usize| (key.clamp(block.start, block.end) - block.start) as f32;
            for (lane, range) in self.visible.iter().enumerate() {
                (view.first[lane], view.end[lane]) = (relative(range.start), relative(range.end));
            }
        }
        view
    }
}

/// A tile's part of a block of keys, counted from the block's first.
pub(super) struct View {
    /// The keys to compute: from a multiple of [`QUARTET`] on.
    pub(super) keys: Range<usize>,
    /// Whether some query does not see some of these keys.
    pub(super) is_masked: bool,
    /// The first key that each query sees, and the end of them; set where masked.
    first: [f32; QUERIES],
    end: [f32; QUERIES],
}

impl View {
    /// Whether a query sees a key, in a masked view.
    fn sees(&self, lane: usize, key: usize) -> bool {
        (self.first[lane]..self.end[lane]).contains(&(key as f32))
    }

    /// The pairs of a key and one of `count` queries that see each other, in a masked view: where something is not finite,
    /// only these are multiplied, since 0 times it would be NaN.
    pub(super) fn pairs(&self, count: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let lanes = move |key| (0..count).map(move |lane| (key, lane));
        self.keys
            .clone()
            .flat_map(lanes)
            .filter(|&(key, lane)| self.sees(lane, key))
    }

    /// `x` for the queries of vector `w` that see `key`, else `hidden`.
    #[inline(always)]
    pub(super) fn select<V: Lanes>(&self, w: usize, key: usize, x: V, hidden: V) -> V {
        let key = V::splat(key as f32);
        let lanes = w * LANES..(w + 1) * LANES;
        // SAFETY: both slices hold eight numbers.
        let [first, end] =
            unsafe { [&self.first, &self.end].map(|bound| V::load(bound[lanes.clone()].as_ptr())) };
        key.select_less(end, key.select_less(first, hidden, x), hidden)
    }
}

/// Puts rows side by side: row `lane` of `rows` becomes column `lane` of `to`, `[columns, width]`. What a row lacks is
/// zero.
#[inline(always)]
pub(super) fn transpose<'r, V: Lanes, T: Float>(
    width: usize,
    columns: usize,
    row: impl Fn(usize) -> Option<&'r [T]>,
    to: &mut Matrix,
) {
    let mut wide = [[0.0f32; MAX_HEAD_DIM]; LANES];
    let padded = columns.next_multiple_of(LANES);
    to.reshape(padded, width);
    for first in (0..width).step_by(LANES) {
        for (lane, wide) in wide.iter_mut().enumerate() {
            if first + lane + AHEAD < width {
                prefetch::<V, T>(row(first + lane + AHEAD));
            }
            match row(first + lane) {
                Some(row) => T::widen(row, &mut wide[..columns]),
                None => wide[..columns].fill(0.0),
            }
        }
        for column in (0..padded).step_by(LANES) {
            let rows = std::array::from_fn(|lane| {
                // SAFETY: the slice holds eight numbers.
                unsafe { V::load(wide[lane][column..column + LANES].as_ptr()) }
            });
            for (step, lanes) in V::transpose(rows).into_iter().enumerate() {
                let to = &mut to.row_mut(column + step)[first..first + LANES];
                // SAFETY: the slice holds eight numbers.
                unsafe { lanes.store(to.as_mut_ptr()) };
            }
        }
    }
}
