//! What launches check before anything is queued.

use super::Context;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use cudarc::driver::DevicePtr;

/// The one of three that is for a float type: f32, f16, bf16. `argument` has that type.
pub(super) fn of_dtype<V: Copy>(
    op: &'static str,
    argument: &str,
    [single, half, brain]: [V; 3],
    dtype: DType,
) -> Result<V> {
    match dtype {
        DType::F32 => Ok(single),
        DType::F16 => Ok(half),
        DType::BF16 => Ok(brain),
        DType::I32 => {
            let rule = "of type f32, f16 or bf16";
            Err(Error::input(op, argument, rule, dtype))
        }
    }
}

/// Buffers of `T` must be of the type that was planned for.
pub(super) fn planned_dtype<T: Float>(
    op: &'static str,
    argument: &str,
    planned: DType,
) -> Result<()> {
    if T::DTYPE == planned {
        return Ok(());
    }
    let rule = format!("of the plan's type {planned}");
    Err(Error::input(op, argument, rule, T::DTYPE))
}

/// A buffer must have its length.
pub(super) fn length(op: &'static str, argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let rule = format!("{expected} elements");
    Err(Error::input(op, argument, rule, is))
}

/// Each buffer must have its length: (argument, is, expected).
pub(super) fn lengths(op: &'static str, lengths: &[(&str, usize, usize)]) -> Result<()> {
    let mut lengths = lengths.iter();
    lengths.try_for_each(|&(argument, is, expected)| length(op, argument, is, expected))
}

/// Each buffer that was given must have its length.
pub(super) fn given_lengths(
    op: &'static str,
    lengths: &[(&str, Option<usize>, usize)],
) -> Result<()> {
    let mut lengths = lengths.iter();
    lengths.try_for_each(|&(argument, is, expected)| {
        length(op, argument, is.unwrap_or(expected), expected)
    })
}

/// Boxes are read 16 bytes at a time.
pub(super) fn boxes_aligned(
    op: &'static str,
    context: &Context,
    boxes: &impl DevicePtr<f32>,
) -> Result<()> {
    let (address, _guard) = boxes.device_ptr(context.stream());
    if address.is_multiple_of(16) {
        return Ok(());
    }
    let is = format!("{address:#x}");
    Err(Error::input(op, "boxes", "aligned to 16 bytes", is))
}

/// Extents that a kernel counts in 31 bits, with room for a block beyond.
pub(super) fn limited(op: &'static str, extents: &[(&str, usize)]) -> Result<()> {
    const LIMIT: usize = (1 << 31) - 4096;
    for &(argument, extent) in extents {
        if extent > LIMIT {
            let rule = format!("at most {LIMIT}");
            return Err(Error::input(op, argument, rule, extent));
        }
    }
    Ok(())
}
