//! Scores of a tile of queries against a block of keys.

use super::problem::{Problem, Sequence};
use super::product::{Left, ROWS, product};
use super::tile::{Block, KEYS, QUERIES, Tile, View, transpose};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;

/// Numbers of each query against each key of a block, a row a key.
pub(super) type Scores = Vec<f32>;

/// Room for a block's numbers.
pub(super) fn room() -> Scores {
    vec![0.0; KEYS * QUERIES]
}

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

/// `keys . columns` of the view's keys and the tile's queries: `left` are rows of keys, `columns` is `[dim, 8 W]`.
#[inline(always)]
pub(super) fn dot<V: Lanes, const W: usize>(
    view: &View,
    dim: usize,
    left: &Block,
    columns: &[f32],
    to: &mut Scores,
) {
    let width = W * LANES;
    let end = view.keys.end.next_multiple_of(ROWS);
    assert!(
        left.rows.len() >= end * dim && columns.len() >= dim * width && to.len() >= end * width,
        "whole operands"
    );
    for key in (view.keys.start..end).step_by(ROWS) {
        // SAFETY: keys `key..key + 4` are rows of `left` and `to`, as asserted; `columns` is another buffer.
        unsafe {
            let a = Left {
                start: left.rows.as_ptr().add(key * dim),
                row: dim,
                step: 1,
            };
            let c = (to.as_mut_ptr().add(key * width), width);
            product::<V, W>(dim, a, (columns.as_ptr(), width), c, false);
        }
    }
}

/// Turns the products `q . k` in `scores` into scores, and gives the greatest of each query: those that a query does not
/// see are `-inf`. `slopes` takes what the soft cap's derivative is, where there is a soft cap.
#[inline(always)]
pub(super) fn finish<V: Lanes, T: Float, const W: usize>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    scores: &mut Scores,
    bias: &mut Scores,
    slopes: Option<&mut Scores>,
) -> [V; W] {
    let (width, keys) = (W * LANES, place.view.keys.clone());
    let has_bias = transpose_bias::<V, T>(problem, place, W, bias);
    let scale = V::splat(problem.scale);
    let slopes = slopes.map_or(std::ptr::null_mut(), |slopes| {
        assert!(slopes.len() >= keys.end * width, "a slope a score");
        slopes.as_mut_ptr()
    });
    assert!(
        scores.len() >= keys.end * width && bias.len() >= keys.len() * width,
        "a row a key"
    );
    let mut greatest = [V::splat(f32::NEG_INFINITY); W];
    for key in keys.clone() {
        for (w, greatest) in greatest.iter_mut().enumerate() {
            let at = key * width + w * LANES;
            // SAFETY: `at + 8 <= keys.end * width`, which the buffers hold, as asserted.
            unsafe {
                let mut score = V::load(scores.as_ptr().add(at)).mul(scale);
                if problem.softcap != 0.0 {
                    let inner = score.div(V::splat(problem.softcap));
                    score = inner.tanh().mul(V::splat(problem.softcap));
                    if !slopes.is_null() {
                        inner.tanh_slope().store(slopes.add(at));
                    }
                }
                if has_bias {
                    score = score.add(V::load(bias.as_ptr().add(at - keys.start * width)));
                }
                if place.view.is_masked {
                    score = place
                        .view
                        .select(w, key, score, V::splat(f32::NEG_INFINITY));
                }
                score.store(scores.as_mut_ptr().add(at));
                // In this order a NaN is passed over.
                *greatest = score.max(*greatest);
            }
        }
    }
    greatest
}

/// Puts the bias of the view's keys to `to`, a row a key; false where there is none.
#[inline(always)]
fn transpose_bias<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    place: Place<'_>,
    vectors: usize,
    to: &mut Scores,
) -> bool {
    if problem.geometry.bias.is_none() {
        return false;
    }
    let keys = place.block + place.view.keys.start..place.block + place.view.keys.end;
    let row = |lane: usize| {
        let i = place.tile.first + lane;
        let row =
            (lane < place.tile.count).then(|| problem.bias_row(place.sequence, place.head, i))?;
        row.map(|row| &row[keys.clone()])
    };
    transpose::<V, T>(vectors, keys.len(), row, to);
    true
}
