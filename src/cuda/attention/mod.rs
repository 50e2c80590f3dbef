//! Attention on CUDA: forward and backward.

pub mod backward;
mod buffers;
pub mod forward;
pub mod probabilities;
mod scalars;
mod schedule;
mod warpgroups;

use super::launch::Kernel;

const OP: &str = "attention";

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    forward::kernels()
        .chain(backward::kernels())
        .chain(probabilities::kernels())
}
