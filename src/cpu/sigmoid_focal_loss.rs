//! Sigmoid focal loss on the CPU: one pass over the logits, vectorised over runs of negatives.

use super::math::focal;
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::SigmoidFocalLoss;
use rayon::prelude::*;

const OP: &str = "sigmoid_focal_loss";
/// Elements of one task: large enough to hide a task's cost, small enough for its slices to stay in
/// L2.
const TASK: usize = 1 << 14;
/// Elements widened to `f32` at a time, 1 KiB on the stack.
const BLOCK: usize = 256;
/// Independent sums: two AVX2 registers, so that additions overlap.
const LANES: usize = 16;

/// The loss alone. See [`ops::sigmoid_focal_loss`](crate::ops::sigmoid_focal_loss).
///
/// # Errors
/// When the lengths do not fit each other.
pub fn forward<T: Float>(
    logits: &[T],
    labels: &[i32],
    classes: usize,
    params: &SigmoidFocalLoss,
) -> Result<f32> {
    check(logits, labels, classes)?;
    let rows = rows_of_task(classes);
    let sums: Vec<f64> = logits
        .par_chunks((rows * classes).max(1))
        .zip(labels.par_chunks(rows))
        .map(|(logits, labels)| Task::new(params, 0.0).run(logits, labels, classes, None))
        .collect();
    Ok(total(&sums, params))
}

/// The loss, and its gradient times `upstream` into `gradient`.
///
/// # Errors
/// When the lengths do not fit each other.
pub fn forward_backward<T: Float>(
    logits: &[T],
    labels: &[i32],
    classes: usize,
    params: &SigmoidFocalLoss,
    upstream: f32,
    gradient: &mut [T],
) -> Result<f32> {
    check(logits, labels, classes)?;
    if gradient.len() != logits.len() {
        let rule = format!("as long as logits ({})", logits.len());
        return Err(Error::input(OP, "gradient", rule, gradient.len()));
    }
    let rows = rows_of_task(classes);
    let elements = (rows * classes).max(1);
    let sums: Vec<f64> = gradient
        .par_chunks_mut(elements)
        .zip(logits.par_chunks(elements))
        .zip(labels.par_chunks(rows))
        .map(|((gradient, logits), labels)| {
            Task::new(params, upstream).run(logits, labels, classes, Some(gradient))
        })
        .collect();
    Ok(total(&sums, params))
}

fn check<T>(logits: &[T], labels: &[i32], classes: usize) -> Result<()> {
    if labels.len().checked_mul(classes) == Some(logits.len()) {
        return Ok(());
    }
    let rule = format!("{} rows of {classes}", labels.len());
    Err(Error::input(
        OP,
        "logits",
        rule,
        format!("{} elements", logits.len()),
    ))
}

fn rows_of_task(classes: usize) -> usize {
    (TASK / classes.max(1)).max(1)
}

/// The sum in task order, whichever thread did which.
fn total(sums: &[f64], params: &SigmoidFocalLoss) -> f32 {
    (sums.iter().sum::<f64>() / f64::from(params.normalizer)) as f32
}

/// What a task needs of the scalars.
#[derive(Clone, Copy)]
struct Task {
    gamma: f32,
    /// Half the label smoothing: what is taken from the right answer's target.
    smoothed: f32,
    positive: Weights,
    negative: Weights,
}

/// Factors of an element's loss and slope.
#[derive(Clone, Copy)]
struct Weights {
    loss: f32,
    slope: f32,
}

impl Task {
    fn new(params: &SigmoidFocalLoss, upstream: f32) -> Self {
        let scale = upstream / params.normalizer;
        Self {
            gamma: params.gamma,
            smoothed: params.label_smoothing / 2.0,
            positive: Weights {
                loss: params.alpha,
                slope: -params.alpha * scale,
            },
            negative: Weights {
                loss: 1.0 - params.alpha,
                slope: (1.0 - params.alpha) * scale,
            },
        }
    }

