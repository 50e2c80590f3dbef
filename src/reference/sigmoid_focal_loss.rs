//! Sigmoid focal loss (Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5).

/// Scalars of the loss.
#[derive(Debug, Clone, Copy)]
pub struct SigmoidFocalLoss {
    /// Weight of positives; negatives weigh `1 - alpha`.
    pub alpha: f64,
    /// Focusing exponent.
    pub gamma: f64,
    /// A positive's target is `1 - label_smoothing / 2`, a negative's `label_smoothing / 2`.
    pub label_smoothing: f64,
    /// Divides the sum.
    pub normalizer: f64,
    /// Gradient of the loss that arrives from above.
    pub upstream: f64,
}

/// Loss and gradient with respect to `logits`, a matrix of as many rows as `labels`.
///
/// A label in `0..classes` makes that class positive and the row's others negative, -1 makes all
/// negative, and any other leaves the row out.
pub fn sigmoid_focal_loss(
    logits: &[f64],
    labels: &[i32],
    classes: usize,
    scalars: &SigmoidFocalLoss,
) -> (f64, Vec<f64>) {
    let mut loss = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for (row, &label) in labels.iter().enumerate() {
        if label < -1 || label >= classes as i32 {
            continue;
        }
        for class in 0..classes {
            let at = row * classes + class;
            let positive = label == class as i32;
            let (term, slope) = element(logits[at], positive, scalars);
            loss += term / scalars.normalizer;
            gradient[at] = slope * scalars.upstream / scalars.normalizer;
        }
    }
    (loss, gradient)
}

/// Loss of one logit `x` and its derivative.
///
/// With `p` the probability of the wrong answer, the loss is `w * p^gamma * H`, where `H` is the
/// cross-entropy of the target and the sigmoid of `x`. By the product rule, with `p' = p (1 - p)`
/// in the direction of the wrong answer, the derivative in that direction is `w * (gamma p^gamma (1
/// - p) H + p^gamma (p - e))`, `e` being what smoothing takes from the target.
fn element(x: f64, positive: bool, scalars: &SigmoidFocalLoss) -> (f64, f64) {
    let (weight, towards_wrong) = if positive {
        (scalars.alpha, -1.0)
    } else {
        (1.0 - scalars.alpha, 1.0)
    };
    let z = towards_wrong * x;
    let wrong = sigmoid(z);
    let right = sigmoid(-z);
    let smoothed = scalars.label_smoothing / 2.0;
    let entropy = minus_log_sigmoid(-z) - if smoothed == 0.0 { 0.0 } else { smoothed * z };
    let focus = wrong.powf(scalars.gamma);
    // (1 - p) H tends to 0 as z grows: the exponential wins over the logarithm.
    let pull = if right == 0.0 {
        0.0
    } else {
        scalars.gamma * right * entropy
    };
    let slope = weight * focus * (pull + wrong - smoothed);
    (weight * focus * entropy, towards_wrong * slope)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `-ln(sigmoid(x))`.
fn minus_log_sigmoid(x: f64) -> f64 {
    // Below, exp(-x) overflows an f64, and the 1 beside it was lost long before.
    if x < -700.0 { -x } else { (-x).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SigmoidFocalLoss = SigmoidFocalLoss {
        alpha: 0.25,
        gamma: 2.0,
        label_smoothing: 0.0,
        normalizer: 1.0,
        upstream: 1.0,
    };
    const POINTS: [f64; 9] = [-90.0, -17.0, -3.0, -0.1, 0.0, 0.7, 2.5, 20.0, 90.0];

    #[test]
    fn without_focusing_it_is_half_the_binary_cross_entropy() {
        let scalars = SigmoidFocalLoss {
            alpha: 0.5,
            gamma: 0.0,
            ..PLAIN
        };
        for x in POINTS {
            let (loss, _) = sigmoid_focal_loss(&[x, x], &[0], 2, &scalars);
            let entropy = -0.5 * sigmoid(x).ln() - 0.5 * sigmoid(-x).ln();
            assert!(
                (loss - entropy).abs() <= 1e-12 * entropy,
                "{x}: {loss} {entropy}"
            );
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for (gamma, label_smoothing) in [(0.0, 0.0), (0.5, 0.0), (2.0, 0.0), (2.0, 0.1), (3.5, 0.3)]
        {
            let scalars = SigmoidFocalLoss {
                gamma,
                label_smoothing,
                normalizer: 3.0,
                ..PLAIN
            };
            for (x, label) in POINTS.into_iter().flat_map(|x| [(x, 0), (x, -1)]) {
                let at = |x: f64| sigmoid_focal_loss(&[x], &[label], 1, &scalars).0;
                let h = 1e-5;
                let slope = (at(x + h) - at(x - h)) / (2.0 * h);
                let (_, gradient) = sigmoid_focal_loss(&[x], &[label], 1, &scalars);
                let error = (gradient[0] - slope).abs();
                assert!(
                    error <= 1e-6 * slope.abs() + 1e-9,
                    "{x} {label}: {gradient:?} {slope}"
                );
            }
        }
    }

    #[test]
    fn a_positive_at_x_is_a_negative_at_minus_x() {
        let scalars = SigmoidFocalLoss {
            alpha: 0.5,
            ..PLAIN
        };
        for x in POINTS {
            let (positive, up) = sigmoid_focal_loss(&[x], &[0], 1, &scalars);
            let (negative, down) = sigmoid_focal_loss(&[-x], &[-1], 1, &scalars);
            assert_eq!((positive, up[0]), (negative, -down[0]));
        }
    }

    #[test]
    fn rows_with_other_labels_are_left_out() {
        for label in [-2, -3, i32::MIN, 2, i32::MAX] {
            let (loss, gradient) = sigmoid_focal_loss(&[f64::NAN, 1.0], &[label], 2, &PLAIN);
            assert_eq!((loss, gradient), (0.0, vec![0.0, 0.0]));
        }
    }

    #[test]
    fn infinite_logits_give_the_limits() {
        let (loss, gradient) = sigmoid_focal_loss(&[f64::INFINITY], &[-1], 1, &PLAIN);
        assert_eq!((loss, gradient[0]), (f64::INFINITY, 0.75));
        let (loss, gradient) = sigmoid_focal_loss(&[f64::NEG_INFINITY], &[-1], 1, &PLAIN);
        assert_eq!((loss, gradient[0]), (0.0, 0.0));
    }
}
