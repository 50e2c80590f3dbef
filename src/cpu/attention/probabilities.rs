//! Attention probabilities of chosen queries.

use super::OP;
use super::problem::{Problem, Sequence};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, Mask, Qkv};
use rayon::prelude::*;

/// Probabilities `[B, H, R, Nk]`. See
/// [`ops::attention_probabilities`](crate::ops::attention_probabilities).
///
/// # Errors
/// When geometry, scalars or lengths do not fit each other.
pub fn probabilities<T: Float>(
    geometry: &Geometry,
    params: &Attention,
    qkv: Qkv<&[T]>,
    mask: &Mask<&[T], &[i32]>,
    rows: &[i32],
    to: &mut [f32],
) -> Result<()> {
    let problem = Problem::new(geometry, params, qkv, mask)?;
    let len = geometry.batch * geometry.heads * rows.len() * geometry.keys;
    if to.len() != len {
        return Err(Error::input(
            OP,
            "probabilities",
            format!("{len} elements"),
            to.len(),
        ));
    }
    if len == 0 {
        return Ok(());
    }
    let all = to.par_chunks_mut(geometry.keys).enumerate();
    all.for_each(|(at, to)| {
        let (head, place) = (at / rows.len(), rows[at % rows.len()]);
        let sequence = &problem.sequences[head / geometry.heads];
        to.fill(0.0);
        if let Some(query) = usize::try_from(place)
            .ok()
            .filter(|&query| query < sequence.queries)
        {
            row(&problem, sequence, head % geometry.heads, query, to);
        }
    });
    Ok(())
}

/// The probabilities of one query; `to` is zero.
fn row<T: Float>(
    problem: &Problem<'_, T>,
    sequence: &Sequence,
    head: usize,
    query: usize,
    to: &mut [f32],
) {
    let q = problem
        .q
        .row(sequence.batch, sequence.first_query + query, head);
    let bias = problem.bias_row(sequence, head, query);
    let seen = problem.visible(sequence, query);
    for key in seen.clone() {
        let k = problem.k.row(
            sequence.batch,
            sequence.first_key + key,
            problem.kv_head(head),
        );
        let dot: f32 = q.iter().zip(k).map(|(a, b)| a.to_f32() * b.to_f32()).sum();
        let raw = problem.scale * dot;
        let capped = match problem.softcap {
            0.0 => raw,
            cap => cap * (raw / cap).tanh(),
        };
        to[key] = capped + bias.map_or(0.0, |bias| bias[key].to_f32());
    }
    let to = &mut to[seen];
    // `f32::max` passes NaN over.
    let greatest = to.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shift = if greatest == f32::NEG_INFINITY {
        0.0
    } else {
        greatest
    };
    to.iter_mut()
        .for_each(|score| *score = (*score - shift).exp());
    let sum: f64 = to.iter().copied().map(f64::from).sum();
    if sum != 0.0 {
        let share = (1.0 / sum) as f32;
        to.iter_mut().for_each(|weight| *weight *= share);
    }
}
