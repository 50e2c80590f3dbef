//! Scratch memory that the caller lends to a raw entry.

use super::Context;
use crate::error::{Error, Result};
use cudarc::driver::{CudaViewMut, DevicePtr};

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
    if bytes > 0 && address % WORKSPACE_ALIGNMENT as u64 != 0 {
        let rule = format!("aligned to {WORKSPACE_ALIGNMENT} bytes");
        return Err(Error::input(op, "workspace", rule, format!("{address:#x}")));
    }
    Ok(())
}

/// Checks that a view of a raw entry holds at least `needed` elements.
pub(super) fn check_len(op: &'static str, argument: &str, len: usize, needed: usize) -> Result<()> {
    if len >= needed {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("at least {needed} elements"),
        len,
    ))
}
