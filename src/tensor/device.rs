//! Where tensors lie.

use crate::cuda;
use crate::error::Result;
use std::fmt;

/// Where a tensor lies, and so where ops on it run.
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    /// The machine's processor and memory.
    Cpu,
    /// One GPU and one stream of it. See [`cuda::Context`].
    Cuda(cuda::Context),
}

impl Device {
    /// The GPU number `ordinal`, with a stream of its own.
    ///
    /// # Errors
    /// The environment family of [`Error`](crate::Error): no driver, no such device, kernels not
    /// built, or kernels that do not fit this GPU.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Device::Cuda(cuda::Context::new(ordinal)?))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(context) => write!(f, "cuda:{}", context.ordinal()),
        }
    }
}
