//! Attention on CUDA: forward and backward.

pub mod backward;
mod buffers;
mod scalars;

use super::launch::Kernel;

const OP: &str = "attention";

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    backward::kernels()
}
