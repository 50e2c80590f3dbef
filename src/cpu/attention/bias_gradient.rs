//! The gradient of the bias: a pass of its own over tiles of queries, so that the heads and sequences that share a bias
//! are summed in order.

use super::problem::{Problem, Sequence};
use super::product::Product;
use super::scores::Place;
use super::slopes::{self, Buffers, Of, Rows, State};
use super::tile::{Block, QUERIES, block_keys};
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
pub(super) fn run<V: Product, T: Float>(
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
fn add<V: Product, T: Float>(
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
    let (seen, step) = (state.tile.keys.clone(), block_keys(sequence.keys));
    for block in (seen.start / step * step..seen.end).step_by(step) {
        let block = block..seen.end.min(block + step);
        let tokens = sequence.first_key + block.start..sequence.first_key + block.end;
        let (batch, kv_head) = (sequence.batch, problem.kv_head(head));
        keys.fill::<V, T>(&problem.k, batch, kv_head, tokens.clone());
        values.fill::<V, T>(&problem.v, batch, kv_head, tokens);
        let view = state.tile.view(block.clone());
        let place = Place {
            sequence,
            head,
            tile: &state.tile,
            block: block.start,
            view: &view,
        };
        slopes::fill::<V, T>(
            problem,
            place,
            &state,
            [&keys, &values],
            Of::Scores,
            buffers,
        );
        for key in view.keys {
            let slopes = &buffers.slopes.row(key)[..state.tile.count];
            for (lane, slope) in slopes.iter().enumerate() {
                sums[lane * problem.geometry.keys + block.start + key] += slope;
            }
        }
    }
}
