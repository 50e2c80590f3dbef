//! Activations as kernels number them.

use crate::params::Activation;

impl Activation {
    /// The number in `kernels/common/activation.cuh`.
    pub(super) fn code(self) -> i32 {
        match self {
            Activation::None => 0,
            Activation::Relu => 1,
            Activation::Gelu => 2,
        }
    }
}
