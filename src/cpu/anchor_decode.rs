//! Anchor decoding on the CPU: one pass over the logits in pieces, each keeping its best keys.

use super::anchors::decode_box;
use super::math::exp_of_minus;
use super::order::{keep_best, key_score, sort_key};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::{AnchorDecode, AnchorLevel, Anchors};
use rayon::prelude::*;

const OP: &str = "anchor_decode";
/// Logits of one task: enough to hide a task's cost, few enough to share out a small level.
const TASK: usize = 1 << 16;
/// Logits widened to f32 at a time, 1 KiB on the stack.
const BLOCK: usize = 256;
/// Logits tested together: two AVX2 registers.
const LANES: usize = 16;
/// Inputs of a batch of images.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    /// `[B, H, W, A * K]` of each level.
    pub logits: &'a [&'a [T]],
    /// `[B, H, W, A * 4]` of each level.
    pub deltas: &'a [&'a [T]],
    /// `[B, 2]`: height and width that the boxes of an image are clipped to; none for the anchors' image.
    pub image_sizes: Option<&'a [i32]>,
    /// `B`.
    pub images: usize,
    /// `K`.
    pub classes: usize,
}

/// Candidates of a batch. See [`ops::Candidates`](crate::ops::Candidates).
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// `[B, M, 4]`.
    pub boxes: Vec<f32>,
    /// `[B, M]`.
    pub scores: Vec<f32>,
    /// `[B, M]`.
    pub classes: Vec<i32>,
    /// `[B]`.
    pub count: Vec<i32>,
}

/// The candidates of each image. See [`ops::anchor_decode`](crate::ops::anchor_decode).
///
/// # Errors
/// When lengths do not fit each other, or a scalar is out of its range.
pub fn anchor_decode<T: Float>(
    batch: Batch<'_, T>,
    anchors: &Anchors,
    params: &AnchorDecode,
) -> Result<Decoded> {
    let topk = params.check(anchors, batch.classes)?;
    batch.check(anchors)?;
    let most: usize = topk.iter().sum();
    let mut decoded = Decoded {
        boxes: vec![0.0; 4 * batch.images * most],
        scores: vec![0.0; batch.images * most],
        classes: vec![-1; batch.images * most],
        count: vec![0; batch.images],
    };
    let threshold = params.logit_threshold();
    let levels = topk.len();
    let pairs: Vec<(usize, usize)> = (0..batch.images)
        .flat_map(|image| (0..levels).map(move |level| (image, level)))
        .collect();
    let keys: Vec<Vec<u64>> = pairs
        .par_iter()
        .map(|&(image, level)| {
            best(
                batch.row(batch.logits[level], image),
                threshold,
                topk[level],
            )
        })
        .collect();
    for ((image, level), keys) in pairs.into_iter().zip(keys) {
        let first = image * most + decoded.count[image] as usize;
        let deltas = batch.row(batch.deltas[level], image);
        let sides = batch.sides(image, anchors);
        for (place, &key) in (first..).zip(&keys) {
            let index = key as u32 as usize;
            let corners = decode(
                &anchors.levels()[level],
                index / batch.classes,
                deltas,
                sides,
            );
            decoded.boxes[4 * place..4 * place + 4].copy_from_slice(&corners);
            decoded.scores[place] = sigmoid(key_score(key));
            decoded.classes[place] = (index % batch.classes) as i32;
        }
        decoded.count[image] += keys.len() as i32;
    }
    Ok(decoded)
}

impl<'a, T: Float> Batch<'a, T> {
    fn check(&self, anchors: &Anchors) -> Result<()> {
        let levels = anchors.levels();
        for (argument, given, channels) in [
            ("logits", self.logits, self.classes),
            ("deltas", self.deltas, 4),
        ] {
            if given.len() != levels.len() {
                let rule = format!("{} levels, as the anchors have", levels.len());
                return Err(Error::input(OP, argument, rule, given.len()));
            }
            for (level, given) in levels.iter().zip(given) {
                let expected = self.images * level.count() * channels;
                if given.len() != expected {
                    let rule = format!("{expected} elements on a level of {:?}", level.grid);
                    return Err(Error::input(OP, argument, rule, given.len()));
                }
            }
        }
        match self.image_sizes {
            Some(sizes) if sizes.len() != 2 * self.images => {
                let rule = format!("{} elements", 2 * self.images);
                Err(Error::input(OP, "image_sizes", rule, sizes.len()))
            }
            _ => Ok(()),
        }
    }

