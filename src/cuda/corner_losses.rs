//! What the two losses of corners share: a block an image, then one block that adds their sums.

use super::Context;
use super::context::driver_error;
use super::launch::{Kernel, Launch};
use crate::error::{Error, Result};
use crate::params::corner_targets::MAX_BOXES;
use cudarc::driver::{CudaViewMut, PushKernelArg};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Images of a batch, and cells of its maps, are numbered within this.
const MAX_CELLS: usize = (1 << 31) - 1;

/// Extents of a batch: images, cells and boxes of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// B.
    pub images: usize,
    /// H * W.
    pub cells: usize,
    /// M.
    pub boxes: usize,
}

impl Extents {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let limits = [
            ("H * W", self.cells, MAX_CELLS),
            ("M", self.boxes, MAX_BOXES),
            ("B", self.images, MAX_CELLS / MAX_BOXES),
        ];
        for (argument, is, most) in limits {
            if is > most {
                return Err(Error::input(op, argument, format!("at most {most}"), is));
            }
        }
        Ok(())
    }
}

/// A launch of an image a block, and of the one block that adds up.
pub(super) fn launches(
    image: &'static str,
    symbols: [&'static str; 2],
    images: usize,
) -> [Launch; 2] {
    let launch = |symbol, blocks, threads| Launch {
        kernel: Kernel { image, symbol },
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
    };
    [
        launch(symbols[0], images as u32, THREADS),
        launch(symbols[1], 1, 32),
    ]
}

/// Queues the launch that adds the sums of the images, which the workspace holds in f64, into the losses.
pub(super) fn queue_finish(
    context: &Context,
    finish: &Launch,
    images: usize,
    workspace: &mut CudaViewMut<'_, u8>,
    losses: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let function = context.function_for(finish)?;
    let mut builder = context.stream().launch_builder(&function);
    let images = images as i32;
    builder.arg(&images).arg(workspace).arg(losses);
    // SAFETY: the kernel takes (int, const double*, float*); it reads a sum a loss and image, which the
    // caller checked the workspace to hold, and writes the losses, which the caller checked to be there.
    unsafe { builder.launch(finish.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}
