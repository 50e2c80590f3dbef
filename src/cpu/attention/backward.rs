//! The backward pass: a thread takes one head of keys and values with all queries that read it, so that no sum crosses
//! threads.

use super::problem::{HeadsMut, Problem, Sequence};
use super::product::{Left, ROWS, add_product, product};
use super::scores::{Place, Scores};
use super::slopes::{self, Buffers, Of, Rows};
use super::tile::{Block, KEYS, QUERIES, View, transpose_back};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;

/// Keys and values of one head that one thread works on.
pub(super) struct Task<'a> {
    pub(super) sequence: &'a Sequence,
    pub(super) kv_head: usize,
}

/// All tasks of a call.
pub(super) fn tasks<'a, T>(problem: &'a Problem<'_, T>) -> Vec<Task<'a>> {
    let of =
        |sequence| (0..problem.geometry.kv_heads).map(move |kv_head| Task { sequence, kv_head });
    problem.sequences.iter().flat_map(of).collect()
}

/// Where the gradients go.
pub(super) struct Gradients<T> {
    pub(super) dq: HeadsMut<T>,
    pub(super) dk: HeadsMut<T>,
    pub(super) dv: HeadsMut<T>,
}

/// A block of keys and values, and the sums of their gradients, `[rows, head_dim]`.
struct Column {
    /// Its first key.
    first: usize,
    keys: Block,
    values: Block,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// A tile of queries under way.
struct State {
    of: slopes::State,
    /// Rows of queries and of the output's gradient, beside the columns in `of`.
    queries: Block,
    dout: Block,
    /// Sums of the gradient, `[head_dim, 8 * vectors]`.
    dq: Vec<f32>,
}

/// The gradients of a task.
///
/// # Safety
/// Nobody else holds rows of the task's keys, values and queries meanwhile.
#[inline(always)]
pub(super) unsafe fn run<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    task: &Task<'_>,
    buffers: &mut Buffers,
    gradients: &Gradients<T>,
) {
    let &Task { sequence, kv_head } = task;
    let dim = problem.geometry.head_dim;
    let mut columns: Vec<Column> = (0..sequence.keys)
        .step_by(KEYS)
        .map(|first| column(problem, task, first))
        .collect();
    let group = problem.geometry.heads / problem.geometry.kv_heads;
    for head in kv_head * group..(kv_head + 1) * group {
        for first in (0..sequence.queries).step_by(QUERIES) {
            let mut state = state::<V, T>(problem, rows, task, head, first);
            for column in &mut columns {
                let view = state.of.tile.view(column.first);
                let place = (sequence, head);
                // Direct calls: behind a pointer, a function is compiled without the vector instructions.
                match state.of.tile.vectors() {
                    _ if view.keys.is_empty() => {}
                    1 => step::<V, T, 1>(problem, place, &view, &mut state, column, buffers),
                    2 => step::<V, T, 2>(problem, place, &view, &mut state, column, buffers),
                    _ => step::<V, T, 3>(problem, place, &view, &mut state, column, buffers),
                }
            }
            let (tile, first_token) = (&state.of.tile, sequence.first_query + first);
            let row = |lane: usize| {
                // SAFETY: the query is the task's, and each row is taken once.
                (lane < tile.count)
                    .then(|| unsafe { gradients.dq.row(sequence.batch, first_token + lane, head) })
            };
            transpose_back::<V, T>(tile.vectors(), dim, &state.dq, row);
        }
    }
    for column in &columns {
        let keys = column.first..sequence.keys.min(column.first + KEYS);
        for (key, (dk, dv)) in
            keys.zip(column.dk.chunks_exact(dim).zip(column.dv.chunks_exact(dim)))
        {
            let token = sequence.first_key + key;
            // SAFETY: the key and its value are the task's, and let go at once.
            unsafe {
                T::narrow(dk, gradients.dk.row(sequence.batch, token, kv_head));
                T::narrow(dv, gradients.dv.row(sequence.batch, token, kv_head));
            }
        }
    }
}

fn column<T: Float>(problem: &Problem<'_, T>, task: &Task<'_>, first: usize) -> Column {
    let &Task { sequence, kv_head } = task;
    let end = sequence.keys.min(first + KEYS);
    let tokens = sequence.first_key + first..sequence.first_key + end;
    let (mut keys, mut values) = (Block::default(), Block::default());
    keys.fill(&problem.k, sequence.batch, kv_head, tokens.clone());
    values.fill(&problem.v, sequence.batch, kv_head, tokens);
    let sums = vec![0.0; keys.rows.len()];
    Column {
        first,
        keys,
        values,
        dk: sums.clone(),
        dv: sums,
    }
}