    /// Sum over the rows, not yet normalised.
    fn run<T: Float>(
        &self,
        logits: &[T],
        labels: &[i32],
        classes: usize,
        mut gradient: Option<&mut [T]>,
    ) -> f64 {
        let mut sum = 0.0;
        // Negatives since the last positive or ignored row, through the ends of rows.
        let mut start = 0;
        for (row, &label) in labels.iter().enumerate() {
            let first = row * classes;
            if label == -1 {
                continue;
            }
            match usize::try_from(label).ok().filter(|&class| class < classes) {
                Some(class) => {
                    let at = first + class;
                    sum += self.negatives(logits, start..at, gradient.as_deref_mut());
                    let (loss, slope) = self.element::<false>(-logits[at].to_f32());
                    sum += f64::from(self.positive.loss * loss);
                    if let Some(gradient) = gradient.as_deref_mut() {
                        gradient[at] = T::from_f32(self.positive.slope * slope);
                    }
                    start = at + 1;
                }
                None => {
                    sum += self.negatives(logits, start..first, gradient.as_deref_mut());
                    start = first + classes;
                    if let Some(gradient) = gradient.as_deref_mut() {
                        gradient[first..start].fill(T::default());
                    }
                }
            }
        }
        sum + self.negatives(logits, start..logits.len(), gradient)
    }

    /// Sum over a run of negatives.
    fn negatives<T: Float>(
        &self,
        logits: &[T],
        run: std::ops::Range<usize>,
        mut gradient: Option<&mut [T]>,
    ) -> f64 {
        let mut block = [0.0; BLOCK];
        let mut sum = 0.0;
        for from in run.clone().step_by(BLOCK) {
            let part = from..run.end.min(from + BLOCK);
            let values = &mut block[..part.len()];
            T::widen(&logits[part.clone()], values);
            sum += f64::from(self.negative.loss * self.replace(values));
            if let Some(gradient) = gradient.as_deref_mut() {
                T::narrow(values, &mut gradient[part]);
            }
        }
        sum
    }

    /// Puts the gradients of negatives in place of their logits and returns the sum of their
    /// unweighted losses.
    fn replace(&self, values: &mut [f32]) -> f32 {
        if self.gamma != 2.0 || self.smoothed != 0.0 {
            return self.replace_lanes::<false>(values);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just found to have AVX2, which is all that the function
            // asks for.
            return unsafe { self.replace_avx2(values) };
        }
        self.replace_lanes::<true>(values)
    }

    /// The same arithmetic in registers twice as wide.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn replace_avx2(&self, values: &mut [f32]) -> f32 {
        self.replace_lanes::<true>(values)
    }

    #[inline(always)]
    fn replace_lanes<const STANDARD: bool>(&self, values: &mut [f32]) -> f32 {
        let mut sums = [0.0; LANES];
        let mut lanes = values.chunks_exact_mut(LANES);
        for lane in &mut lanes {
            for (sum, value) in sums.iter_mut().zip(lane) {
                let (loss, slope) = self.element::<STANDARD>(*value);
                *sum += loss;
                *value = self.negative.slope * slope;
            }
        }
        let mut sum = sums.iter().sum::<f32>();
        for value in lanes.into_remainder() {
            let (loss, slope) = self.element::<STANDARD>(*value);
            sum += loss;
            *value = self.negative.slope * slope;
        }
        sum
    }

    #[inline(always)]
    fn element<const STANDARD: bool>(&self, z: f32) -> (f32, f32) {
        focal::<STANDARD>(z, self.gamma, self.smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.37).sin() * 20.0).collect()
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let logits = logits(3000 * 80);
        let labels: Vec<i32> = (0..3000).map(|row| row % 97 - 2).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| forward(&logits, &labels, 80, &Default::default()).unwrap())
        };
        assert_eq!(run(1).to_bits(), run(7).to_bits());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wider_registers_give_the_same_bits() {
        if !is_x86_feature_detected!("avx2") {
            println!("skipped: the processor has no AVX2");
            return;
        }
        let task = Task::new(&SigmoidFocalLoss::default(), 0.7);
        let (mut narrow, mut wide) = (logits(250), logits(250));
        let sum = task.replace_lanes::<true>(&mut narrow);
        // SAFETY: AVX2 was just found.
        let same = unsafe { task.replace_avx2(&mut wide) };
        assert_eq!((sum.to_bits(), narrow), (same.to_bits(), wide));
    }

    #[test]
    fn lengths_are_checked() {
        let params = SigmoidFocalLoss::default();
        let error = forward(&[0f32; 5], &[-1, -1], 3, &params).unwrap_err();
        let text = "sigmoid_focal_loss: logits must be 2 rows of 3, got 5 elements";
        assert_eq!(error.to_string(), text);
        let mut short = [0f32; 5];
        let wrong = forward_backward(&[0f32; 6], &[-1, -1], 3, &params, 1.0, &mut short);
        assert!(wrong.is_err());
    }
}
