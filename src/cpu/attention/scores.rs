//! Scores of a tile of queries against a block of keys.

use super::matrix::{LINE, Matrix};
use super::problem::{Problem, Sequence};
use super::product::{Left, Product, product};
use super::tile::{Block, QUERIES, Tile, View, transpose};
use crate::cpu::lanes::LANES;
use crate::dtype::Float;

/// Vectors of a cache line.
pub(super) const VECTORS: usize = LINE / LANES;

/// Where a tile stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) sequence: &'a Sequence,
    pub(super) head: usize,
    pub(super) tile: &'a Tile,
    /// First key of the block.
    pub(super) block: usize,
    pub(super) view: &'a View,
}

/// `keys . columns` of the view's keys and the tile's queries, a row a key: `left` are rows of keys, `columns` is
/// `[dim, width]`.
pub(super) fn dot<V: Product>(
    place: Place<'_>,
    dim: usize,
    left: &Block,
    columns: &Matrix,
    to: &mut Matrix,
) {
    let (keys, width) = (&place.view.keys, place.tile.width());
    to.reshape(keys.end, width);
    product::<V>(
        [keys.len(), dim, width],
        Left::Rows(&left.rows, keys.start),
        (columns, 0),
        (to, keys.start),
        false,
    );
}

/// Turns the products `q . k` in `scores` into scores, and gives the greatest of each query: those that a query does not
/// see are `-inf`. `slopes` takes what the soft cap's derivative is, where there is a soft cap.
#[inline(always)]
pub(super) fn finish<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    scores: &mut Matrix,
    bias: &mut Matrix,
    slopes: Option<&mut Matrix>,
) -> [f32; QUERIES] {
    let width = place.tile.width();
    let bias = transpose_bias::<V, T>(problem, place, bias);
    let mut slopes = slopes.filter(|_| problem.softcap != 0.0);
    if let Some(slopes) = &mut slopes {
        slopes.reshape(place.view.keys.end, width);
    }
    let mut greatest = [f32::NEG_INFINITY; QUERIES];
    if problem.softcap == 0.0 && bias.is_none() && !place.view.is_masked {
        scale::<V>(problem.scale, place, scores, &mut greatest);
    } else {
        modify::<V, T>(problem, place, scores, (bias, slopes), &mut greatest);
    }
    greatest
}

/// The scores without cap, bias and mask.
#[inline(always)]
fn scale<V: Product>(
    scale: f32,
    place: Place<'_>,
    scores: &mut Matrix,
    greatest: &mut [f32; QUERIES],
) {
    let stride = scores.stride();
    for first in (0..place.tile.width()).step_by(LINE) {
        let mut of_line = [V::splat(f32::NEG_INFINITY); VECTORS];
        let mut row = scores.line(&place.view.keys, first);
        for _ in place.view.keys.clone() {
            for (v, greatest) in of_line.iter_mut().enumerate() {
                // SAFETY: `row` is the line of a key of the view.
                unsafe {
                    let at = row.add(v * LANES);
                    let score = V::load(at).mul(V::splat(scale));
                    score.store(at);
                    // In this order a NaN is passed over.
                    *greatest = score.max(*greatest);
                }
            }
            row = row.wrapping_add(stride);
        }
        store(of_line, &mut greatest[first..first + LINE]);
    }
}

/// The scores in general.
#[inline(always)]
fn modify<V: Product, T>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    scores: &mut Matrix,
    (bias, mut slopes): (Option<&Matrix>, Option<&mut Matrix>),
    greatest: &mut [f32; QUERIES],
) {
    let keys = &place.view.keys;
    for first in (0..place.tile.width()).step_by(LANES) {
        let lanes = first..first + LANES;
        let mut of_vector = V::splat(f32::NEG_INFINITY);
        for key in keys.clone() {
            let at = &mut scores.row_mut(key)[lanes.clone()];
            // SAFETY: every slice holds eight numbers.
            unsafe {
                let mut score = V::load(at.as_ptr()).mul(V::splat(problem.scale));
                if problem.softcap != 0.0 {
                    let inner = score.div(V::splat(problem.softcap));
                    score = inner.tanh().mul(V::splat(problem.softcap));
                    if let Some(slopes) = &mut slopes {
                        let slope = &mut slopes.row_mut(key)[lanes.clone()];
                        inner.tanh_slope().store(slope.as_mut_ptr());
                    }
                }
                if let Some(bias) = bias {
                    score = score.add(V::load(bias.row(key - keys.start)[lanes.clone()].as_ptr()));
                }
                if place.view.is_masked {
                    let hidden = V::splat(f32::NEG_INFINITY);
                    score = place.view.select(first / LANES, key, score, hidden);
                }
                score.store(at.as_mut_ptr());
                // In this order a NaN is passed over.
                of_vector = score.max(of_vector);
            }
        }
        // SAFETY: the slice holds eight numbers.
        unsafe { of_vector.store(greatest[lanes].as_mut_ptr()) };
    }
}

/// Puts the bias of the view's keys to `to`, a row a key, where there is one.
#[inline(always)]
fn transpose_bias<'t, V: Product, T: Float>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    to: &'t mut Matrix,
) -> Option<&'t Matrix> {
    problem.geometry.bias?;
    let keys = place.block + place.view.keys.start..place.block + place.view.keys.end;
    let row = |lane: usize| {
        let i = place.tile.first + lane;
        let row =
            (lane < place.tile.count).then(|| problem.bias_row(place.sequence, place.head, i))?;
        row.map(|row| &row[keys.clone()])
    };
    transpose::<V, T>(place.tile.width(), keys.len(), row, to);
    Some(to)
}

/// A line's vectors at `from`.
///
/// # Safety
/// Sixteen numbers can be read there.
#[inline(always)]
pub(super) unsafe fn load<V: Product>(from: *const f32) -> [V; VECTORS] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { V::load(from.add(v * LANES)) })
}

/// Puts vectors to the line `to`.
#[inline(always)]
pub(super) fn store<V: Product>(vectors: [V; VECTORS], to: &mut [f32]) {
    for (vector, to) in vectors.into_iter().zip(to.as_chunks_mut::<LANES>().0) {
        // SAFETY: a chunk is eight numbers.
        unsafe { vector.store(to.as_mut_ptr()) };
    }
}
