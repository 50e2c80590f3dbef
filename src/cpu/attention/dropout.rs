//! Which probabilities dropout keeps: Philox4x32-10 (Salmon et al., 2011), a lane a query.

use super::matrix::Matrix;
use crate::cpu::lanes::LANES;
use crate::params::attention::Dropout;
use std::ops::Range;

/// Keys of one draw.
pub(super) const QUARTET: usize = 4;

/// Puts what dropout multiplies the probabilities by to `to`, `[keys.len(), width]`: those of the queries from
/// `first` on, and of `keys`, which start at a multiple of [`QUARTET`].
pub(super) fn kept_scales(
    dropout: &Dropout,
    head: usize,
    first: usize,
    keys: Range<usize>,
    width: usize,
    to: &mut Matrix,
) {
    let (threshold, kept) = (dropout.threshold(), dropout.kept_scale());
    to.reshape(keys.len(), width);
    for start in keys.clone().step_by(QUARTET) {
        for lane in (0..width).step_by(LANES) {
            let queries = std::array::from_fn(|i| (first + lane + i) as u32);
            let quartet = (start / QUARTET) as u32;
            let words = philox(quartet, queries, head as u32, dropout.seed);
            for (key, words) in (start..keys.end).zip(words) {
                let row = &mut to.row_mut(key - keys.start)[lane..][..LANES];
                for (scale, word) in row.iter_mut().zip(words) {
                    *scale = if word < threshold { 0.0 } else { kept };
                }
            }
        }
    }
}

/// The four words of counter `(quartet, query, head, 0)`, each for eight queries.
fn philox(quartet: u32, queries: [u32; LANES], head: u32, seed: u64) -> [[u32; LANES]; 4] {
    let mut words = [[quartet; LANES], queries, [head; LANES], [0; LANES]];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let [a, b, c, d] = words;
        let product = |x: u32, factor: u32| u64::from(x) * u64::from(factor);
        for lane in 0..LANES {
            let (first, second) = (product(a[lane], 0xd251_1f53), product(c[lane], 0xcd9e_8d57));
            words[0][lane] = (second >> 32) as u32 ^ b[lane] ^ key[0];
            words[1][lane] = second as u32;
            words[2][lane] = (first >> 32) as u32 ^ d[lane] ^ key[1];
            words[3][lane] = first as u32;
        }
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    words
}
