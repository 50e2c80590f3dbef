//! Non-maximum suppression: sorted keys, one greedy pass a class, classes and images in parallel.

use super::order::sort_key;
use crate::error::{Error, Result};
use crate::params::Nms;
use rayon::prelude::*;

const OP: &str = "nms";
/// Keepers tested before the early exit is looked at: two AVX2 registers.
const LANES: usize = 16;

/// Inputs of a batch of images, `N` boxes each.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `[B, N, 4]`.
    pub boxes: &'a [f32],
    /// `[B, N]`.
    pub scores: &'a [f32],
    /// `[B, N]`, or none for one class.
    pub classes: Option<&'a [i32]>,
    /// `[B]`: boxes of each image that take part, clamped to `[0, N]`; none for all.
    pub counts: Option<&'a [i32]>,
    /// `B`.
    pub images: usize,
    /// `N`.
    pub boxes_per_image: usize,
}

/// The boxes of one image that take part.
pub(super) struct Image<'a> {
    pub(super) boxes: &'a [[f32; 4]],
    pub(super) scores: &'a [f32],
    pub(super) classes: Option<&'a [i32]>,
}

impl<'a> Batch<'a> {
    /// Lengths must fit each other.
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let all = self.images * self.boxes_per_image;
        let lengths = [
            ("boxes", Some(self.boxes.len()), 4 * all),
            ("scores", Some(self.scores.len()), all),
            ("classes", self.classes.map(<[i32]>::len), all),
            ("counts", self.counts.map(<[i32]>::len), self.images),
        ];
        for (argument, len, expected) in lengths {
            if len.is_some_and(|len| len != expected) {
                let rule = format!("{expected} elements");
                return Err(Error::input(op, argument, rule, len.unwrap_or_default()));
            }
        }
        Ok(())
    }

    pub(super) fn image(&self, index: usize) -> Image<'a> {
        let first = index * self.boxes_per_image;
        let live = self.counts.map_or(self.boxes_per_image, |counts| {
            (counts[index].max(0) as usize).min(self.boxes_per_image)
        });
        let range = first..first + live;
        Image {
            boxes: &bytemuck::cast_slice(self.boxes)[range.clone()],
            scores: &self.scores[range.clone()],
            classes: self.classes.map(|classes| &classes[range]),
        }
    }
}

/// Indices of the kept boxes of each image, `[B, max_output]` padded with -1, and their number, `[B]`. See
/// [`ops::nms`](crate::ops::nms).
///
/// # Errors
/// When lengths do not fit each other, or a scalar is out of its range.
pub fn nms(batch: Batch<'_>, params: &Nms) -> Result<(Vec<i32>, Vec<i32>)> {
    batch.check(OP)?;
    let max_output = params.check(batch.boxes_per_image)?;
    let mut indices = vec![-1; batch.images * max_output];
    let mut counts = vec![0; batch.images];
    // Rows of no elements could not be told apart.
    if max_output > 0 {
        let rows = indices.par_chunks_mut(max_output).zip(&mut counts);
        rows.enumerate().for_each(|(index, (row, count))| {
            let kept = suppress(&batch.image(index), params, max_output);
            row[..kept.len()].copy_from_slice(&kept);
            *count = kept.len() as i32;
        });
    }
    Ok((indices, counts))
}

/// Kept indices of one image, best first.
fn suppress(image: &Image<'_>, params: &Nms, max_output: usize) -> Vec<i32> {
    let mut keys: Vec<u64> = (0..image.scores.len())
        .filter_map(|i| key(image, i, params.score_threshold))
        .collect();
    keys.par_sort_unstable();
    let order: Vec<u32> = keys.iter().map(|&key| key as u32).collect();
    let mut kept: Vec<u32> = match image.classes {
        None => keep(
            image.boxes,
            &order,
            0..order.len() as u32,
            params,
            max_output,
        ),
        Some(classes) => {
            let mut places: Vec<u32> = (0..order.len() as u32).collect();
            places.par_sort_by_key(|&place| classes[order[place as usize] as usize]);
            let same = |a: &u32, b: &u32| {
                classes[order[*a as usize] as usize] == classes[order[*b as usize] as usize]
            };
            let groups: Vec<&[u32]> = places.chunk_by(same).collect();
            let keep = |group: &&[u32]| {
                keep(
                    image.boxes,
                    &order,
                    group.iter().copied(),
                    params,
                    max_output,
                )
            };
            groups.par_iter().flat_map_iter(keep).collect()
        }
    };
    kept.sort_unstable();
    kept.truncate(max_output);
    kept.iter()
        .map(|&place| order[place as usize] as i32)
        .collect()
}

/// Ascending keys are descending scores, then ascending indices; none for a box that takes no part.
fn key(image: &Image<'_>, index: usize, score_threshold: Option<f32>) -> Option<u64> {
    let score = image.scores[index];
    let takes_part = !score.is_nan()
        && score_threshold.is_none_or(|threshold| score > threshold)
        && image.boxes[index].iter().all(|c| c.is_finite());
    takes_part.then(|| sort_key(score, index))
}

/// Places, out of those of one class in order, that greedy suppression keeps; at most `max_output`,
/// since no more of a class can be among the best of the image.
fn keep(
    boxes: &[[f32; 4]],
    order: &[u32],
    places: impl Iterator<Item = u32>,
    params: &Nms,
    max_output: usize,
) -> Vec<u32> {
    let mut keepers = Keepers::default();
    let mut kept = Vec::new();
    for place in places {
        let candidate = boxes[order[place as usize] as usize];
        if !keepers.suppress(candidate, params.iou_threshold) {
            keepers.push(candidate);
            kept.push(place);
            if kept.len() == max_output {
                break;
            }
        }
    }
    kept
}

/// Boxes kept so far, a coordinate an array, so that one candidate is tested against several at once.
#[derive(Default)]
struct Keepers {
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
}

impl Keepers {
    fn push(&mut self, b: [f32; 4]) {
        self.x1.push(b[0]);
        self.y1.push(b[1]);
        self.x2.push(b[2]);
        self.y2.push(b[3]);
        self.area.push((b[2] - b[0]) * (b[3] - b[1]));
    }

    /// The same f32 operations in the same order as the reference: the results are the same bits.
    fn suppress(&self, b: [f32; 4], threshold: f32) -> bool {
        let area = (b[2] - b[0]) * (b[3] - b[1]);
        let tests = |x1: &[f32], y1: &[f32], x2: &[f32], y2: &[f32], keeper_area: &[f32]| {
            let mut any = false;
            for i in 0..x1.len() {
                let width = (x2[i].min(b[2]) - x1[i].max(b[0])).max(0.0);
                let height = (y2[i].min(b[3]) - y1[i].max(b[1])).max(0.0);
                let intersection = width * height;
                any |= intersection / (keeper_area[i] + area - intersection) > threshold;
            }
            any
        };
        let columns = self
            .x1
            .chunks(LANES)
            .zip(self.y1.chunks(LANES))
            .zip(self.x2.chunks(LANES));
        columns
            .zip(self.y2.chunks(LANES))
            .zip(self.area.chunks(LANES))
            .any(|((((x1, y1), x2), y2), areas)| tests(x1, y1, x2, y2, areas))
    }
}
