//! The definition of each op: plain loops over slices, sums in `f64`, written from the source that
//! each names.
//!
//! Everything else is tested against it. It is slow, uses nothing else of the crate, and shares no
//! formula with the backends where the mathematics leaves a choice.

mod activation;
mod anchor_box_loss;
mod anchor_decode;
mod anchors;
mod attention;
mod conv2d;
mod corner_decode;
mod corner_losses;
mod corner_pool;
mod corner_targets;
mod elementwise;
mod heatmap_focal_loss;
mod linear;
mod match_anchors;
mod nms;
mod norm;
mod sigmoid_focal_loss;
mod soft_nms;
mod spatial;

pub use activation::{gelu, relu};
pub use anchor_box_loss::{BoxLoss, box_loss, encode_box, giou_loss};
pub use anchor_decode::{AnchorDecode, Candidate, DecodeLevel, anchor_decode};
pub use anchors::{anchors_detectron2, anchors_torchvision, decode_box};
pub use attention::{
    Attention, AttentionGradient, AttentionInputs, AttentionSequences, attention,
    attention_gradient, attention_probabilities, philox4x32,
};
pub use conv2d::{Conv2d, conv2d};
pub use corner_decode::{CornerBox, CornerDecode, CornerMaps, corner_decode};
pub use corner_losses::{offset_loss, pull_and_push};
pub use corner_pool::{Lines, corner_pool, corner_pool_gradient, corner_pool_winners};
pub use corner_targets::{CornerTargets, TargetMaps, corner_targets, gaussian_radius};
pub use elementwise::{add_positions, embedding, normalize_image};
pub use heatmap_focal_loss::{HeatmapFocalLoss, heatmap_focal_loss};
pub use linear::linear;
pub use match_anchors::{AnchorMatch, MatchAnchors, match_anchors};
pub use nms::{Nms, iou, nms};
pub use norm::{group_norm, layer_norm};
pub use sigmoid_focal_loss::{SigmoidFocalLoss, sigmoid_focal_loss};
pub use soft_nms::{SoftNms, SoftNmsDecay, soft_nms};
pub use spatial::{max_pool2d, resize_bilinear, upsample_nearest_add};
