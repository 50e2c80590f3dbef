//! What is launched, and how.

use super::context::Properties;
use super::image;
use cudarc::driver::{CudaView, LaunchArgs, LaunchConfig, PushKernelArg};
use std::fmt;

/// A kernel: the image that holds it and its `extern "C"` symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Path of the `.cu` file below `kernels/`, without its extension.
    pub image: &'static str,
    /// Symbol, `<op>_<stage>_<dtype>`.
    pub symbol: &'static str,
}

impl Kernel {
    /// Whether the GPU runs it, and this build has it: a file whose name ends in `_sm90` is code for compute capability
    /// 9.0 exactly, and is left out of builds for others.
    pub(super) fn suits(&self, gpu: &Properties) -> bool {
        !self.image.ends_with("_sm90")
            || (gpu.compute_capability == (9, 0) && image::is_built(self.image))
    }
}

/// One launch: a kernel and its extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

impl Launch {
    /// The extents as cudarc takes them.
    pub(super) fn config(&self) -> LaunchConfig {
        LaunchConfig {
            grid_dim: self.grid.into(),
            block_dim: self.block.into(),
            shared_mem_bytes: self.shared_bytes,
        }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} <<<{:?}, {:?}, {} B>>>",
            self.kernel.symbol, self.grid, self.block, self.shared_bytes
        )
    }
}

/// The address that a kernel takes for an input it was not given.
static NULL: u64 = 0;

/// Arguments that may be absent.
pub(super) trait OptionalArgument<'a> {
    /// Pushes the view, or a null pointer.
    fn optional<T>(&mut self, view: &'a Option<CudaView<'_, T>>) -> &mut Self;
}

impl<'a> OptionalArgument<'a> for LaunchArgs<'a> {
    fn optional<T>(&mut self, view: &'a Option<CudaView<'_, T>>) -> &mut Self {
        match view {
            Some(view) => self.arg(view),
            None => self.arg(&NULL),
        }
    }
}
