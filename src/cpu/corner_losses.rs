//! Pull, push and offset losses of corners on the CPU: a task an image, sums in f64.

use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::{CornerEmbeddingLoss, CornerOffsetLoss};
use rayon::prelude::*;

/// What the authors' code adds to every count that divides.
const EPSILON: f64 = 1e-4;

/// Weighted pull and push losses, and where asked for the gradients of their sum times the given
/// upstream scalar. Pairs are of the top-left and of the bottom-right corners. See
/// [`ops::corner_embedding_loss`](crate::ops::corner_embedding_loss()).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn embedding_loss<T: Float>(
    maps: [&[T]; 2],
    indices: [&[i32]; 2],
    images: usize,
    params: &CornerEmbeddingLoss,
    gradients: Option<(f32, [&mut [T]; 2])>,
) -> Result<[f32; 2]> {
    const OP: &str = "corner_embedding_loss";
    let (cells, boxes) = (
        maps[0].len() / images.max(1),
        indices[0].len() / images.max(1),
    );
    length(OP, "top_left", maps[0].len(), images * cells)?;
    length(OP, "bottom_right", maps[1].len(), images * cells)?;
    length(OP, "top_left_indices", indices[0].len(), images * boxes)?;
    length(OP, "bottom_right_indices", indices[1].len(), images * boxes)?;
    let (upstream, gradients) = match gradients {
        None => (0.0, (0..images).map(|_| None).collect()),
        Some((upstream, [first, last])) => {
            length(OP, "gradients", first.len(), images * cells)?;
            length(OP, "gradients", last.len(), images * cells)?;
            let firsts = pieces(first, cells, images);
            let both = firsts.into_iter().zip(pieces(last, cells, images));
            (upstream, both.map(Some).collect::<Vec<_>>())
        }
    };
    let losses: Vec<[f64; 2]> = gradients
        .into_par_iter()
        .enumerate()
        .map(|(image, gradients)| {
            let map = |corner: usize| &maps[corner][image * cells..][..cells];
            let of_image = |corner: usize| &indices[corner][image * boxes..][..boxes];
            let pairs: Vec<Pair> = of_image(0)
                .iter()
                .zip(of_image(1))
                .filter_map(|(&first, &last)| {
                    let at = [cell(first, cells)?, cell(last, cells)?];
                    let tags = [0, 1].map(|corner| f64::from(map(corner)[at[corner]].to_f32()));
                    Some(Pair { at, tags })
                })
                .collect();
            let (losses, slopes) = pull_and_push(&pairs, params);
            if let Some((first, last)) = gradients {
                for (corner, gradient) in [first, last].into_iter().enumerate() {
                    let slopes = pairs.iter().zip(&slopes);
                    let slopes = slopes.map(|(pair, slopes)| (pair.at[corner], slopes[corner]));
                    scatter(slopes.collect(), f64::from(upstream), gradient);
                }
            }
            losses
        })
        .collect();
    // In the order of the images, whichever thread did which.
    let total = |which: usize| losses.iter().map(|losses| losses[which]).sum::<f64>() as f32;
    Ok([total(0), total(1)])
}

/// The two corners of a box.
struct Pair {
    at: [usize; 2],
    tags: [f64; 2],
}

/// Weighted losses of an image, and the slopes of each box's two embeddings.
fn pull_and_push(pairs: &[Pair], params: &CornerEmbeddingLoss) -> ([f64; 2], Vec<[f64; 2]>) {
    let n = pairs.len() as f64;
    let pull_weight = f64::from(params.pull_weight) / (n + EPSILON);
    let push_weight = f64::from(params.push_weight) / (n * (n - 1.0) + EPSILON);
    let means: Vec<f64> = pairs
        .iter()
        .map(|pair| (pair.tags[0] + pair.tags[1]) / 2.0)
        .collect();
    let (mut pull, mut push) = (0.0, 0.0);
    let mut slopes = Vec::with_capacity(pairs.len());
    for (pair, mean) in pairs.iter().zip(&means) {
        let apart = pair.tags[0] - pair.tags[1];
        pull += apart * apart / 2.0;
        let mut slope = 0.0;
        for other in &means {
            let distance = (mean - other).abs();
            // NaN stays.
            push += if distance > 1.0 { 0.0 } else { 1.0 - distance } - 1.0 / (n + EPSILON);
            if distance > 0.0 && distance < 1.0 {
                slope += if mean < other { 1.0 } else { -1.0 };
            }
        }
        let pushed = push_weight * slope;
        slopes.push([pull_weight * apart + pushed, pushed - pull_weight * apart]);
    }
    ([pull_weight * pull, push_weight * push], slopes)
}

