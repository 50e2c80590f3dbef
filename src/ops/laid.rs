//! Weights laid out for the device that they serve.

use crate::cuda;
use crate::tensor::{Device, Tensor};
use std::sync::Arc;

/// A weight as a backend reads it; `P` is the CPU's form.
#[derive(Debug, Clone)]
pub(super) enum Laid<P> {
    Cpu(Arc<P>),
    Cuda(cuda::Context, Tensor),
}

impl<P> Laid<P> {
    pub(super) fn device(&self) -> Device {
        match self {
            Laid::Cpu(_) => Device::Cpu,
            Laid::Cuda(context, _) => Device::Cuda(context.clone()),
        }
    }
}
