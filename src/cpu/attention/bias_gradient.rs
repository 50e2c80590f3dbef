//! The gradient of the bias: a pass of its own over tiles of queries, so that the heads and sequences that share a bias
//! are summed in order.

use super::problem::{Problem, Sequence};
use super::scores::Place;
use super::slopes::{self, Buffers, Of, Rows, State};
use super::tile::{Block, KEYS, QUERIES};
use crate::cpu::lanes::{LANES, Lanes};
use crate::dtype::Float;
use std::ops::Range;

/// Queries that one call of [`run`] takes.
pub(super) const ROWS_OF_TASK: usize = QUERIES;

/// The sequences and heads that one bias is added for.
pub(super) struct Users {
    pub(super) sequences: Range<usize>,
    pub(super) heads: Range<usize>,
}

/// Sums what all users of the rows from query `first` on of one bias give it, and rounds it to `to`: rows of as many
/// elements as there are keys.
#[inline(always)]
pub(super) fn run<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    users: &Users,
    first: usize,
    buffers: &mut Buffers,
    to: &mut [T],
) {
    let mut sums = vec![0.0f32; to.len()];
    for sequence in &problem.sequences[users.sequences.clone()] {
        for head in users.heads.clone() {
            add::<V, T>(problem, rows, sequence, head, first, buffers, &mut sums);
        }
    }
    T::narrow(&sums, to);
}

/// Adds what one head gives.
#[inline(always)]
fn add<V: Lanes, T: Float>(
    problem: &Problem<'_, T>,
    rows: &Rows<'_, T>,
    sequence: &Sequence,
    head: usize,
    first: usize,
    buffers: &mut Buffers,
    sums: &mut [f32],
) {
    let state = State::new::<V, T>(problem, rows, sequence, head, first);
    let (mut keys, mut values) = (Block::default(), Block::default());
    let seen = state.tile.keys();
    for block in (seen.start / KEYS * KEYS..seen.end).step_by(KEYS) {
        let tokens = sequence.first_key + block..sequence.first_key + seen.end.min(block + KEYS);
        keys.fill(
            &problem.k,
            sequence.batch,
            problem.kv_head(head),
            tokens.clone(),
        );
        values.fill(&problem.v, sequence.batch, problem.kv_head(head), tokens);
        let view = state.tile.view(block);
        let place = Place {
            sequence,
            head,
            tile: &state.tile,
            block,
            view: &view,
        };
        let rows = [&keys, &values];
        match state.tile.vectors() {
            1 => slopes::fill::<V, T, 1>(problem, place, &state, rows, Of::Scores, buffers),
            2 => slopes::fill::<V, T, 2>(problem, place, &state, rows, Of::Scores, buffers),
            _ => slopes::fill::<V, T, 3>(problem, place, &state, rows, Of::Scores, buffers),
        }
        let width = state.tile.vectors() * LANES;
        for key in view.keys {
            let slopes = &buffers.slopes[key * width..];
            for (lane, slope) in slopes[..state.tile.count].iter().enumerate() {
                sums[lane * problem.geometry.keys + block + key] += slope;
            }
        }
    }
}
