//! The backward pass: a thread takes one head of keys and values with all queries that read it, so that no sum crosses
//! threads.

use super::matrix::Matrix;
use super::problem::{HeadsMut, Problem, Sequence};
use super::product::{Left, Product, product};
use super::scores::Place;
use super::slopes::{self, Buffers, Of, Rows};
use super::tile::{Block, QUERIES, View, block_keys};
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

/// A block of keys and values, and the sums of their gradients, `[keys, head_dim]`.
struct Column {
    /// Its first key.
    first: usize,
    keys: Block,
    values: Block,
    dk: Matrix,
    dv: Matrix,
}

/// A tile of queries under way.
struct State {
    of: slopes::State,
    /// Rows of queries and of the output's gradient.
    queries: Block,
    dout: Block,
    /// Sums of the gradient, `[count, head_dim]`.
    dq: Matrix,
}

/// The gradients of a task.
///
/// # Safety
/// Nobody else holds rows of the task's keys, values and queries meanwhile.
#[inline(always)]
pub(super) unsafe fn run<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    task: &Task<'_>,
    buffers: &mut Buffers,
    gradients: &Gradients<T>,
) {
    let &Task { sequence, kv_head } = task;
    let dim = problem.geometry.head_dim;
    let mut columns = Vec::new();
    let step = block_keys(sequence.keys);
    for first in (0..sequence.keys).step_by(step) {
        let end = sequence.keys.min(first + step);
        columns.push(column::<V, T>(problem, task, first, end));
    }
    let group = problem.geometry.heads / problem.geometry.kv_heads;
    for head in kv_head * group..(kv_head + 1) * group {
        for first in (0..sequence.queries).step_by(QUERIES) {
            let mut state = state::<V, T>(problem, rows, sequence, head, first);
            for column in &mut columns {
                let end = column.first + column.keys.rows.rows();
                let view = state.of.tile.view(column.first..end);
                if !view.keys.is_empty() {
                    combine::<V, T>(
                        problem,
                        (sequence, head),
                        &view,
                        &mut state,
                        column,
                        buffers,
                    );
                }
            }
            for lane in 0..state.of.tile.count {
                let token = sequence.first_query + first + lane;
                let dq = &state.dq.row(lane)[..dim];
                // SAFETY: the query is the task's, and let go at once.
                unsafe { T::narrow(dq, gradients.dq.row(sequence.batch, token, head)) };
            }
        }
    }
    for column in &columns {
        for key in 0..column.dk.rows() {
            let token = sequence.first_key + column.first + key;
            let (dk, dv) = (&column.dk.row(key)[..dim], &column.dv.row(key)[..dim]);
            // SAFETY: the key and its value are the task's, and let go at once.
            unsafe {
                T::narrow(dk, gradients.dk.row(sequence.batch, token, kv_head));
                T::narrow(dv, gradients.dv.row(sequence.batch, token, kv_head));
            }
        }
    }
}

#[inline(always)]
fn column<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    task: &Task<'_>,
    first: usize,
    end: usize,
) -> Column {
    let &Task { sequence, kv_head } = task;
    let tokens = sequence.first_key + first..sequence.first_key + end;
    let (mut keys, mut values) = (Block::default(), Block::default());
    keys.fill::<V, T>(&problem.k, sequence.batch, kv_head, tokens.clone());
    values.fill::<V, T>(&problem.v, sequence.batch, kv_head, tokens);
    let dim = problem.geometry.head_dim;
    Column {
        first,
        keys,
        values,
        dk: Matrix::zeros(end - first, dim),
        dv: Matrix::zeros(end - first, dim),
    }
}

#[inline(always)]
fn state<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    sequence: &Sequence,
    head: usize,
    first: usize,
) -> State {
    let of = slopes::State::new::<V, T>(problem, rows, sequence, head, first);
    State {
        queries: of.block::<V, T>(&problem.q, sequence, head),
        dout: of.block::<V, T>(&rows.dout, sequence, head),
        dq: Matrix::zeros(of.tile.count, problem.geometry.head_dim),
        of,
    }
}

/// Adds what a tile and a block have in common to the gradients of both.
#[inline(always)]
fn combine<V: Product, T: Float>(
    problem: &Problem<'_, T>,
    (sequence, head): (&Sequence, usize),
    view: &View,
    state: &mut State,
    column: &mut Column,
    buffers: &mut Buffers,
) {
    let place = Place {
        sequence,
        head,
        tile: &state.of.tile,
        block: column.first,
        view,
    };
    let rows = [&column.keys, &column.values];
    slopes::fill::<V, T>(problem, place, &state.of, rows, Of::Products, buffers);
    let Buffers {
        probabilities,
        slopes,
        ..
    } = buffers;
    let (dim, count) = (problem.geometry.head_dim, state.of.tile.count);
    add_rows::<V>(
        view,
        [count, dim],
        probabilities,
        &state.dout,
        &mut column.dv,
    );
    add_rows::<V>(view, [count, dim], slopes, &state.queries, &mut column.dk);
    let (keys, first) = (&column.keys, view.keys.start);
    if view.is_masked && !keys.is_finite() {
        for (key, lane) in view.pairs(count) {
            let slope = slopes.row(key)[lane];
            add_scaled(
                slope,
                keys.rows.row(key),
                &mut state.dq.row_mut(lane)[..dim],
            );
        }
        return;
    }
    product::<V>(
        [count, view.keys.len(), dim],
        Left::Columns(slopes, first),
        (&keys.rows, first),
        (&mut state.dq, 0),
        true,
    );
}

/// `sums[key] += weights[key][query] * rows[query]` of the view's keys and a tile's queries.
#[inline(always)]
fn add_rows<V: Product>(
    view: &View,
    [count, dim]: [usize; 2],
    weights: &Matrix,
    rows: &Block,
    sums: &mut Matrix,
) {
    if view.is_masked && !rows.is_finite() {
        for (key, lane) in view.pairs(count) {
            let weight = weights.row(key)[lane];
            add_scaled(weight, rows.rows.row(lane), &mut sums.row_mut(key)[..dim]);
        }
        return;
    }
    let first = view.keys.start;
    product::<V>(
        [view.keys.len(), count, dim],
        Left::Rows(weights, first),
        (&rows.rows, 0),
        (sums, first),
        true,
    );
}

/// `sums += weight * row`.
pub(super) fn add_scaled(weight: f32, row: &[f32], sums: &mut [f32]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum = weight.mul_add(*x, *sum);
    }
}
