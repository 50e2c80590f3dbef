//! Scalars of layer norm and group norm.

use super::{Activation, scalar};
use crate::error::{Error, Result};

/// Scalars of a [group norm](crate::ops::group_norm()).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups of neighbouring channels. Divides the channels.
    pub groups: usize,
    /// Added to the variance. Finite, at least 0.
    pub epsilon: f32,
    /// What the result goes through last.
    pub activation: Activation,
}

impl Default for GroupNorm {
    /// 32 groups, an epsilon of 1e-5, no activation.
    fn default() -> Self {
        Self {
            groups: 32,
            epsilon: 1e-5,
            activation: Activation::None,
        }
    }
}

impl GroupNorm {
    /// Checks the scalars for this number of channels.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        const OP: &str = "group_norm";
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            let rule = format!("a divisor of the {channels} channels");
            return Err(Error::input(OP, "groups", rule, self.groups));
        }
        epsilon(OP, self.epsilon)
    }
}

/// What is added to a variance must be finite and at least 0.
pub(crate) fn epsilon(op: &'static str, value: f32) -> Result<()> {
    let range = value >= 0.0 && value.is_finite();
    scalar(op, "epsilon", value, "finite and at least 0", range)
}
