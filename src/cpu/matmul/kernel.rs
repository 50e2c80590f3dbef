//! The inner kernel: a tile of 6 rows and 16 outputs, held in registers over a block of the inner
//! dimension.
//!
//! Of AVX2's 16 registers, 12 hold the tile, 2 the outputs' weights, 1 a broadcast input: per step
//! of the inner dimension 12 multiply-adds against 8 loads, so that the two multipliers, not the two
//! load ports, set the pace.

/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Outputs of a tile.
pub(super) const OUTPUTS: usize = 16;

/// Sums of one tile.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Tile(pub [[f32; OUTPUTS]; ROWS]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0.0; OUTPUTS]; ROWS]);
}

/// A block of the inner dimension: `runs` runs of `len` consecutive inputs, `pitch` apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Block {
    /// Where the first run starts, counted from the start of a row.
    pub start: usize,
    pub runs: usize,
    pub pitch: usize,
    pub len: usize,
}

impl Block {
    /// Steps of the inner dimension.
    pub(super) fn steps(&self) -> usize {
        self.runs * self.len
    }

    /// Inputs from the start of a row to the end of the last run.
    pub(super) fn reach(&self) -> usize {
        self.start + (self.runs - 1) * self.pitch + self.len
    }
}

/// Adds to `tile` the product of a block of six rows, which start at `rows` in `inputs`, with as
/// many steps of 16 weights. Each sum is one chain of fused multiply-adds in order, whichever
/// instructions do it.
pub(super) fn multiply(
    inputs: &[f32],
    rows: [usize; ROWS],
    block: &Block,
    weights: &[f32],
    tile: &mut Tile,
) {
    let farthest = rows.into_iter().max().map_or(0, |row| row + block.reach());
    assert!(farthest <= inputs.len() && block.steps() * OUTPUTS <= weights.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor was just found to have AVX2 and FMA; the assertion holds every row
        // of the block, and its weights, within their slices.
        return unsafe { avx2::multiply(inputs, rows, block, weights, tile) };
    }
    portable(inputs, rows, block, weights, tile);
}

/// The same bits on any processor; slow where it has no fused multiply-add.
fn portable(inputs: &[f32], rows: [usize; ROWS], block: &Block, weights: &[f32], tile: &mut Tile) {
    let mut steps = weights.chunks_exact(OUTPUTS);
    for run in 0..block.runs {
        let first = block.start + run * block.pitch;
        for (k, weights) in (first..first + block.len).zip(&mut steps) {
            for (row, sums) in rows.iter().zip(&mut tile.0) {
                let input = inputs[row + k];
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = input.mul_add(*weight, *sum);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Block, OUTPUTS, ROWS, Tile};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX2 and FMA. From each of `rows` on, `inputs` holds `block.reach()`
    /// elements; `weights` holds `block.steps() * OUTPUTS`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply(
        inputs: &[f32],
        rows: [usize; ROWS],
        block: &Block,
        weights: &[f32],
        tile: &mut Tile,
    ) {
        let mut weights = weights.as_ptr();
        // SAFETY: every address below is an element that the caller promises: step `k` of a run
        // reads input `row + start + run * pitch + k < row + reach`, and the pointer to the weights
        // has advanced by 16 for each step before, of which there are `steps`. The tile's rows are
        // 16 floats.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for (sums, tile) in sums.iter_mut().zip(&tile.0) {
                *sums = [
                    _mm256_loadu_ps(tile.as_ptr()),
                    _mm256_loadu_ps(tile.as_ptr().add(8)),
                ];
            }
            for run in 0..block.runs {
                let first = inputs.as_ptr().add(block.start + run * block.pitch);
                let rows = rows.map(|row| first.add(row));
                for k in 0..block.len {
                    let low = _mm256_loadu_ps(weights);
                    let high = _mm256_loadu_ps(weights.add(8));
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        let input = _mm256_broadcast_ss(&*row.add(k));
                        sums[0] = _mm256_fmadd_ps(input, low, sums[0]);
                        sums[1] = _mm256_fmadd_ps(input, high, sums[1]);
                    }
                    weights = weights.add(OUTPUTS);
                }
            }
            for (sums, tile) in sums.iter().zip(&mut tile.0) {
                _mm256_storeu_ps(tile.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(tile.as_mut_ptr().add(8), sums[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_instructions_give_the_bits_of_the_definition() {
        let wave = |i: usize| (i as f32 * 0.71).sin();
        let inputs: Vec<f32> = (0..400).map(wave).collect();
        let weights: Vec<f32> = (0..OUTPUTS * 60).map(|i| wave(i + 7)).collect();
        let rows = [0, 9, 33, 33, 120, 201];
        for (runs, pitch, len) in [(1, 0, 1), (1, 0, 37), (3, 20, 11), (4, 40, 15)] {
            let start = 5;
            let block = Block {
                start,
                runs,
                pitch,
                len,
            };
            let (mut fast, mut plain) =
                (Tile([[0.5; OUTPUTS]; ROWS]), Tile([[0.5; OUTPUTS]; ROWS]));
            multiply(&inputs, rows, &block, &weights, &mut fast);
            portable(&inputs, rows, &block, &weights, &mut plain);
            assert_eq!(fast.0, plain.0, "{block:?}");
        }
    }
}
