//! Heatmap focal loss on the CPU: one pass over the logits. Targets are read from a map, or rendered
//! from boxes a task at a time, so that they never leave the cache.

use super::corner_targets::{Bump, render};
use super::math::focal;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::{Clamp, HeatmapFocalLoss};
use rayon::prelude::*;

const OP: &str = "heatmap_focal_loss";
/// Elements of one task: large enough to hide a task's cost, small enough for its slices to stay in L2.
const TASK: usize = 1 << 14;
/// Elements widened to `f32` at a time, 1 KiB on the stack.
const BLOCK: usize = 256;
/// Independent sums: two AVX2 registers, so that additions overlap.
const LANES: usize = 16;

/// Where the targets come from.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// One a logit.
    Map(&'a [f32]),
    /// The bumps of each image, `[B, M]`.
    Bumps(&'a [Bump]),
}

/// The loss, and where asked for its gradient times the given upstream scalar. `shape` is that of the
/// logits. See [`ops::heatmap_focal_loss`](crate::ops::heatmap_focal_loss()).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn heatmap_focal_loss<T: Float>(
    logits: &[T],
    shape: [usize; 4],
    targets: Targets<'_>,
    params: &HeatmapFocalLoss,
    gradient: Option<(f32, &mut [T])>,
) -> Result<f32> {
    let per_image = shape[1..].iter().product::<usize>();
    check(logits, shape[0], per_image, targets, &gradient)?;
    if logits.is_empty() {
        return Ok(0.0);
    }
    let (upstream, mut gradient) = match gradient {
        Some((upstream, gradient)) => (upstream, parts_mut(gradient, per_image)),
        None => (0.0, Vec::new()),
    };
    let logits: Vec<_> = logits
        .chunks(per_image)
        .enumerate()
        .flat_map(|(image, logits)| {
            let parts = logits.chunks(TASK).enumerate();
            parts.map(move |(part, logits)| (image, part * TASK, logits))
        })
        .collect();
    gradient.resize_with(logits.len(), || &mut []);
    let loss = Loss::new(params, upstream);
    let sums: Vec<f64> = logits
        .into_par_iter()
        .zip(gradient)
        .map(|((image, first, logits), gradient)| match targets {
            Targets::Map(map) => {
                let targets = &map[image * per_image + first..][..logits.len()];
                loss.task(logits, targets, gradient)
            }
            Targets::Bumps(bumps) => {
                let of_image = bumps.len() / shape[0];
                let mut rendered = vec![0.0; logits.len()];
                let bumps = &bumps[image * of_image..][..of_image];
                render(bumps, shape, first, &mut rendered);
                loss.task(logits, &rendered, gradient)
            }
        })
        .collect();
    // In task order, whichever thread did which.
    Ok((sums.iter().sum::<f64>() / f64::from(params.normalizer)) as f32)
}

fn parts_mut<T>(gradient: &mut [T], per_image: usize) -> Vec<&mut [T]> {
    let images = gradient.chunks_mut(per_image);
    images.flat_map(|image| image.chunks_mut(TASK)).collect()
}

fn check<T>(
    logits: &[T],
    images: usize,
    per_image: usize,
    targets: Targets<'_>,
    gradient: &Option<(f32, &mut [T])>,
) -> Result<()> {
    let length = |argument: &str, is: usize, expected: usize| {
        if is == expected {
            return Ok(());
        }
        let rule = format!("{expected} elements");
        Err(Error::input(OP, argument, rule, is))
    };
    length("logits", logits.len(), images * per_image)?;
    if let Targets::Map(map) = targets {
        length("target", map.len(), logits.len())?;
    }
    let of_gradient = gradient
        .as_ref()
        .map_or(logits.len(), |(_, gradient)| gradient.len());
    length("gradient", of_gradient, logits.len())
}

/// What a task needs of the scalars.
#[derive(Debug, Clone, Copy)]
struct Loss {
    alpha: f32,
    beta: f32,
    standard: bool,
    clamp: Clamp,
    /// Of the gradient.
    scale: f32,
}

impl Loss {
    fn new(params: &HeatmapFocalLoss, upstream: f32) -> Self {
        Self {
            alpha: params.alpha,
            beta: params.beta,
            standard: params.is_standard(),
            clamp: params.clamped(),
            scale: upstream / params.normalizer,
        }
    }