/// The weighted offset loss, and where asked for its gradient times the given upstream scalar. See
/// [`ops::corner_offset_loss`](crate::ops::corner_offset_loss()).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn offset_loss<T: Float>(
    map: &[T],
    indices: &[i32],
    targets: &[f32],
    images: usize,
    params: &CornerOffsetLoss,
    gradient: Option<(f32, &mut [T])>,
) -> Result<f32> {
    const OP: &str = "corner_offset_loss";
    let (cells, boxes) = (map.len() / 2 / images.max(1), indices.len() / images.max(1));
    length(OP, "offsets", map.len(), 2 * images * cells)?;
    length(OP, "indices", indices.len(), images * boxes)?;
    length(OP, "targets", targets.len(), 2 * indices.len())?;
    let count = indices
        .iter()
        .filter(|&&index| cell(index, cells).is_some())
        .count();
    let weight = f64::from(params.weight) / (count as f64 + EPSILON);
    let (upstream, gradients) = match gradient {
        None => (0.0, (0..images).map(|_| None).collect()),
        Some((upstream, gradient)) => {
            length(OP, "gradient", gradient.len(), map.len())?;
            let gradients = pieces(gradient, 2 * cells, images);
            (
                upstream,
                gradients.into_iter().map(Some).collect::<Vec<_>>(),
            )
        }
    };
    let losses: Vec<f64> = gradients
        .into_par_iter()
        .enumerate()
        .map(|(image, gradient)| {
            let map = &map[2 * image * cells..][..2 * cells];
            let mut sum = 0.0;
            let mut slopes = Vec::new();
            for number in image * boxes..(image + 1) * boxes {
                let Some(cell) = cell(indices[number], cells) else {
                    continue;
                };
                for axis in 0..2 {
                    let at = 2 * cell + axis;
                    let target = f64::from(targets[2 * number + axis]);
                    let difference = f64::from(map[at].to_f32()) - target;
                    let size = difference.abs();
                    sum += if size < 1.0 {
                        size * size / 2.0
                    } else {
                        size - 0.5
                    };
                    slopes.push((at, weight * difference.clamp(-1.0, 1.0)));
                }
            }
            if let Some(gradient) = gradient {
                scatter(slopes, f64::from(upstream), gradient);
            }
            weight * sum
        })
        .collect();
    Ok(losses.iter().sum::<f64>() as f32)
}

/// The cell of an index, where it is one.
fn cell(index: i32, cells: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&cell| cell < cells)
}

/// The parts of a gradient by image, which may all be empty.
fn pieces<T>(mut gradient: &mut [T], of_image: usize, images: usize) -> Vec<&mut [T]> {
    let mut pieces = Vec::with_capacity(images);
    for _ in 0..images {
        let (piece, rest) = gradient.split_at_mut(of_image);
        pieces.push(piece);
        gradient = rest;
    }
    pieces
}

/// Zeros, and at each place the sum of its slopes in their order.
fn scatter<T: Float>(mut slopes: Vec<(usize, f64)>, upstream: f64, gradient: &mut [T]) {
    gradient.fill(T::default());
    // Stable: the slopes of one place keep their order.
    slopes.sort_by_key(|&(at, _)| at);
    for run in slopes.chunk_by(|a, b| a.0 == b.0) {
        let sum: f64 = run.iter().map(|(_, slope)| slope).sum();
        gradient[run[0].0] = T::from_f32((upstream * sum) as f32);
    }
}

fn length(op: &'static str, argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let rule = format!("{expected} elements");
    Err(Error::input(op, argument, rule, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked() {
        let params = CornerEmbeddingLoss::default();
        let maps = |len| [&[0f32; 6][..len], &[0f32; 6][..]];
        let run = |len, boxes| {
            let indices = [&[0; 4][..boxes], &[0; 4][..]];
            embedding_loss(maps(len), indices, 2, &params, None)
        };
        assert!(run(6, 4).is_ok());
        let error = run(5, 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "corner_embedding_loss: top_left must be 4 elements, got 5"
        );
        assert!(run(6, 3).is_err());
        let params = CornerOffsetLoss::default();
        assert!(offset_loss(&[0f32; 6], &[0; 3], &[0.0; 5], 1, &params, None).is_err());
        assert!(offset_loss(&[0f32; 6], &[0; 3], &[0.0; 6], 1, &params, None).is_ok());
    }
}
