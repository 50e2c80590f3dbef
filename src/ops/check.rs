//! Checks that several ops make, each with the message that its user needs.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Device, ShapeText, Tensor};

/// `argument` must have this shape.
pub(super) fn shape(
    op: &'static str,
    argument: &str,
    tensor: &Tensor,
    expected: &[usize],
) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    let rule = ShapeText(expected).to_string();
    Err(Error::input(op, argument, rule, ShapeText(tensor.shape())))
}

/// `argument` must have this element type.
pub(super) fn dtype(
    op: &'static str,
    argument: &str,
    tensor: &Tensor,
    expected: DType,
) -> Result<()> {
    if tensor.dtype() == expected {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("of type {expected}"),
        tensor.dtype(),
    ))
}

/// `argument` must lie where the op runs.
pub(super) fn device(
    op: &'static str,
    argument: &str,
    tensor: &Tensor,
    device: &Device,
) -> Result<()> {
    if tensor.device() == *device {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        format!("on {device}, as the others are"),
        tensor.device(),
    ))
}
