//! Scalars, geometry and operands of attention.

mod geometry;
mod layout;
mod operands;

pub use geometry::{Geometry, GradientLayouts};
pub use layout::Layout;
pub use operands::{Mask, Qkv};

use super::scalar;
use crate::error::Result;

const OP: &str = "attention";

/// Scalars of [attention](crate::ops::attention).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Attention {
    /// Multiplies `q . k`. By default `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Whether a query sees no key behind its own place, aligned to the bottom right of the scores: the last query sees
    /// all keys.
    pub causal: bool,
    /// How many keys before its own place a query sees, where given.
    pub window_left: Option<usize>,
    /// How many keys behind its own place a query sees, where given. With `causal` it has no effect.
    pub window_right: Option<usize>,
    /// `cap` of the soft cap `cap * tanh(score / cap)` on the scaled scores; 0 for none.
    pub softcap: f32,
    /// Drops probabilities, where given.
    pub dropout: Option<Dropout>,
}

/// Dropout of probabilities by a counter-based generator: the same places in both directions, on every device.
///
/// The probability of query `i` and key `j`, counted within their sequence, in head `h` of the `H` of sequence `b` is
/// dropped where word `j % 4` of Philox4x32-10 with key `(seed, seed >> 32)` and counter `(j / 4, i, b * H + h, 0)` is
/// below `floor(probability * 2^32)`; what is kept is multiplied by `1 / (1 - probability)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// How likely a probability is dropped. In `[0, 1)`.
    pub probability: f32,
    /// Selects the places.
    pub seed: u64,
}

impl Attention {
    /// Checks each scalar against its range.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(scale) = self.scale {
            scalar(OP, "scale", scale, "finite", scale.is_finite())?;
        }
        let cap = self.softcap;
        // The reciprocal of a subnormal number would be infinite.
        let range = cap == 0.0 || (cap > 0.0 && cap.is_normal());
        scalar(
            OP,
            "softcap",
            cap,
            "finite and above 0, or 0 for none",
            range,
        )?;
        if let Some(Dropout { probability, .. }) = self.dropout {
            let range = (0.0..1.0).contains(&probability);
            scalar(OP, "dropout.probability", probability, "in [0, 1)", range)?;
        }
        Ok(())
    }

    /// What multiplies `q . k`.
    pub(crate) fn scale(&self, head_dim: usize) -> f32 {
        self.scale
            .unwrap_or_else(|| (head_dim as f32).sqrt().recip())
    }

    /// How many keys before and behind its own place a query sees, with `causal` taken in; `None` for all.
    pub(crate) fn window(&self) -> [Option<usize>; 2] {
        let right = if self.causal {
            Some(0)
        } else {
            self.window_right
        };
        [self.window_left, right]
    }
}

impl Dropout {
    /// Words of the generator below this drop.
    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// What kept probabilities are multiplied by.
    pub(crate) fn kept_scale(&self) -> f32 {
        (1.0 - self.probability).recip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_have_ranges() {
        let plain = Attention::default();
        plain.check().unwrap();
        let dropout = |probability| Attention {
            dropout: Some(Dropout {
                probability,
                seed: 1,
            }),
            ..plain
        };
        let wrong = [
            Attention {
                scale: Some(f32::NAN),
                ..plain
            },
            Attention {
                softcap: -1.0,
                ..plain
            },
            Attention {
                softcap: f32::INFINITY,
                ..plain
            },
            dropout(1.0),
            dropout(f32::NAN),
        ];
        for params in wrong {
            assert!(params.check().is_err(), "{params:?}");
        }
        assert_eq!(
            dropout(0.25).dropout.map(|dropout| dropout.threshold()),
            Some(1 << 30)
        );
        assert_eq!(
            Attention {
                causal: true,
                window_right: Some(3),
                ..plain
            }
            .window(),
            [None, Some(0)]
        );
    }
}
