//! Scalars of the ops, with their defaults and the values they may take.

mod activation;
mod anchor_box_loss;
pub(crate) mod anchor_decode;
pub(crate) mod anchors;
pub mod attention;
mod conv2d;
mod corner_decode;
mod corner_embedding_loss;
mod corner_offset_loss;
mod corner_pool;
pub(crate) mod corner_targets;
mod heatmap_focal_loss;
mod match_anchors;
pub(crate) mod nms;
pub(crate) mod norm;
mod sigmoid_focal_loss;
mod soft_nms;
mod spatial;

pub use activation::Activation;
pub use anchor_box_loss::{AnchorBoxLoss, BoxLoss};
pub use anchor_decode::AnchorDecode;
pub use anchors::{AnchorLevel, Anchors, torchvision_half_sizes};
pub use attention::Attention;
pub use conv2d::Conv2d;
pub use corner_decode::CornerDecode;
pub use corner_embedding_loss::CornerEmbeddingLoss;
pub use corner_offset_loss::CornerOffsetLoss;
pub use corner_pool::{Corner, Direction, Layout, Scan};
pub use corner_targets::CornerTargets;
pub(crate) use heatmap_focal_loss::Clamp;
pub use heatmap_focal_loss::HeatmapFocalLoss;
pub use match_anchors::MatchAnchors;
pub use nms::Nms;
pub use norm::GroupNorm;
pub use sigmoid_focal_loss::SigmoidFocalLoss;
pub use soft_nms::{SoftNms, SoftNmsMethod};
pub use spatial::{MaxPool2d, ResizeBilinear};

use crate::error::{Error, Result};

/// A scalar must satisfy `holds`, which is false for NaN.
fn scalar(op: &'static str, argument: &str, value: f32, rule: &str, holds: bool) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::input(op, argument, rule, value))
}