    /// Sum over a task, not yet normalised. `gradient` is empty where none is asked for.
    fn task<T: Float>(&self, logits: &[T], targets: &[f32], gradient: &mut [T]) -> f64 {
        let mut block = [0.0; BLOCK];
        let mut sum = 0.0;
        for (at, logits) in logits.chunks(BLOCK).enumerate() {
            let range = at * BLOCK..at * BLOCK + logits.len();
            let values = &mut block[..logits.len()];
            T::widen(logits, values);
            sum += f64::from(self.replace(values, &targets[range.clone()]));
            if !gradient.is_empty() {
                T::narrow(values, &mut gradient[range]);
            }
        }
        sum
    }

    /// Puts gradients in place of logits and returns the sum of the losses.
    fn replace(&self, values: &mut [f32], targets: &[f32]) -> f32 {
        if !self.standard {
            return self.replace_lanes::<false>(values, targets);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just found to have AVX2, which is all that the function
            // asks for.
            return unsafe { self.replace_avx2(values, targets) };
        }
        self.replace_lanes::<true>(values, targets)
    }

    /// The same arithmetic in registers twice as wide.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn replace_avx2(&self, values: &mut [f32], targets: &[f32]) -> f32 {
        self.replace_lanes::<true>(values, targets)
    }

    #[inline(always)]
    fn replace_lanes<const STANDARD: bool>(&self, values: &mut [f32], targets: &[f32]) -> f32 {
        let mut sums = [0.0; LANES];
        let mut lanes = values.chunks_exact_mut(LANES);
        let mut of_lanes = targets.chunks_exact(LANES);
        for (values, targets) in (&mut lanes).zip(&mut of_lanes) {
            for ((sum, value), &target) in sums.iter_mut().zip(values).zip(targets) {
                let (loss, slope) = self.element::<STANDARD>(*value, target);
                *sum += loss;
                *value = slope;
            }
        }
        let mut sum = sums.iter().sum::<f32>();
        for (value, &target) in lanes.into_remainder().iter_mut().zip(of_lanes.remainder()) {
            let (loss, slope) = self.element::<STANDARD>(*value, target);
            sum += loss;
            *value = slope;
        }
        sum
    }

    /// Loss and scaled slope of a logit. `STANDARD`: alpha is 2 and beta 4.
    #[inline(always)]
    fn element<const STANDARD: bool>(&self, x: f32, target: f32) -> (f32, f32) {
        let positive = target == 1.0;
        let z = if positive { -x } else { x };
        let (loss, slope) = focal::<STANDARD>(z, self.alpha, 0.0);
        let Clamp { bound, low, high } = self.clamp;
        let loss = if z < -bound { low } else { loss };
        let loss = if z > bound { high } else { loss };
        let slope = if z.abs() > bound { 0.0 } else { slope };
        let distance = 1.0 - target;
        let reduced = if STANDARD {
            (distance * distance) * (distance * distance)
        } else {
            distance.powf(self.beta)
        };
        let weight = if positive { 1.0 } else { reduced };
        let signed = if positive { -self.scale } else { self.scale };
        // A select, not a product: what is left out may be NaN.
        let counted = target <= 1.0;
        (
            if counted { weight * loss } else { 0.0 },
            if counted {
                weight * slope * signed
            } else {
                0.0
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let len = 3 * 100 * 100 * 7;
        let logits: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let targets: Vec<f32> = (0..len).map(|i| (i % 5) as f32 / 4.0).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new();
            let pool = pool.num_threads(threads).build().unwrap();
            let (shape, params) = ([3, 100, 100, 7], HeatmapFocalLoss::default());
            let map = Targets::Map(&targets);
            pool.install(|| heatmap_focal_loss(&logits, shape, map, &params, None).unwrap())
        };
        assert_eq!(run(1).to_bits(), run(7).to_bits());
    }

    #[test]
    fn lengths_are_checked() {
        let params = HeatmapFocalLoss::default();
        let run = |logits: &[f32], target: &[f32], gradient: &mut [f32]| {
            let targets = Targets::Map(target);
            heatmap_focal_loss(
                logits,
                [1, 2, 3, 1],
                targets,
                &params,
                Some((1.0, gradient)),
            )
        };
        let (six, five) = ([0.0; 6], [0.0; 5]);
        assert!(run(&six, &six, &mut six.clone()).is_ok());
        let error = run(&six, &five, &mut six.clone()).unwrap_err().to_string();
        assert_eq!(
            error,
            "heatmap_focal_loss: target must be 6 elements, got 5"
        );
        assert!(run(&five, &six, &mut six.clone()).is_err());
        assert!(run(&six, &six, &mut five.clone()).is_err());
    }
}
