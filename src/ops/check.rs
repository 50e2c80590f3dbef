//! Checks that several ops make, each with the message that its user needs.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Device, ShapeText, Tensor};

/// `argument` must have this shape.
pub(super) fn shape(
    op: &'static str,
    argument: &str,
    tensor: &Tensor,
    rule: &str,
    expected: &[usize],
) -> Result<()> {
    if tensor.shape() == expected {
        return Ok(());
    }
    let rule = format!("{rule} = {}", ShapeText(expected));
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

/// `argument` must be of a float type.
pub(super) fn float(op: &'static str, argument: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype().is_float() {
        return Ok(());
    }
    Err(Error::input(
        op,
        argument,
        "of type f32, f16 or bf16",
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
        format!("on {device}, like the first"),
        tensor.device(),
    ))
}

/// A scalar must satisfy `holds`, which is false for NaN.
pub(super) fn scalar(
    op: &'static str,
    argument: &str,
    value: f32,
    rule: &str,
    holds: bool,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::input(op, argument, rule, value))
}
