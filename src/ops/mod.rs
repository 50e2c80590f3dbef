//! The ops: each checks its arguments, returns early where there is nothing to do, and runs on the
//! device of its tensors.

mod anchor_box_loss;
mod anchor_decode;
mod attention;
mod check;
mod conv2d;
mod corner_decode;
mod corner_embedding_loss;
mod corner_offset_loss;
mod corner_pool;
mod corner_targets;
mod elementwise;
mod heatmap_focal_loss;
mod laid;
mod linear;
mod match_anchors;
mod nms;
mod norm;
mod sigmoid_focal_loss;
mod soft_nms;
mod spatial;

pub use anchor_box_loss::{BoxTargets, anchor_box_loss, anchor_box_loss_with_gradient};
pub use anchor_decode::{Candidates, anchor_decode};
pub use attention::{
    Attended, AttentionGradient, AttentionMask, Sequences, Upstream, attention, attention_backward,
    attention_probabilities,
};
pub use conv2d::{Conv2dWeight, conv2d};
pub use corner_decode::{CornerBoxes, CornerMaps, corner_decode};
pub use corner_embedding_loss::{corner_embedding_loss, corner_embedding_loss_with_gradient};
pub use corner_offset_loss::{corner_offset_loss, corner_offset_loss_with_gradient};
pub use corner_pool::{
    PairBits, corner_pool, corner_pool_backward, corner_pool_pair, corner_pool_pair_backward,
    corner_pool_pair_with_bits, corner_pool_with_bits,
};
pub use corner_targets::{TargetMaps, corner_targets};
pub use elementwise::{activation, add_positions, embedding, normalize_image};
pub use heatmap_focal_loss::{
    HeatmapTargets, heatmap_focal_loss, heatmap_focal_loss_with_gradient,
};
pub use linear::{LinearWeight, linear};
pub use match_anchors::{Matches, match_anchors};
pub use nms::{Kept, nms};
pub use norm::{group_norm, layer_norm};
pub use sigmoid_focal_loss::{sigmoid_focal_loss, sigmoid_focal_loss_with_gradient};
pub use soft_nms::{SoftKept, soft_nms};
pub use spatial::{max_pool2d, resize_bilinear, upsample_nearest_add};

/// Runs the arm of `$device`. Without the feature `cuda` no context exists, and its arm is not
/// compiled.
macro_rules! on_device {
    ($device:expr, cpu => $cpu:expr, cuda($context:ident) => $cuda:expr $(,)?) => {
        match $device {
            crate::Device::Cpu => $cpu,
            #[cfg(feature = "cuda")]
            crate::Device::Cuda($context) => $cuda,
            #[cfg(not(feature = "cuda"))]
            crate::Device::Cuda($context) => match *$context {},
        }
    };
}

/// Runs `$body` with the type `$T` standing for the float type of `$tensor`; an integer tensor is
/// an error.
macro_rules! with_float {
    ($op:expr, $argument:expr, $tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            crate::DType::F32 => {
                type $T = f32;
                $body
            }
            crate::DType::F16 => {
                type $T = half::f16;
                $body
            }
            crate::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            dtype => Err(crate::Error::input(
                $op,
                $argument,
                "of type f32, f16 or bf16",
                dtype,
            )),
        }
    };
}

use {on_device, with_float};
