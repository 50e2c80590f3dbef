//! Soft non-maximum suppression: class by class, each class one pass over its open boxes for each box kept.
//!
//! Scores only fall, so the boxes that a class keeps come in descending order, and sorting those of all classes gives
//! the order in which the best of all would have been picked.

use super::math::exp_of_minus_f64;
use super::nms::{Batch, Image};
use crate::error::Result;
use crate::params::{SoftNms, SoftNmsMethod};
use rayon::prelude::*;

const OP: &str = "soft_nms";
/// Boxes whose overlaps are looked at together: two AVX2 registers. Where none overlaps, no weight is computed.
const LANES: usize = 16;
/// Classes of fewer boxes are not handed to another thread.
const BOXES_A_TASK: usize = 256;

/// What is kept of a batch, `max_output` places an image.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftKept {
    /// `[B, max_output]`, best first, then -1.
    pub indices: Vec<i32>,
    /// `[B, max_output]`: the scores left to them, then 0.
    pub scores: Vec<f32>,
    /// `[B]`.
    pub counts: Vec<i32>,
}

/// Soft suppression of each image. See [`ops::soft_nms`](crate::ops::soft_nms).
///
/// # Errors
/// When lengths do not fit each other, or a scalar is out of its range.
pub fn soft_nms(batch: Batch<'_>, params: &SoftNms) -> Result<SoftKept> {
    batch.check(OP)?;
    let max_output = params.check(batch.boxes_per_image)?;
    let mut kept = SoftKept {
        indices: vec![-1; batch.images * max_output],
        scores: vec![0.0; batch.images * max_output],
        counts: vec![0; batch.images],
    };
    // Rows of no elements could not be told apart.
    if max_output > 0 {
        let indices = kept.indices.par_chunks_mut(max_output);
        let rows = indices.zip(kept.scores.par_chunks_mut(max_output));
        let rows = rows.zip(&mut kept.counts).enumerate();
        rows.for_each(|(index, ((indices, scores), count))| {
            let best = suppress(&batch.image(index), params, max_output);
            for ((index, score), kept) in indices.iter_mut().zip(scores).zip(&best) {
                (*index, *score) = (kept.index as i32, kept.score);
            }
            *count = best.len() as i32;
        });
    }
    Ok(kept)
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Kept {
    score: f32,
    index: u32,
}

/// What is kept of one image, best first.
fn suppress(image: &Image<'_>, params: &SoftNms, max_output: usize) -> Vec<Kept> {
    let takes_part = |&i: &u32| {
        let i = i as usize;
        image.scores[i] > params.score_threshold && image.boxes[i].iter().all(|c| c.is_finite())
    };
    let mut order: Vec<u32> = (0..image.scores.len() as u32).filter(takes_part).collect();
    let class = |i: u32| image.classes.map_or(0, |classes| classes[i as usize]);
    // Stable: within a class the indices stay ascending.
    order.par_sort_by_key(|&i| class(i));
    let groups: Vec<&[u32]> = order.chunk_by(|&a, &b| class(a) == class(b)).collect();
    let mean = order.len().div_ceil(groups.len().max(1)).max(1);
    let mut kept: Vec<Kept> = groups
        .par_iter()
        .with_min_len(BOXES_A_TASK.div_ceil(mean))
        .flat_map_iter(|group| Open::new(image, group).run(params, max_output))
        .collect();
    let order = |a: &Kept, b: &Kept| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index));
    kept.sort_unstable_by(order);
    kept.truncate(max_output);
    kept
}

/// The boxes of one class, an array a coordinate, ascending by index. A score of 0 marks a box that is out.
#[derive(Default)]
struct Open {
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    score: Vec<f32>,
    index: Vec<u32>,
}

impl Open {
    fn new(image: &Image<'_>, group: &[u32]) -> Self {
        let column = |side: usize| {
            let corner = |&i: &u32| image.boxes[i as usize][side];
            group.iter().map(corner).collect()
        };
        Self {
            x1: column(0),
            y1: column(1),
            x2: column(2),
            y2: column(3),
            score: group.iter().map(|&i| image.scores[i as usize]).collect(),
            index: group.to_vec(),
        }
    }

    /// Keeps the best box and lowers the others, until none is left or `max_output` are kept: no more of a class can
    /// be among the best of the image.
    fn run(mut self, params: &SoftNms, max_output: usize) -> Vec<Kept> {
        let mut kept = Vec::new();
        let mut best = self.score.iter().copied().fold(0.0, f32::max);
        while best > 0.0 && kept.len() < max_output {
            let Some(place) = self.score.iter().position(|&score| score == best) else {
                break;
            };
            kept.push(Kept {
                score: best,
                index: self.index[place],
            });
            self.score[place] = 0.0;
            let corners = [
                self.x1[place],
                self.y1[place],
                self.x2[place],
                self.y2[place],
            ];
            let (next, open) = self.lower(corners, params);
            best = next;
            if 2 * open < self.score.len() {
                self.leave_out();
            }
        }
        kept
    }

