//! Box losses on the CPU: one pass over the matches, and the arithmetic on the few matched rows.

use super::anchors::{LARGEST_LOG_SCALE, decode_box};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::{AnchorBoxLoss, AnchorLevel, Anchors};
use rayon::prelude::*;

const OP: &str = "anchor_box_loss";
/// Rows of one task: enough to hide a task's cost, few enough to share out a small level.
const TASK: usize = 1 << 14;
/// torchvision's, added to the denominators of GIoU.
const EPSILON: f32 = 1e-7;

/// Inputs of a batch of images.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    /// `[B, H, W, A * 4]` of each level.
    pub deltas: &'a [&'a [T]],
    /// `[B, M, 4]`.
    pub boxes: &'a [f32],
    /// `[B, R]`: index of a box; any other leaves the row out.
    pub matched: &'a [i32],
    /// `[B]`: the loss of an image is divided by this, or 1 where it is less; none for 1.
    pub foreground: Option<&'a [i32]>,
    /// `B`.
    pub images: usize,
    /// `M`.
    pub boxes_per_image: usize,
}

/// The loss, and its gradient times `upstream` into `gradients`, in the shape of the deltas, where there are any. See
/// [`ops::anchor_box_loss`](crate::ops::anchor_box_loss).
///
/// # Errors
/// When lengths do not fit each other, or a scalar is out of its range.
pub fn anchor_box_loss<T: Float>(
    batch: Batch<'_, T>,
    anchors: &Anchors,
    params: &AnchorBoxLoss,
    upstream: f32,
    gradients: Option<&mut [Vec<T>]>,
) -> Result<f32> {
    params.check()?;
    batch.check(anchors, gradients.as_deref())?;
    let mut sum = 0.0;
    let mut gradients = gradients;
    for image in 0..batch.images {
        let rows = batch.foreground.map_or(1, |counts| counts[image].max(1)) as f32;
        let weight = 1.0 / (params.normalizer * rows);
        let task = Task {
            boxes: &bytemuck::cast_slice(batch.boxes)[image * batch.boxes_per_image..]
                [..batch.boxes_per_image],
            beta: params.beta(),
            weight,
            scale: weight * upstream,
        };
        let mut matched = &batch.matched[image * anchors.count()..];
        for (number, level) in anchors.levels().iter().enumerate() {
            let row = image * level.count()..(image + 1) * level.count();
            let of_level;
            (of_level, matched) = matched.split_at(level.count());
            let elements = 4 * row.start..4 * row.end;
            let deltas = &batch.deltas[number][elements.clone()];
            let gradient = gradients
                .as_deref_mut()
                .map(|levels| &mut levels[number][elements]);
            sum += task.level(level, of_level, deltas, gradient);
        }
    }
    Ok(sum as f32)
}

impl<T: Float> Batch<'_, T> {
    fn check(&self, anchors: &Anchors, gradients: Option<&[Vec<T>]>) -> Result<()> {
        let levels = anchors.levels();
        let given = [
            (
                "deltas",
                Some(
                    self.deltas
                        .iter()
                        .map(|level| level.len())
                        .collect::<Vec<_>>(),
                ),
            ),
            (
                "gradients",
                gradients.map(|levels| levels.iter().map(Vec::len).collect()),
            ),
        ];
        for (argument, given) in given {
            let Some(given) = given else { continue };
            if given.len() != levels.len() {
                let rule = format!("{} levels, as the anchors have", levels.len());
                return Err(Error::input(OP, argument, rule, given.len()));
            }
            for (level, len) in levels.iter().zip(given) {
                let expected = 4 * self.images * level.count();
                if len != expected {
                    let rule = format!("{expected} elements on a level of {:?}", level.grid);
                    return Err(Error::input(OP, argument, rule, len));
                }
            }
        }
        for (argument, len, expected) in [
            (
                "boxes",
                Some(self.boxes.len()),
                4 * self.images * self.boxes_per_image,
            ),
            (
                "matched",
                Some(self.matched.len()),
                self.images * anchors.count(),
            ),
            ("foreground", self.foreground.map(<[i32]>::len), self.images),
        ] {
            if len.is_some_and(|len| len != expected) {
                let rule = format!("{expected} elements");
                return Err(Error::input(OP, argument, rule, len.unwrap_or_default()));
            }
        }
        Ok(())
    }
}

/// What the rows of one image need.
struct Task<'a> {
    boxes: &'a [[f32; 4]],
    /// None for GIoU.
    beta: Option<f32>,
    /// Of the loss of a row, and of its gradient.
    weight: f32,
    scale: f32,
}