#[inline(always)]
fn state<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    task: &Task<'_>,
    head: usize,
    first: usize,
) -> State {
    let of = slopes::State::new::<V, T>(problem, rows, task.sequence, head, first);
    let dim = problem.geometry.head_dim;
    let vectors = of.tile.vectors();
    let queries = rows_of::<V>(vectors, dim, &of.queries);
    let dout = rows_of::<V>(vectors, dim, &of.dout);
    State {
        queries,
        dout,
        dq: vec![0.0; dim * vectors * LANES],
        of,
    }
}

/// The rows that columns were made from.
#[inline(always)]
fn rows_of<V: Lanes>(vectors: usize, dim: usize, columns: &[f32]) -> Block {
    let mut rows = vec![0.0; vectors * LANES * dim];
    let mut parts = rows.chunks_exact_mut(dim);
    transpose_back::<V, f32>(vectors, dim, columns, |_| parts.next());
    Block::from_rows(rows)
}

/// Adds what a tile and a block have in common to the gradients of both.
#[inline(always)]
fn step<V: Lanes, T: Float, const W: usize>(
    problem: &Problem<'_, T>,
    (sequence, head): (&Sequence, usize),
    view: &View,
    state: &mut State,
    column: &mut Column,
    buffers: &mut Buffers,
) {
    let dim = problem.geometry.head_dim;
    let place = Place {
        sequence,
        head,
        tile: &state.of.tile,
        block: column.first,
        view,
    };
    let rows = [&column.keys, &column.values];
    slopes::fill::<V, T, W>(problem, place, &state.of, rows, Of::Products, buffers);
    let Buffers {
        probabilities,
        slopes,
        ..
    } = buffers;
    let width = W * LANES;
    let count = state.of.tile.count;
    add_rows::<V>(
        view,
        width,
        count,
        probabilities,
        &state.dout,
        &mut column.dv,
    );
    add_rows::<V>(view, width, count, slopes, &state.queries, &mut column.dk);
    let keys = &column.keys;
    if view.is_masked && !keys.is_finite {
        for (key, lane) in pairs(view, count) {
            let slope = slopes[key * width + lane];
            for (d, element) in keys.rows[key * dim..][..dim].iter().enumerate() {
                let sum = &mut state.dq[d * width + lane];
                *sum = element.mul_add(slope, *sum);
            }
        }
        return;
    }
    assert!(
        keys.rows.len() >= view.keys.end * dim && state.dq.len() >= dim * width,
        "whole operands"
    );
    for d in (0..dim).step_by(ROWS) {
        // SAFETY: `dim` is a multiple of 4, so that columns `d..d + 4` of the keys and rows of the sums exist; the view's
        // rows of keys do, as asserted, and of slopes, which hold a block.
        unsafe {
            let a = Left {
                start: keys.rows.as_ptr().add(view.keys.start * dim + d),
                row: 1,
                step: dim,
            };
            let b = (slopes.as_ptr().add(view.keys.start * width), width);
            product::<V, W>(
                view.keys.len(),
                a,
                b,
                (state.dq.as_mut_ptr().add(d * width), width),
                true,
            );
        }
    }
}

/// `sums[key] += weights[key][query] * rows[query]` of the view's keys and a tile's queries.
#[inline(always)]
fn add_rows<V: Lanes>(
    view: &View,
    width: usize,
    count: usize,
    weights: &Scores,
    rows: &Block,
    sums: &mut [f32],
) {
    let dim = rows.rows.len() / width;
    let is_whole = !view.is_masked && view.keys.end.is_multiple_of(ROWS);
    if !is_whole && !rows.is_finite {
        for (key, lane) in pairs(view, count) {
            let weight = weights[key * width + lane];
            let row = &rows.rows[lane * dim..][..dim];
            for (sum, x) in sums[key * dim..][..dim].iter_mut().zip(row) {
                *sum = weight.mul_add(*x, *sum);
            }
        }
        return;
    }
    let end = view.keys.end.next_multiple_of(ROWS);
    assert!(
        sums.len() >= end * dim && weights.len() >= end * width && count <= width,
        "whole operands"
    );
    for key in (view.keys.start..end).step_by(ROWS) {
        // SAFETY: rows `key..key + 4` of weights and sums exist, as asserted; `rows` has `width` of `dim`, of which the
        // first `count` are read.
        unsafe {
            let a = Left {
                start: weights.as_ptr().add(key * width),
                row: width,
                step: 1,
            };
            let c = (sums.as_mut_ptr().add(key * dim), dim);
            add_product::<V>(count, a, (rows.rows.as_ptr(), dim), c, dim);
        }
    }
}

/// The pairs of a key and a query that see each other: where something is not finite, only these are multiplied, since
/// 0 times it would be NaN.
fn pairs(view: &View, count: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let lanes = move |key| (0..count).map(move |lane| (key, lane));
    view.keys
        .clone()
        .flat_map(lanes)
        .filter(|&(key, lane)| view.sees(lane, key))
}
