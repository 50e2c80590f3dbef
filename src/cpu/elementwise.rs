//! Activations, image normalisation, embeddings and position terms on the CPU.

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Activation;
use rayon::prelude::*;

/// Elements of a task.
const TASK: usize = 1 << 14;

/// A function of each element. See [`ops::activation`](crate::ops::activation()).
///
/// # Errors
/// When the lengths do not fit.
pub fn activation<T: Float>(x: &[T], activation: Activation, out: &mut [T]) -> Result<()> {
    length("activation", "out", out.len(), x.len())?;
    blocks(x, out, TASK, |values| activation.apply(values));
    Ok(())
}

/// Image normalisation. See [`ops::normalize_image`](crate::ops::normalize_image()).
///
/// # Errors
/// When the lengths do not fit.
pub fn normalize_image<T: Float>(
    x: &[T],
    mean: &[f32],
    deviation: &[f32],
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "normalize_image";
    let channels = mean.len();
    length(OP, "deviation", deviation.len(), channels)?;
    length(OP, "out", out.len(), x.len())?;
    length(
        OP,
        "x",
        x.len(),
        x.len().checked_div(channels).unwrap_or(0) * channels,
    )?;
    let scale: Vec<f32> = deviation.iter().map(|deviation| 1.0 / deviation).collect();
    // Several pixels' means and scales side by side, so that the loop over them vectorises.
    let group = channels * 16;
    let (means, scales) = (mean.repeat(16), scale.repeat(16));
    blocks(x, out, group * 256, |values| {
        for pixels in values.chunks_mut(group) {
            for ((x, mean), scale) in pixels.iter_mut().zip(&means).zip(&scales) {
                *x = (*x - mean) * scale;
            }
        }
    });
    Ok(())
}

/// Rows of a table. See [`ops::embedding`](crate::ops::embedding()).
///
/// # Errors
/// When the lengths do not fit.
pub fn embedding<T: Float>(
    table: &[T],
    width: usize,
    indices: &[i32],
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "embedding";
    length(OP, "out", out.len(), indices.len() * width)?;
    let rows = table.len().checked_div(width).unwrap_or(0);
    length(OP, "table", table.len(), rows * width)?;
    let tasks = out.par_chunks_mut(width.max(1)).zip(indices);
    tasks.for_each(|(out, &index)| match usize::try_from(index) {
        Ok(row) if row < rows => out.copy_from_slice(&table[row * width..][..width]),
        _ => out.fill(T::default()),
    });
    Ok(())
}

/// Position terms. See [`ops::add_positions`](crate::ops::add_positions()).
///
/// # Errors
/// When the lengths do not fit.
pub fn add_positions<T: Float>(
    x: &[T],
    prefix: &[T],
    positions: &[T],
    out: &mut [T],
) -> Result<()> {
    const OP: &str = "add_positions";
    let (len, own) = (
        positions.len(),
        positions.len().saturating_sub(prefix.len()),
    );
    length(OP, "positions", len, own + prefix.len())?;
    let sequences = out.len().checked_div(len).unwrap_or(0);
    length(OP, "out", out.len(), sequences * len)?;
    length(OP, "x", x.len(), sequences * own)?;
    out.par_chunks_mut(len.max(1))
        .enumerate()
        .for_each(|(sequence, out)| {
            let (first, rest) = out.split_at_mut(prefix.len());
            let (of_first, of_rest) = positions.split_at(prefix.len());
            add(prefix, of_first, first);
            add(&x[sequence * own..][..own], of_rest, rest);
        });
    Ok(())
}

fn add<T: Float>(left: &[T], right: &[T], out: &mut [T]) {
    for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
        *out = T::from_f32(left.to_f32() + right.to_f32());
    }
}

/// `out = of(x)`, blocks of `task` elements at a time.
fn blocks<T: Float>(x: &[T], out: &mut [T], task: usize, of: impl Fn(&mut [f32]) + Sync) {
    let task = task.max(1);
    out.par_chunks_mut(task)
        .zip(x.par_chunks(task))
        .for_each_init(
            || vec![0.0; task],
            |values, (out, x)| {
                let values = &mut values[..x.len()];
                T::widen(x, values);
                of(values);
                T::narrow(values, out);
            },
        );
}

fn length(op: &'static str, argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("{expected} elements"),
        is,
    ))
}
