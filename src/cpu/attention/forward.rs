//! The forward pass: a tile of queries against a block of keys at a time, with a running greatest score and sum.

use super::backward::add_scaled;
use super::dropout::kept_scales;
use super::matrix::{LINE, Matrix};
use super::problem::{HeadsMut, Problem, Sequence};
use super::product::{Left, Product, product};
use super::scores::{self, Place};
use super::tile::{AHEAD, Block, QUERIES, Tile, View, block_keys, prefetch, transpose};
use crate::cpu::lanes::LANES;
use crate::dtype::Float;

/// Tiles of a task: their queries and outputs (216 KiB at a head dimension of 64) stay in L2 beside a block of keys and
/// values, which is converted once for all of them.
const TILES: usize = 8;

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

/// A tile under way.
struct State {
    tile: Tile,
    /// `[head_dim, width]`.
    queries: Matrix,
    /// `[count, head_dim]`.
    output: Matrix,
    greatest: [f32; QUERIES],
    sum: [f32; QUERIES],
}

/// Buffers of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Block,
    values: Block,
    scores: Matrix,
    bias: Matrix,
    kept: Matrix,
}

/// Attends the queries of a task.
///
/// # Safety
/// Nobody else holds the task's rows of `out` and `lse` meanwhile. `lse` is laid out as a token's heads of one element.
#[inline(always)]
pub(super) unsafe fn run<V: Product, T: Float>(
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
    let seen = || states.iter().map(|state| &state.tile.keys);
    let first = seen().map(|keys| keys.start).min().unwrap_or(0);
    let end = seen().map(|keys| keys.end).max().unwrap_or(0);
    let step = block_keys(sequence.keys);
    for block in (first / step * step..end).step_by(step) {
        let block = block..end.min(block + step);
        let tokens = sequence.first_key + block.start..sequence.first_key + block.end;
        let (batch, kv_head) = (sequence.batch, problem.kv_head(head));
        scratch
            .keys
            .fill::<V, T>(&problem.k, batch, kv_head, tokens.clone());
        scratch
            .values
            .fill::<V, T>(&problem.v, batch, kv_head, tokens);
        for state in &mut states {
            let view = state.tile.view(block.clone());
            if !view.keys.is_empty() {
                attend::<V, T>(problem, task, block.start, &view, state, scratch);
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
fn start<V: Product, T: Float>(problem: &Problem<'_, T>, task: &Task<'_>, first: usize) -> State {
    let tile = Tile::new(problem, task.sequence, first);
    let dim = problem.geometry.head_dim;
    let mut queries = Matrix::default();
    let row = |lane: usize| {
        let token = task.sequence.first_query + first + lane;
        (lane < tile.count).then(|| problem.q.row(task.sequence.batch, token, task.head))
    };
    transpose::<V, T>(tile.width(), dim, row, &mut queries);
    State {
        output: Matrix::zeros(tile.count, dim),
        tile,
        queries,
        greatest: [f32::NEG_INFINITY; QUERIES],
        sum: [0.0; QUERIES],
    }
}

/// Takes a block into a tile.
#[inline(always)]
fn attend<V: Product, T: Float>(
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
    scores::dot::<V>(place, dim, keys, &state.queries, scores);
    let greatest = scores::finish::<V, T>(problem, place, scores, bias, None);
    soften::<V>(view, &greatest, scores, state);
    let keys = view.keys.clone();
    if let Some(dropout) = &problem.dropout {
        let head = task.sequence.index * problem.geometry.heads + task.head;
        let (first, width) = (state.tile.first, state.tile.width());
        kept_scales(
            dropout,
            head,
            first,
            block + keys.start..block + keys.end,
            width,
            kept,
        );
        for key in keys.clone() {
            let row = scores.row_mut(key)[..width].iter_mut();
            row.zip(kept.row(key - keys.start))
                .for_each(|(p, kept)| *p *= kept);
        }
    }
    let count = state.tile.count;
    if view.is_masked && !values.is_finite() {
        for (key, lane) in view.pairs(count) {
            let output = &mut state.output.row_mut(lane)[..dim];
            add_scaled(scores.row(key)[lane], values.rows.row(key), output);
        }
        return;
    }
    product::<V>(
        [count, keys.len(), dim],
        Left::Columns(scores, keys.start),
        (&values.rows, keys.start),
        (&mut state.output, 0),
        true,
    );
}

/// Turns scores into `exp(score - greatest)` with the greatest so far, and scales what was summed before to it.
#[inline(always)]
fn soften<V: Product>(
    view: &View,
    of_block: &[f32; QUERIES],
    scores: &mut Matrix,
    state: &mut State,
) {
    let mut rescale = [0.0; QUERIES];
    let stride = scores.stride();
    for first in (0..state.tile.width()).step_by(LINE) {
        let line = first..first + LINE;
        let (greatest, sum) = (
            &mut state.greatest[line.clone()],
            &mut state.sum[line.clone()],
        );
        // SAFETY: every slice is a line, and `row` that of a key of the view.
        unsafe {
            let before = scores::load::<V>(greatest.as_ptr());
            let of_block = scores::load::<V>(of_block[line.clone()].as_ptr());
            let mut total = scores::load::<V>(sum.as_ptr());
            let (mut now, mut shift, mut factor) = (before, before, before);
            for v in 0..scores::VECTORS {
                now[v] = of_block[v].max(before[v]);
                // Where nothing was seen yet, any finite number stands in: -inf less -inf would be NaN.
                shift[v] = now[v].select_less(V::splat(f32::MIN), V::splat(0.0), now[v]);
                factor[v] = before[v].sub(shift[v]).exp();
                total[v] = total[v].mul(factor[v]);
            }
            let mut row = scores.line(&view.keys, first);
            for _ in view.keys.clone() {
                let score = scores::load::<V>(row);
                for v in 0..scores::VECTORS {
                    let p = score[v].sub(shift[v]).exp();
                    total[v] = total[v].add(p);
                    p.store(row.add(v * LANES));
                }
                row = row.wrapping_add(stride);
            }
            scores::store(now, greatest);
            scores::store(total, sum);
            scores::store(factor, &mut rescale[line]);
        }
    }
    // The greatest seldom rises after the first blocks.
    for (lane, &factor) in rescale[..state.tile.count].iter().enumerate() {
        if factor != 1.0 {
            for x in state.output.row_mut(lane) {
                *x *= factor;
            }
        }
    }
}

/// Divides by the sums and writes the tile's rows.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn finish<V: Product, T: Float>(
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
    for lane in 0..tile.count {
        let token = sequence.first_query + tile.first + lane;
        if lane + AHEAD < tile.count {
            // SAFETY: the row is the task's, and let go at once.
            prefetch::<V, T>(Some(unsafe {
                out.row(sequence.batch, token + AHEAD, head)
            }));
        }
        let output = &mut output.row_mut(lane)[..problem.geometry.head_dim];
        let at = problem.row_index(sequence, head, tile.first + lane);
        let (share, logarithm) = match sum[lane] {
            // Nothing seen.
            0.0 => (0.0, f32::NEG_INFINITY),
            sum => (1.0 / sum, greatest[lane] + sum.ln()),
        };
        for x in &mut *output {
            *x *= share;
        }
        // SAFETY: the rows are the task's, and let go at once; that of the log-sum-exp is within it, which was checked to
        // hold all.
        unsafe {
            lse.0.add(at).write(logarithm);
            T::narrow(output, out.row(sequence.batch, token, head));
        }
    }
}

/// An output that several threads write, each its own elements.
pub(super) struct SyncPointer(pub(super) *mut f32);

// SAFETY: the functions that write through it promise not to share elements.
unsafe impl Sync for SyncPointer {}
