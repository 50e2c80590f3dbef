//! Checks that several ops make, each with the message that its user needs.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Anchors;
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
        format!("on {device}, as the others are"),
        tensor.device(),
    ))
}

/// `levels` must be the `[B, H, W, A * channels]` that a head makes for these anchors, of one type on one device.
/// Returns B and the channels of an anchor, which must be those `expected`, or else follow from the first level.
pub(super) fn head(
    op: &'static str,
    argument: &str,
    levels: &[Tensor],
    anchors: &Anchors,
    expected: Option<[usize; 2]>,
) -> Result<[usize; 2]> {
    let shapes = anchors.levels();
    if levels.len() != shapes.len() {
        let rule = format!("{} levels, as the anchors have", shapes.len());
        return Err(Error::input(op, argument, rule, levels.len()));
    }
    let first = levels[0].shape();
    let per_cell = shapes[0].half_sizes.len();
    let extents = match (expected, first) {
        (Some(extents), _) => extents,
        (None, &[images, _, _, channels]) if channels % per_cell == 0 => {
            [images, channels / per_cell]
        }
        _ => {
            let rule = format!("[B, H, W, {per_cell} * K]");
            return Err(Error::input(op, argument, rule, ShapeText(first)));
        }
    };
    let [images, channels] = extents;
    for (level, of_anchors) in levels.iter().zip(shapes) {
        let [height, width] = of_anchors.grid;
        let channels = of_anchors.half_sizes.len() * channels;
        shape(op, argument, level, &[images, height, width, channels])?;
        dtype(op, argument, level, levels[0].dtype())?;
        device(op, argument, level, &levels[0].device())?;
    }
    Ok(extents)
}
