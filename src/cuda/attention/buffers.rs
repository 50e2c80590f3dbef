//! The buffers of a call: what they must be, and where their layouts start.

use super::OP;
use crate::error::{Error, Result};
use crate::params::attention::Layout;
use cudarc::driver::CudaView;

/// Multiple of bytes that a buffer with a layout starts at.
const ALIGNMENT: u64 = 16;

/// A buffer is there exactly where one is `expected`, and as long.
pub(super) fn check_length(
    argument: &str,
    is: Option<usize>,
    expected: Option<usize>,
) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let text = |length: Option<usize>| match length {
        Some(length) => format!("{length} elements"),
        None => "absent".to_owned(),
    };
    Err(Error::input(OP, argument, text(expected), text(is)))
}

/// A buffer holds all that is laid out in it.
pub(super) fn check_span(
    argument: &str,
    is: usize,
    layout: &Layout,
    extents: [usize; 4],
) -> Result<()> {
    match layout.span(extents) {
        Some(span) if is >= span => Ok(()),
        span => {
            let rule = format!("at least {} elements", span.unwrap_or(usize::MAX));
            Err(Error::input(OP, argument, rule, is))
        }
    }
}

/// A buffer starts where 16-byte loads can.
pub(super) fn check_alignment(argument: &str, address: u64) -> Result<()> {
    if address.is_multiple_of(ALIGNMENT) {
        return Ok(());
    }
    let rule = format!("aligned to {ALIGNMENT} bytes");
    Err(Error::input(OP, argument, rule, format!("{address:#x}")))
}

/// The part of a buffer that its layout starts at; an empty one for no elements at all.
pub(super) fn from_offset<'a, T>(view: &'a CudaView<'_, T>, layout: &Layout) -> CudaView<'a, T> {
    view.slice(layout.offset.min(view.len())..)
}
