//! Matrix product with gathered rows: `y = act(x * W^T + bias + residual)`.
//!
//! A row of `x` is a number of runs of consecutive inputs, so that a linear layer (one run) and a
//! convolution over a padded image (a run of `kernel width x channels` for each row of the kernel)
//! are the same product, and no matrix of patches is ever stored. Weights are packed once, by 16
//! outputs, as the kernel reads them.
//!
//! A task is 96 rows and 128 outputs. It goes over blocks of 256 steps of the inner dimension: 16
//! outputs of a block are 16 KiB, half of a first-level cache, and serve all rows of the task. Sums
//! are formed in the order of the inner dimension whatever the shape of a task.

mod finish;
mod kernel;

use crate::dtype::Float;
pub(super) use finish::{Finish, Scatter};
use kernel::{Block, OUTPUTS, ROWS, Tile};
use rayon::prelude::*;

/// Steps of the inner dimension in a block.
const STEPS: usize = 256;
/// Rows of a task.
const TASK_ROWS: usize = 16 * ROWS;
/// Outputs of a task.
const TASK_OUTPUTS: usize = 8 * OUTPUTS;

/// Weights in the order in which the kernel reads them: `[outputs / 16, steps, 16]`, the last
/// outputs filled up with zeros.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    values: Vec<f32>,
    outputs: usize,
    steps: usize,
}

impl PackedWeight {
    /// Packs weights `[outputs, steps]`, given by `weight(output, step)`.
    pub(super) fn new(
        outputs: usize,
        steps: usize,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let mut values = vec![0.0; outputs.next_multiple_of(OUTPUTS) * steps];
        values
            .par_chunks_mut((OUTPUTS * steps).max(1))
            .enumerate()
            .for_each(|(panel, values)| {
                let first = panel * OUTPUTS;
                for lane in 0..OUTPUTS.min(outputs - first) {
                    for step in 0..steps {
                        values[step * OUTPUTS + lane] = weight(first + lane, step);
                    }
                }
            });
        Self {
            values,
            outputs,
            steps,
        }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of the inner dimension.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Packed weights of 16 outputs, from a step on.
    fn panel(&self, panel: usize, step: usize) -> &[f32] {
        &self.values[(panel * self.steps + step) * OUTPUTS..(panel + 1) * self.steps * OUTPUTS]
    }
}

/// The left matrix.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, F> {
    pub inputs: &'a [f32],
    pub count: usize,
    /// Where in `inputs` a row starts.
    pub start: F,
    /// Runs of a row, `pitch` apart, each of `len` inputs.
    pub runs: usize,
    pub pitch: usize,
    pub len: usize,
}

impl<F> Rows<'_, F> {
    /// The inner dimension in blocks: several short runs, or a part of a long one.
    fn blocks(&self) -> Vec<Block> {
        let Self {
            runs, pitch, len, ..
        } = *self;
        let mut blocks = Vec::new();
        if len == 0 {
            return blocks;
        }
        let together = (STEPS / len).max(1);
        for run in (0..runs).step_by(together) {
            let runs = together.min(runs - run);
            for from in (0..len).step_by(STEPS) {
                let start = run * pitch + from;
                let len = STEPS.min(len - from);
                blocks.push(Block {
                    start,
                    runs,
                    pitch,
                    len,
                });
            }
        }
        blocks
    }
}

/// `out = act(rows * weight^T + ..)`, `[rows, outputs]`.
///
/// # Panics
/// When the lengths of `rows`, `weight`, `finish` and `out` do not fit each other: callers check.
pub(super) fn matmul<T: Float>(
    rows: &Rows<'_, impl Fn(usize) -> usize + Sync>,
    weight: &PackedWeight,
    finish: &Finish<'_, T>,
    out: &mut [T],
) {
    let outputs = weight.outputs;
    assert_eq!(rows.runs * rows.len, weight.steps, "inner dimensions");
    assert_eq!(out.len(), rows.count * outputs, "outputs");
    finish.check(outputs, out.len());
    let blocks = rows.blocks();
    let across = outputs.div_ceil(TASK_OUTPUTS);
    let out = Scatter::new(out, outputs);
    (0..rows.count.div_ceil(TASK_ROWS) * across)
        .into_par_iter()
        .for_each(|task| {
            let first_row = task / across * TASK_ROWS;
            let first_output = task % across * TASK_OUTPUTS;
            let task = Task {
                rows: first_row..rows.count.min(first_row + TASK_ROWS),
                outputs: first_output..outputs.min(first_output + TASK_OUTPUTS),
            };
            task.run(rows, &blocks, weight, finish, &out);
        });
}

/// A rectangle of the result.
struct Task {
    rows: std::ops::Range<usize>,
    outputs: std::ops::Range<usize>,
}

impl Task {
    fn run<T: Float>(
        &self,
        rows: &Rows<'_, impl Fn(usize) -> usize + Sync>,
        blocks: &[Block],
        weight: &PackedWeight,
        finish: &Finish<'_, T>,
        out: &Scatter<'_, T>,
    ) {
        let prepare = |row, first| out.prefetch(row, first, finish);
        self.each_tile(rows, blocks, weight, prepare, |row, first, sums| {
            // SAFETY: tasks have different rows or outputs, and `TASK_OUTPUTS` is a multiple of 16.
            unsafe { out.write(row, first, sums, finish) };
        });
    }