    /// What of a level belongs to an image.
    fn row(&self, level: &'a [T], image: usize) -> &'a [T] {
        let length = level.len() / self.images;
        &level[image * length..(image + 1) * length]
    }

    /// Height and width that boxes are clipped to.
    fn sides(&self, image: usize, anchors: &Anchors) -> [f32; 2] {
        match self.image_sizes {
            Some(sizes) => [0, 1].map(|side| sizes[2 * image + side].max(0) as f32),
            None => anchors.image().map(|side| side as f32),
        }
    }
}

/// Keys of the best `topk` logits above the threshold, sorted.
fn best<T: Float>(logits: &[T], threshold: f32, topk: usize) -> Vec<u64> {
    let found: Vec<Vec<u64>> = logits
        .par_chunks(TASK)
        .enumerate()
        .map(|(task, logits)| scan(logits, task * TASK, threshold, topk))
        .collect();
    let mut keys = found.concat();
    keep_best(&mut keys, topk);
    keys.sort_unstable();
    keys
}

/// Keys of the best `topk` logits of a task above the threshold. Once there are twice as many, the worse half is
/// dropped and the threshold raised.
fn scan<T: Float>(logits: &[T], first: usize, mut threshold: f32, topk: usize) -> Vec<u64> {
    let mut keys = Vec::new();
    let mut block = [0.0; BLOCK];
    for (part, logits) in logits.chunks(BLOCK).enumerate() {
        let values = &mut block[..logits.len()];
        T::widen(logits, values);
        for (lane, values) in values.chunks(LANES).enumerate() {
            if !any_above(values, threshold) {
                continue;
            }
            let first = first + part * BLOCK + lane * LANES;
            for (index, &value) in (first..).zip(values) {
                if value > threshold {
                    keys.push(sort_key(value, index));
                }
            }
            if keys.len() >= 2 * topk + LANES {
                keep_best(&mut keys, topk);
                // What follows has larger indices, so a tie with the worst kept one loses.
                threshold = keys.iter().max().map_or(threshold, |&key| key_score(key));
            }
        }
    }
    keep_best(&mut keys, topk);
    keys
}

#[inline(always)]
fn any_above(values: &[f32], threshold: f32) -> bool {
    values
        .iter()
        .fold(false, |any, &value| any | (value > threshold))
}

/// The box of an anchor, clipped.
fn decode<T: Float>(
    level: &AnchorLevel,
    anchor: usize,
    deltas: &[T],
    [height, width]: [f32; 2],
) -> [f32; 4] {
    let deltas = [0, 1, 2, 3].map(|i| deltas[4 * anchor + i].to_f32());
    let [x1, y1, x2, y2] = decode_box(level.anchor(anchor), deltas);
    [
        clip(x1, width),
        clip(y1, height),
        clip(x2, width),
        clip(y2, height),
    ]
}

/// `x` moved into [0, side]; NaN stays.
fn clip(x: f32, side: f32) -> f32 {
    if x < 0.0 {
        0.0
    } else if x > side {
        side
    } else {
        x
    }
}

fn sigmoid(x: f32) -> f32 {
    let t = exp_of_minus(x.abs());
    (if x < 0.0 { t } else { 1.0 }) / (1.0 + t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let anchors = Anchors::torchvision([64, 64], &[[8, 8]]).unwrap();
        let logits: Vec<f32> = (0..576 * 300)
            .map(|i| (i as f32 * 0.37).sin() * 5.0)
            .collect();
        let deltas: Vec<f32> = (0..576 * 4).map(|i| (i as f32 * 0.11).cos()).collect();
        let batch = Batch {
            logits: &[&logits[..]],
            deltas: &[&deltas[..]],
            image_sizes: None,
            images: 1,
            classes: 300,
        };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| anchor_decode(batch, &anchors, &Default::default()).unwrap())
        };
        assert_eq!(run(1), run(7));
    }

    #[test]
    fn lengths_are_checked() {
        let anchors = Anchors::torchvision([64, 64], &[[8, 8]]).unwrap();
        let message = |logits: &[&[f32]], image_sizes| {
            let batch = Batch {
                logits,
                deltas: &[&[0.0; 576 * 4]],
                image_sizes,
                images: 1,
                classes: 1,
            };
            let result = anchor_decode(batch, &anchors, &Default::default());
            result.unwrap_err().to_string()
        };
        let rule = "anchor_decode: logits must be 576 elements on a level of [8, 8], got 5";
        assert_eq!(message(&[&[0.0; 5]], None), rule);
        let rule = "anchor_decode: logits must be 1 levels, as the anchors have, got 0";
        assert_eq!(message(&[], None), rule);
        let rule = "anchor_decode: image_sizes must be 2 elements, got 1";
        assert_eq!(message(&[&[0.0; 576]], Some(&[1])), rule);
    }
}
