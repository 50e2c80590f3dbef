//! The forward pass: a tile of queries against a block of keys at a time, with a running greatest score and sum.

use super::dropout::kept_scales;
use super::problem::{HeadsMut, Problem, Sequence};
use super::product::{Left, ROWS, product};
use super::scores::{self, Place, Scores};
use super::tile::{Block, KEYS, QUERIES, Tile, View, transpose, transpose_back};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;

/// Tiles of a task: their queries and outputs (192 KiB at a head dimension of 64) stay in L2 beside a block of keys and
/// values, which is converted once for all of them.
const TILES: usize = 16;

/// Queries of one head that one thread attends, `first..end` within their sequence.
pub(super) struct Task<'a> {
    pub(super) sequence: &'a Sequence,
    pub(super) head: usize,
    first: usize,
    end: usize,
}

/// All tasks of a call: of a head's tiles, as few and as even parts as there may be.
pub(super) fn tasks<'a, T>(problem: &'a Problem<'_, T>) -> Vec<Task<'a>> {
    let of_head = |sequence: &'a Sequence, head: usize| {
        let tiles = sequence.queries.div_ceil(QUERIES);
        let queries = tiles.div_ceil(tiles.div_ceil(TILES).max(1)) * QUERIES;
        (0..sequence.queries)
            .step_by(queries.max(1))
            .map(move |first| {
                let end = sequence.queries.min(first + queries);
                Task {
                    sequence,
                    head,
                    first,
                    end,
                }
            })
    };
    let heads =
        |sequence| (0..problem.geometry.heads).flat_map(move |head| of_head(sequence, head));
    problem.sequences.iter().flat_map(heads).collect()
}

/// A tile under way, `[head_dim, 8 * vectors]` each.
struct State {
    tile: Tile,
    queries: Vec<f32>,
    output: Vec<f32>,
    greatest: [f32; QUERIES],
    sum: [f32; QUERIES],
}

/// Buffers of a thread.
pub(super) struct Scratch {
    keys: Block,
    values: Block,
    scores: Scores,
    bias: Scores,
    kept: Scores,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            keys: Block::default(),
            values: Block::default(),
            scores: scores::room(),
            bias: scores::room(),
            kept: scores::room(),
        }
    }
}

/// Attends the queries of a task.
///
/// # Safety
/// Nobody else holds the task's rows of `out` and `lse` meanwhile. `lse` is laid out as a token's heads of one element.
#[inline(always)]
pub(super) unsafe fn run<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    task: &Task<'_>,
    scratch: &mut Scratch,
    out: &HeadsMut<T>,
    lse: &SyncPointer,
) {
    let Task { sequence, head, .. } = *task;
    // Loops and direct calls throughout: what the compiler keeps as a function of its own (behind a
    // pointer, or a closure of `map`) it compiles without the vector instructions.
    let mut states = Vec::new();
    for first in (task.first..task.end).step_by(QUERIES) {
        states.push(start::<V, T>(problem, task, first));
    }
    let first = states
        .iter()
        .map(|state| state.tile.keys().start)
        .min()
        .unwrap_or(0);
    let end = states
        .iter()
        .map(|state| state.tile.keys().end)
        .max()
        .unwrap_or(0);
    for block in (first / KEYS * KEYS..end).step_by(KEYS) {
        let tokens = sequence.first_key + block..sequence.first_key + end.min(block + KEYS);
        let kv_head = problem.kv_head(head);
        scratch
            .keys
            .fill(&problem.k, sequence.batch, kv_head, tokens.clone());
        scratch
            .values
            .fill(&problem.v, sequence.batch, kv_head, tokens);
        for state in &mut states {
            let view = state.tile.view(block);
            match state.tile.vectors() {
                _ if view.keys.is_empty() => {}
                1 => step::<V, T, 1>(problem, task, block, &view, state, scratch),
                2 => step::<V, T, 2>(problem, task, block, &view, state, scratch),
                _ => step::<V, T, 3>(problem, task, block, &view, state, scratch),
            }
        }
    }
    for state in &mut states {
        // SAFETY: the caller promises the rows of the task, of which the tile's are a part.
        unsafe { finish::<V, T>(problem, task, state, out, lse) };
    }
}

/// A tile before its first block.
#[inline(always)]
fn start<V: Lanes, T: Float>(problem: &Problem<'_, T>, task: &Task<'_>, first: usize) -> State {
    let tile = Tile::new(problem, task.sequence, first);
    let dim = problem.geometry.head_dim;
    let size = dim * tile.vectors() * LANES;
    let mut queries = vec![0.0; size];
    let row = |lane: usize| {
        let token = task.sequence.first_query + first + lane;
        (lane < tile.count).then(|| problem.q.row(task.sequence.batch, token, task.head))
    };
    transpose::<V, T>(tile.vectors(), dim, row, &mut queries);
    let greatest = [f32::NEG_INFINITY; QUERIES];
    State {
        tile,
        queries,
        output: vec![0.0; size],
        greatest,
        sum: [0.0; QUERIES],
    }
}