    /// Calls `done(row, output, sums)` with the sums of 16 outputs from `output` on, and `prepare(row, output)` a few
    /// hundred cycles before.
    fn each_tile(
        &self,
        rows: &Rows<'_, impl Fn(usize) -> usize>,
        blocks: &[Block],
        weight: &PackedWeight,
        prepare: impl Fn(usize, usize),
        mut done: impl FnMut(usize, usize, &[f32; OUTPUTS]),
    ) {
        let last = self.rows.end - 1;
        let starts: Vec<[usize; ROWS]> = self
            .rows
            .clone()
            .step_by(ROWS)
            .map(|row| std::array::from_fn(|i| (rows.start)((row + i).min(last))))
            .collect();
        let Some((final_block, before)) = blocks.split_last() else {
            return self.each_zero(done);
        };
        for first in self.outputs.clone().step_by(OUTPUTS) {
            let mut tiles = [Tile::ZERO; TASK_ROWS / ROWS];
            let mut step = 0;
            for block in before {
                let weights = weight.panel(first / OUTPUTS, step);
                for (starts, tile) in starts.iter().zip(&mut tiles) {
                    kernel::multiply(rows.inputs, *starts, block, weights, tile);
                }
                step += block.steps();
            }
            let weights = weight.panel(first / OUTPUTS, step);
            let of_tiles = self.rows.clone().step_by(ROWS);
            for ((starts, tile), row) in starts.iter().zip(&mut tiles).zip(of_tiles) {
                let rows_of_tile = row..self.rows.end.min(row + ROWS);
                // A row's 16 outputs are a cache line far from the next row's, which the processor does not foresee.
                rows_of_tile.clone().for_each(|row| prepare(row, first));
                kernel::multiply(rows.inputs, *starts, final_block, weights, tile);
                for (row, sums) in rows_of_tile.zip(&tile.0) {
                    done(row, first, sums);
                }
            }
        }
    }

    /// The sums of an inner dimension of 0.
    fn each_zero(&self, mut done: impl FnMut(usize, usize, &[f32; OUTPUTS])) {
        for first in self.outputs.clone().step_by(OUTPUTS) {
            for row in self.rows.clone() {
                done(row, first, &[0.0; OUTPUTS]);
            }
        }
    }
}

/// Sums alone, by the calling thread: `[rows, outputs filled up to 16]` of dense rows.
pub(super) fn products(inputs: &[f32], weight: &PackedWeight, out: &mut [f32]) {
    let width = weight.outputs.next_multiple_of(OUTPUTS);
    let count = inputs.len() / weight.steps;
    assert_eq!(out.len(), count * width, "outputs");
    let rows = Rows {
        inputs,
        count,
        start: |row: usize| row * weight.steps,
        runs: 1,
        pitch: 0,
        len: weight.steps,
    };
    let blocks = rows.blocks();
    for first_row in (0..count).step_by(TASK_ROWS) {
        let task = Task {
            rows: first_row..count.min(first_row + TASK_ROWS),
            outputs: 0..weight.outputs,
        };
        // The sums stay in cache.
        let nothing = |_: usize, _: usize| ();
        task.each_tile(&rows, &blocks, weight, nothing, |row, first, sums| {
            out[row * width + first..][..OUTPUTS].copy_from_slice(sums);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let inputs: Vec<f32> = (0..211 * 300).map(|i| (i as f32 * 0.37).sin()).collect();
        let weight = PackedWeight::new(150, 300, |n, k| ((n * 31 + k * 17) % 29) as f32 - 14.0);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let mut out = vec![0f32; 211 * 150];
            let (start, runs, pitch, len) = (|row: usize| row * 300, 1, 0, 300);
            let rows = Rows {
                inputs: &inputs,
                count: 211,
                start,
                runs,
                pitch,
                len,
            };
            pool.install(|| matmul(&rows, &weight, &Finish::default(), &mut out));
            out
        };
        assert_eq!(run(1), run(5));
    }

    #[test]
    fn blocks_cover_the_inner_dimension_in_order() {
        for (runs, len) in [
            (1, 1),
            (7, 21),
            (3, 768),
            (16, 48),
            (1, 257),
            (3, 0),
            (2, 256),
        ] {
            let pitch = 1000;
            let rows = Rows {
                inputs: &[],
                count: 0,
                start: |_: usize| 0,
                runs,
                pitch,
                len,
            };
            let covered: Vec<usize> = rows
                .blocks()
                .iter()
                .flat_map(|b| {
                    (0..b.runs)
                        .flat_map(move |run| (0..b.len).map(move |k| b.start + run * b.pitch + k))
                })
                .collect();
            let expected: Vec<usize> = (0..runs)
                .flat_map(|run| (0..len).map(move |k| run * pitch + k))
                .collect();
            assert_eq!(covered, expected);
            assert!(rows.blocks().iter().all(|block| block.steps() <= STEPS));
        }
    }
}
