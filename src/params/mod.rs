//! Scalars of the ops, with their defaults and the values they may take.

mod corner_decode;
pub(crate) mod nms;
mod sigmoid_focal_loss;
mod soft_nms;

pub use corner_decode::CornerDecode;
pub use nms::Nms;
pub use sigmoid_focal_loss::SigmoidFocalLoss;
pub use soft_nms::{SoftNms, SoftNmsMethod};

use crate::error::{Error, Result};

/// A scalar must satisfy `holds`, which is false for NaN.
fn scalar(op: &'static str, argument: &str, value: f32, rule: &str, holds: bool) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::input(op, argument, rule, value))
}