impl Task<'_> {
    /// The sum over one level, in an order that does not depend on the number of threads.
    fn level<T: Float>(
        &self,
        level: &AnchorLevel,
        matched: &[i32],
        deltas: &[T],
        gradient: Option<&mut [T]>,
    ) -> f64 {
        let sums: Vec<f64> = match gradient {
            Some(gradient) => {
                let rows = gradient
                    .par_chunks_mut(4 * TASK)
                    .zip(matched.par_chunks(TASK));
                let rows = rows.enumerate();
                rows.map(|(task, (gradient, matched))| {
                    gradient.fill(T::default());
                    self.rows(level, task * TASK, matched, deltas, |row, slope| {
                        let scaled = slope.map(|slope| T::from_f32(self.scale * slope));
                        gradient[4 * row..4 * row + 4].copy_from_slice(&scaled);
                    })
                })
                .collect()
            }
            None => {
                let rows = matched.par_chunks(TASK).enumerate();
                rows.map(|(task, matched)| {
                    self.rows(level, task * TASK, matched, deltas, |_, _| ())
                })
                .collect()
            }
        };
        sums.iter().sum()
    }

    fn rows<T: Float>(
        &self,
        level: &AnchorLevel,
        first: usize,
        matched: &[i32],
        deltas: &[T],
        mut slope: impl FnMut(usize, [f32; 4]),
    ) -> f64 {
        let mut sum = 0.0;
        for (row, &index) in matched.iter().enumerate() {
            let Some(target) = usize::try_from(index)
                .ok()
                .and_then(|index| self.boxes.get(index))
            else {
                continue;
            };
            let anchor = first + row;
            let deltas = [0, 1, 2, 3].map(|i| deltas[4 * anchor + i].to_f32());
            let anchor = level.anchor(anchor);
            let (loss, along) = match self.beta {
                Some(beta) => smooth_l1(anchor, deltas, *target, beta),
                None => giou(anchor, deltas, *target),
            };
            sum += f64::from(self.weight * loss);
            slope(row, along);
        }
        sum
    }
}

/// Loss of a row and its slope along each delta.
fn smooth_l1(anchor: [f32; 4], deltas: [f32; 4], target: [f32; 4], beta: f32) -> (f32, [f32; 4]) {
    let mut loss = 0.0;
    let slope = [0, 1, 2, 3].map(|i| {
        let (low, extent) = (anchor[i % 2], anchor[i % 2 + 2] - anchor[i % 2]);
        let (to_low, to_extent) = (target[i % 2], target[i % 2 + 2] - target[i % 2]);
        let moved = (to_low + 0.5 * to_extent) - (low + 0.5 * extent);
        let wanted = if i < 2 {
            moved / extent
        } else {
            (to_extent / extent).ln()
        };
        let difference = deltas[i] - wanted;
        let distance = difference.abs();
        if distance < beta {
            loss += 0.5 * distance * distance / beta;
            return difference / beta;
        }
        loss += distance - 0.5 * beta;
        if difference == 0.0 {
            0.0
        } else {
            difference.signum()
        }
    });
    (loss, slope)
}

/// Slope of max(a, b) along a: ties are shared, as PyTorch's maximum does.
fn share(a: f32, b: f32) -> f32 {
    if a > b {
        1.0
    } else if a == b {
        0.5
    } else {
        0.0
    }
}

/// Loss of a row and its slope along each delta.
fn giou(anchor: [f32; 4], deltas: [f32; 4], target: [f32; 4]) -> (f32, [f32; 4]) {
    let a = decode_box(anchor, deltas);
    let b = target;
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let meet = [0, 1].map(|i| a[i + 2].min(b[i + 2]) - a[i].max(b[i]));
    let enclose = [0, 1].map(|i| a[i + 2].max(b[i + 2]) - a[i].min(b[i]));
    let apart = !(meet[0] > 0.0 && meet[1] > 0.0);
    let intersection = if apart { 0.0 } else { meet[0] * meet[1] };
    let either = area(a) + area(b) - intersection;
    let hull = enclose[0] * enclose[1];
    let (either_inverse, hull_inverse) = (1.0 / (either + EPSILON), 1.0 / (hull + EPSILON));
    let loss = 1.0 - intersection * either_inverse + (hull - either) * hull_inverse;
    let by_either = intersection * either_inverse * either_inverse - hull_inverse;
    let by_hull = (either + EPSILON) * hull_inverse * hull_inverse;
    // Along a corner: its area, the intersection and the hull, in this order.
    let along = |corner: usize| {
        let other = 1 - corner % 2;
        let (sign, inside) = if corner < 2 {
            (-1.0, share(a[corner], b[corner]))
        } else {
            (1.0, share(b[corner], a[corner]))
        };
        let of_area = sign * (a[other + 2] - a[other]);
        let of_meet = if apart {
            0.0
        } else {
            sign * inside * meet[other]
        };
        let of_hull = sign * (1.0 - inside) * enclose[other];
        by_either * (of_area - of_meet) - either_inverse * of_meet + by_hull * of_hull
    };
    let mut slope = [0.0; 4];
    for axis in 0..2 {
        let (low, high) = (along(axis), along(axis + 2));
        slope[axis] = (low + high) * (anchor[axis + 2] - anchor[axis]);
        if deltas[axis + 2] <= LARGEST_LOG_SCALE || deltas[axis + 2].is_nan() {
            slope[axis + 2] = 0.5 * (a[axis + 2] - a[axis]) * (high - low);
        }
    }
    (loss, slope)
}
