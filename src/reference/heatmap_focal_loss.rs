//! Penalty-reduced focal loss (Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints",
//! 2018, equation 1).

/// Scalars of the loss.
#[derive(Debug, Clone, Copy)]
pub struct HeatmapFocalLoss {
    /// Focusing exponent.
    pub alpha: f64,
    /// Exponent of the penalty reduction.
    pub beta: f64,
    /// Divides the sum.
    pub normalizer: f64,
    /// Probabilities are clamped to `[clamp, 1 - clamp]`; 0 for none.
    pub clamp: f64,
    /// Gradient of the loss that arrives from above.
    pub upstream: f64,
}

/// Loss and gradient with respect to `logits`, one a target.
///
/// With `p` the sigmoid of the logit and `y` its target, the loss is `-(1 - p)^alpha ln p` where `y` is
/// 1 and `-(1 - y)^beta p^alpha ln(1 - p)` where it is less. Any other target leaves its logit out.
pub fn heatmap_focal_loss(
    logits: &[f64],
    targets: &[f64],
    scalars: &HeatmapFocalLoss,
) -> (f64, Vec<f64>) {
    let mut loss = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for ((&x, &y), slot) in logits.iter().zip(targets).zip(&mut gradient) {
        let (term, slope) = if y == 1.0 {
            // The probability of the wrong answer is that of minus the logit.
            let (term, slope) = wrong_answer(-x, scalars);
            (term, -slope)
        } else if y < 1.0 {
            let (term, slope) = wrong_answer(x, scalars);
            let weight = (1.0 - y).powf(scalars.beta);
            (weight * term, weight * slope)
        } else {
            continue;
        };
        loss += term / scalars.normalizer;
        *slot = slope * scalars.upstream / scalars.normalizer;
    }
    (loss, gradient)
}

/// `-p^alpha ln(1 - p)` of `p = sigmoid(z)`, clamped, and its derivative, which the clamp stops.
fn wrong_answer(z: f64, scalars: &HeatmapFocalLoss) -> (f64, f64) {
    let (alpha, clamp) = (scalars.alpha, scalars.clamp);
    let p = 1.0 / (1.0 + (-z).exp());
    if p < clamp || p > 1.0 - clamp {
        let p = p.clamp(clamp, 1.0 - clamp);
        return (-p.powf(alpha) * (1.0 - p).ln(), 0.0);
    }
    // -ln(1 - p) = ln(1 + e^z), which is z where e^z overflows.
    let entropy = if z > 700.0 { z } else { z.exp().ln_1p() };
    let right = 1.0 / (1.0 + z.exp());
    // (1 - p) ln(1 - p) tends to 0: the probability wins over the logarithm.
    let pull = if right == 0.0 {
        0.0
    } else {
        alpha * right * entropy
    };
    let focus = p.powf(alpha);
    (focus * entropy, focus * (pull + p))
}

#[cfg(test)]
mod tests {
    use super::super::{SigmoidFocalLoss, sigmoid_focal_loss};
    use super::*;

    const PLAIN: HeatmapFocalLoss = HeatmapFocalLoss {
        alpha: 2.0,
        beta: 4.0,
        normalizer: 1.0,
        clamp: 0.0,
        upstream: 1.0,
    };
    const POINTS: [f64; 8] = [-90.0, -9.5, -3.0, -0.1, 0.7, 2.5, 9.4, 90.0];

    #[test]
    fn without_reduction_it_is_twice_the_focal_loss_of_even_weights() {
        let even = SigmoidFocalLoss {
            alpha: 0.5,
            gamma: 2.0,
            label_smoothing: 0.0,
            normalizer: 1.0,
            upstream: 1.0,
        };
        for x in POINTS {
            let (here, slopes) = heatmap_focal_loss(&[x, x], &[1.0, 0.0], &PLAIN);
            let (there, others) = sigmoid_focal_loss(&[x, x], &[0], 2, &even);
            assert!((here - 2.0 * there).abs() <= 1e-12 * here);
            for (slope, other) in slopes.iter().zip(others) {
                assert!((slope - 2.0 * other).abs() <= 1e-12 * slope.abs());
            }
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        for (alpha, beta, clamp) in [(2.0, 4.0, 0.0), (2.0, 4.0, 1e-4), (1.5, 0.5, 0.01)] {
            let scalars = HeatmapFocalLoss {
                alpha,
                beta,
                clamp,
                normalizer: 3.0,
                ..PLAIN
            };
            for (x, y) in POINTS
                .into_iter()
                .flat_map(|x| [(x, 1.0), (x, 0.4), (x, 0.0)])
            {
                let at = |x: f64| heatmap_focal_loss(&[x], &[y], &scalars).0;
                let slope = (at(x + 1e-5) - at(x - 1e-5)) / 2e-5;
                let (_, gradient) = heatmap_focal_loss(&[x], &[y], &scalars);
                let error = (gradient[0] - slope).abs();
                assert!(
                    error <= 1e-6 * slope.abs() + 1e-9,
                    "{x} {y}: {gradient:?} {slope}"
                );
            }
        }
    }

    #[test]
    fn a_cell_next_to_a_positive_counts_less() {
        let loss = |y| heatmap_focal_loss(&[0.3], &[y], &PLAIN).0;
        assert!(loss(0.9) < loss(0.5) && loss(0.5) < loss(0.0));
        assert!((loss(0.5) * 16.0 - loss(0.0)).abs() < 1e-15);
    }

    #[test]
    fn other_targets_are_left_out() {
        for y in [1.5, f64::NAN, f64::INFINITY] {
            let (loss, gradient) = heatmap_focal_loss(&[f64::NAN], &[y], &PLAIN);
            assert_eq!((loss, gradient), (0.0, vec![0.0]));
        }
    }

    #[test]
    fn a_clamp_bounds_the_loss_and_stops_the_gradient() {
        let scalars = HeatmapFocalLoss {
            clamp: 1e-4,
            ..PLAIN
        };
        let (loss, gradient) = heatmap_focal_loss(&[-50.0], &[1.0], &scalars);
        let expected = -(1.0 - 1e-4f64).powi(2) * 1e-4f64.ln();
        assert!((loss - expected).abs() < 1e-12);
        assert_eq!(gradient, [0.0]);
    }
}
