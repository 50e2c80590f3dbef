//! Scratch memory that the caller lends to a raw entry.

use super::Context;
use super::context::driver_error;
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, CudaViewMut, DevicePtr};

/// Alignment in bytes of a workspace and of each piece of it: what the driver's allocator gives.
pub const WORKSPACE_ALIGNMENT: usize = 256;

/// `bytes` rounded up, so that another piece can follow.
pub(super) const fn piece(bytes: usize) -> usize {
    bytes.next_multiple_of(WORKSPACE_ALIGNMENT)
}

/// Checks that a workspace is long enough and aligned.
pub(super) fn check(
    op: &'static str,
    context: &Context,
    workspace: &CudaViewMut<'_, u8>,
    bytes: usize,
) -> Result<()> {
    if workspace.len() < bytes {
        let rule = format!("at least {bytes} bytes");
        return Err(Error::input(op, "workspace", rule, workspace.len()));
    }
    let (address, _guard) = workspace.device_ptr(context.stream());
    if bytes > 0 && !address.is_multiple_of(WORKSPACE_ALIGNMENT as u64) {
        let rule = format!("aligned to {WORKSPACE_ALIGNMENT} bytes");
        return Err(Error::input(op, "workspace", rule, format!("{address:#x}")));
    }
    Ok(())
}

/// A workspace for one call on the context's stream.
pub(super) fn allocate(context: &Context, bytes: usize) -> Result<CudaSlice<u8>> {
    // SAFETY: any bit pattern is a valid `u8`, and kernels write a workspace before they read it.
    // The driver refuses to allocate nothing.
    unsafe { context.stream().alloc(bytes.max(1)) }
        .map_err(driver_error("allocating device memory"))
}
