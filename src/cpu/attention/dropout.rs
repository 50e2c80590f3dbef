//! Which probabilities dropout keeps: Philox4x32-10 (Salmon et al., 2011), a lane a query.

use super::product::ROWS;
use crate::cpu::lanes::LANES;
use crate::params::attention::Dropout;
use std::ops::Range;

/// Puts what dropout multiplies the probabilities by to `to`, `[keys.len(), 8 * vectors]`: those of the queries from
/// `first` on, and of `keys`, which start at a multiple of 4.
pub(super) fn kept_scales(
    dropout: &Dropout,
    head: usize,
    first: usize,
    keys: Range<usize>,
    vectors: usize,
    to: &mut [f32],
) {
    let (threshold, kept) = (dropout.threshold(), dropout.kept_scale());
    let width = vectors * LANES;
    let quartets = keys.step_by(ROWS).zip(to.chunks_mut(ROWS * width));
    for (key, rows) in quartets {
        for w in 0..vectors {
            let queries = std::array::from_fn(|lane| (first + w * LANES + lane) as u32);
            let words = philox((key / 4) as u32, queries, head as u32, dropout.seed);
            for (row, words) in rows.chunks_mut(width).zip(words) {
                let row = &mut row[w * LANES..][..LANES];
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
