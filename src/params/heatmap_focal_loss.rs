//! Scalars of the focal loss of corner heatmaps.

use super::scalar;
use crate::error::Result;

/// Scalars of [heatmap focal loss](crate::ops::heatmap_focal_loss).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatmapFocalLoss {
    /// Focusing exponent, at least 0.
    pub alpha: f32,
    /// Exponent of the penalty reduction around a positive, at least 0. The kernels are fastest with
    /// alpha 2 and beta 4.
    pub beta: f32,
    /// The sum is divided by this, usually the number of positives (1 where there are none). Above 0.
    pub normalizer: f32,
    /// Probabilities are clamped to `[clamp, 1 - clamp]`, and logits beyond get no gradient; 0 for
    /// none. The official code clamps at 1e-4. In `[0, 0.5)`.
    pub clamp: f32,
}

impl Default for HeatmapFocalLoss {
    /// CornerNet's exponents, alpha 2 and beta 4; normalizer 1, no clamp.
    fn default() -> Self {
        Self {
            alpha: 2.0,
            beta: 4.0,
            normalizer: 1.0,
            clamp: 0.0,
        }
    }
}

/// Where the clamp acts, in terms of the probability of the wrong answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Clamp {
    /// The logit beyond which either way the probability is clamped; infinite for no clamp.
    pub bound: f32,
    /// Unweighted loss where the wrong answer is less probable than the clamp.
    pub low: f32,
    /// Unweighted loss where the right answer is.
    pub high: f32,
}

impl HeatmapFocalLoss {
    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        const OP: &str = "heatmap_focal_loss";
        let &Self {
            alpha,
            beta,
            normalizer,
            clamp,
        } = self;
        for (name, exponent) in [("alpha", alpha), ("beta", beta)] {
            let holds = exponent >= 0.0 && exponent.is_finite();
            scalar(OP, name, exponent, "finite and at least 0", holds)?;
        }
        // The reciprocal of a subnormal number would be infinite.
        let normal = normalizer > 0.0 && normalizer.is_normal();
        scalar(OP, "normalizer", normalizer, "finite and above 0", normal)?;
        let holds = (0.0..0.5).contains(&clamp);
        scalar(OP, "clamp", clamp, "in [0, 0.5)", holds)
    }

    pub(crate) fn clamped(&self) -> Clamp {
        let (clamp, alpha) = (f64::from(self.clamp), f64::from(self.alpha));
        if clamp == 0.0 {
            return Clamp {
                bound: f32::INFINITY,
                low: 0.0,
                high: 0.0,
            };
        }
        Clamp {
            bound: ((1.0 - clamp) / clamp).ln() as f32,
            low: (clamp.powf(alpha) * -(-clamp).ln_1p()) as f32,
            high: ((1.0 - clamp).powf(alpha) * -clamp.ln()) as f32,
        }
    }

    /// Whether the exponents are CornerNet's.
    pub(crate) fn is_standard(&self) -> bool {
        self.alpha == 2.0 && self.beta == 4.0
    }
}