    /// Lowers the scores of boxes that overlap this one. Returns the best score and the number of boxes still in.
    fn lower(&mut self, keeper: [f32; 4], params: &SoftNms) -> (f32, usize) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just found to have AVX2, which is all that the function asks for.
            return unsafe { self.lower_avx2(keeper, params) };
        }
        self.lower_lanes(keeper, params)
    }

    /// The same arithmetic in registers twice as wide.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn lower_avx2(&mut self, keeper: [f32; 4], params: &SoftNms) -> (f32, usize) {
        self.lower_lanes(keeper, params)
    }

    #[inline(always)]
    fn lower_lanes(&mut self, keeper: [f32; 4], params: &SoftNms) -> (f32, usize) {
        let (mut best, mut open) = (0f32, 0);
        let mut overlaps = [0f32; LANES];
        let columns = self.x1.chunks(LANES).zip(self.y1.chunks(LANES));
        let columns = columns.zip(self.x2.chunks(LANES).zip(self.y2.chunks(LANES)));
        for (score, ((x1, y1), (x2, y2))) in self.score.chunks_mut(LANES).zip(columns) {
            let overlaps = &mut overlaps[..score.len()];
            if fill_overlaps(overlaps, keeper, [x1, y1, x2, y2], params.extra()) {
                match params.method {
                    SoftNmsMethod::Linear => lower_linear(score, overlaps, params),
                    SoftNmsMethod::Gaussian => lower_gaussian(score, overlaps, params),
                }
            }
            for &score in &*score {
                best = best.max(score);
                open += usize::from(score > 0.0);
            }
        }
        (best, open)
    }

    /// Drops the boxes that are out; the order of the others stays.
    fn leave_out(&mut self) {
        let score = &self.score;
        let mut place = 0;
        let mut stays = || {
            place += 1;
            score[place - 1] > 0.0
        };
        self.index.retain(|_| stays());
        for column in [&mut self.x1, &mut self.y1, &mut self.x2, &mut self.y2] {
            let mut place = 0;
            column.retain(|_| {
                place += 1;
                score[place - 1] > 0.0
            });
        }
        self.score.retain(|&score| score > 0.0);
    }
}

/// Whether any overlap is above 0. The f32 operations are those of the reference in its order.
#[inline(always)]
fn fill_overlaps(
    overlaps: &mut [f32],
    keeper: [f32; 4],
    [x1, y1, x2, y2]: [&[f32]; 4],
    extra: f32,
) -> bool {
    let keeper_area = (keeper[2] - keeper[0] + extra) * (keeper[3] - keeper[1] + extra);
    let mut any = false;
    for i in 0..overlaps.len() {
        let width = (x2[i].min(keeper[2]) - x1[i].max(keeper[0]) + extra).max(0.0);
        let height = (y2[i].min(keeper[3]) - y1[i].max(keeper[1]) + extra).max(0.0);
        let area = (x2[i] - x1[i] + extra) * (y2[i] - y1[i] + extra);
        let intersection = width * height;
        overlaps[i] = intersection / (keeper_area + area - intersection);
        any |= overlaps[i] > 0.0;
    }
    any
}

#[inline(always)]
fn lower_linear(scores: &mut [f32], overlaps: &[f32], params: &SoftNms) {
    for (score, &overlap) in scores.iter_mut().zip(overlaps) {
        let lowers = overlap > params.iou_threshold;
        let lowered = *score * if lowers { 1.0 - overlap } else { 1.0 };
        *score = still_in(lowered, params);
    }
}

#[inline(always)]
fn lower_gaussian(scores: &mut [f32], overlaps: &[f32], params: &SoftNms) {
    let sigma = f64::from(params.sigma);
    for (score, &overlap) in scores.iter_mut().zip(overlaps) {
        let overlap = f64::from(if overlap > 0.0 { overlap } else { 0.0 });
        let lowered = *score * exp_of_minus_f64(overlap * overlap / sigma) as f32;
        *score = still_in(lowered, params);
    }
}

/// The score, or 0 where it is not above the threshold or NaN.
#[inline(always)]
fn still_in(score: f32, params: &SoftNms) -> f32 {
    if score > params.score_threshold {
        score
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(boxes: usize) -> Open {
        let column = |scale: f32, shift: f32| {
            let value = |i| ((i as f32 * scale).sin() + 1.0) * 40.0 + shift;
            (0..boxes).map(value).collect::<Vec<_>>()
        };
        Open {
            x1: column(0.7, 0.0),
            y1: column(1.3, 0.0),
            x2: column(0.7, 30.0),
            y2: column(1.3, 50.0),
            score: (0..boxes).map(|i| 0.01 + (i % 97) as f32 / 97.0).collect(),
            index: (0..boxes as u32).collect(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wider_registers_give_the_same_bits() {
        if !is_x86_feature_detected!("avx2") {
            println!("skipped: the processor has no AVX2");
            return;
        }
        for method in [SoftNmsMethod::Linear, SoftNmsMethod::Gaussian] {
            let params = SoftNms {
                method,
                iou_threshold: 0.1,
                ..SoftNms::default()
            };
            let (mut narrow, mut wide) = (open(333), open(333));
            let keeper = [30.0, 35.0, 66.0, 77.0];
            let result = narrow.lower_lanes(keeper, &params);
            // SAFETY: AVX2 was just found.
            assert_eq!(result, unsafe { wide.lower_avx2(keeper, &params) });
            assert_eq!(narrow.score, wide.score);
            assert_ne!(narrow.score, open(333).score);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let random = |i: usize| (i * 7919 % 10_007) as f32 / 10_007.0;
        let boxes: Vec<f32> = (0..3000)
            .flat_map(|i| {
                let (x, y) = (100.0 * random(i), 100.0 * random(i + 5000));
                [x, y, x + 20.0, y + 20.0]
            })
            .collect();
        let scores: Vec<f32> = (0..3000).map(|i| random(3 * i)).collect();
        let classes: Vec<i32> = (0..3000).map(|i| i % 3).collect();
        let run = |threads| {
            let batch = Batch {
                boxes: &boxes,
                scores: &scores,
                classes: Some(&classes),
                counts: None,
                images: 2,
                boxes_per_image: 1500,
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let params = SoftNms::default();
            pool.unwrap().install(|| soft_nms(batch, &params).unwrap())
        };
        assert_eq!(run(1), run(5));
    }
}