/// Takes a block into a tile.
#[inline(always)]
fn step<V: Lanes, T: Float, const W: usize>(
    problem: &Problem<'_, T>,
    task: &Task<'_>,
    block: usize,
    view: &View,
    state: &mut State,
    scratch: &mut Scratch,
) {
    let dim = problem.geometry.head_dim;
    let Scratch {
        keys,
        values,
        scores,
        bias,
        kept,
    } = scratch;
    let place = Place {
        sequence: task.sequence,
        head: task.head,
        tile: &state.tile,
        block,
        view,
    };
    scores::dot::<V, W>(view, dim, keys, &state.queries, scores);
    let greatest = scores::finish::<V, T, W>(problem, place, scores, bias, None);
    soften::<V, W>(view, greatest, scores, state);
    if let Some(dropout) = &problem.dropout {
        let head = task.sequence.index * problem.geometry.heads + task.head;
        let all = block + view.keys.start..block + view.keys.end;
        kept_scales(dropout, head, state.tile.first, all, W, kept);
        let of_view = &mut scores[view.keys.start * W * LANES..view.keys.end * W * LANES];
        of_view
            .iter_mut()
            .zip(&*kept)
            .for_each(|(p, kept)| *p *= kept);
    }
    if view.is_masked && !values.is_finite {
        add_visible(view, dim, W * LANES, &values.rows, scores, state);
        return;
    }
    let width = W * LANES;
    let steps = view.keys.len();
    assert!(
        values.rows.len() >= view.keys.end * dim && state.output.len() >= dim * width,
        "whole operands"
    );
    for d in (0..dim).step_by(ROWS) {
        // SAFETY: `dim` is a multiple of 4, so that columns `d..d + 4` of the values and rows of the output exist; the
        // view's rows of values and scores do, as asserted here and in `soften`.
        unsafe {
            let a = Left {
                start: values.rows.as_ptr().add(view.keys.start * dim + d),
                row: 1,
                step: dim,
            };
            let b = (scores.as_ptr().add(view.keys.start * width), width);
            product::<V, W>(
                steps,
                a,
                b,
                (state.output.as_mut_ptr().add(d * width), width),
                true,
            );
        }
    }
}

/// Turns scores into `exp(score - greatest)` with the greatest so far, and scales what was summed before to it.
#[inline(always)]
fn soften<V: Lanes, const W: usize>(
    view: &View,
    of_block: [V; W],
    scores: &mut Scores,
    state: &mut State,
) {
    let width = W * LANES;
    let dim = state.output.len() / width;
    assert!(scores.len() >= view.keys.end * width, "a row a key");
    for (w, of_block) in of_block.into_iter().enumerate() {
        // SAFETY: `w` is below 3, the vectors of the arrays; rows of scores and output are as long as `width`, and as
        // many as asserted and divided.
        unsafe {
            let (greatest, sum) = (&mut state.greatest, &mut state.sum);
            let before = V::load(greatest.as_ptr().add(w * LANES));
            let now = of_block.max(before);
            now.store(greatest.as_mut_ptr().add(w * LANES));
            // Where nothing was seen yet, any finite number stands in: -inf less -inf would be NaN.
            let shift = now.select_less(V::splat(f32::MIN), V::splat(0.0), now);
            let rescale = before.sub(shift).exp();
            let mut total = V::load(sum.as_ptr().add(w * LANES)).mul(rescale);
            for key in view.keys.clone() {
                let at = scores.as_mut_ptr().add(key * width + w * LANES);
                let p = V::load(at).sub(shift).exp();
                total = total.add(p);
                p.store(at);
            }
            total.store(sum.as_mut_ptr().add(w * LANES));
            for d in 0..dim {
                let at = state.output.as_mut_ptr().add(d * width + w * LANES);
                V::load(at).mul(rescale).store(at);
            }
        }
    }
}

/// `output += values * probabilities` of the keys that each query sees, pair by pair: a value that is not finite would
/// turn the product of a probability of 0 into NaN.
fn add_visible(
    view: &View,
    dim: usize,
    width: usize,
    values: &[f32],
    scores: &Scores,
    state: &mut State,
) {
    for key in view.keys.clone() {
        for lane in (0..state.tile.count).filter(|&lane| view.sees(lane, key)) {
            let p = scores[key * width + lane];
            for (d, value) in values[key * dim..][..dim].iter().enumerate() {
                let sum = &mut state.output[d * width + lane];
                *sum = value.mul_add(p, *sum);
            }
        }
    }
}

/// Divides by the sums and writes the tile's rows.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn finish<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    task: &Task<'_>,
    state: &mut State,
    out: &HeadsMut<T>,
    lse: &SyncPointer,
) {
    let Task { sequence, head, .. } = *task;
    let State {
        tile,
        output,
        greatest,
        sum,
        ..
    } = state;
    let width = tile.vectors() * LANES;
    // Nothing seen: 0 * 1, not 0 / 0.
    let shares = sum.map(|sum| if sum == 0.0 { 1.0 } else { sum });
    for row in output.chunks_exact_mut(width) {
        row.iter_mut()
            .zip(&shares)
            .for_each(|(x, share)| *x /= share);
    }
    for lane in 0..tile.count {
        let at = problem.row_index(sequence, head, tile.first + lane);
        let value = if sum[lane] == 0.0 {
            f32::NEG_INFINITY
        } else {
            greatest[lane] + sum[lane].ln()
        };
        // SAFETY: the row is the task's, and within the log-sum-exp, which was checked to hold all.
        unsafe { lse.0.add(at).write(value) };
    }
    let (first, count) = (tile.first, tile.count);
    let row = |lane: usize| {
        let token = sequence.first_query + first + lane;
        // SAFETY: the row is the task's, and each is taken once.
        (lane < count).then(|| unsafe { out.row(sequence.batch, token, head) })
    };
    transpose_back::<V, T>(tile.vectors(), problem.geometry.head_dim, output, row);
}

/// An output that several threads write, each its own elements.
pub(super) struct SyncPointer(pub(super) *mut f32);

// SAFETY: the functions that write through it promise not to share elements.
unsafe impl Sync for SyncPointer {}
