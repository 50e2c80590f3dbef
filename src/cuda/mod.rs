//! The CUDA backend: a module an op, each with a pure, printable `Plan` and a raw entry.
//!
//! A raw entry takes device views, the [`Context`] whose stream it launches on, and a workspace of
//! as many bytes as its plan says. It allocates nothing and never waits for the device, so it can
//! be captured in a CUDA graph once [`Context::preload`] has loaded the kernels.
//!
//! This module knows neither tensors nor the CPU backend.

mod activation;
pub mod anchor_box_loss;
pub mod anchor_decode;
mod anchors;
pub mod attention;
mod buffer;
pub mod cast;
mod check;
mod context;
pub mod corner_decode;
pub mod corner_embedding_loss;
mod corner_losses;
pub mod corner_offset_loss;
pub mod corner_pool;
pub mod corner_pool_pair;
pub mod corner_targets;
mod divisor;
pub mod elementwise;
pub mod group_norm;
pub mod heatmap_focal_loss;
mod image;
mod launch;
pub mod layer_norm;
pub mod match_anchors;
pub mod matmul;
pub mod nms;
pub mod sigmoid_focal_loss;
pub mod soft_nms;
mod span;
pub mod spatial;
pub(crate) mod tensor_map;
mod workspace;

pub use buffer::Buffer;
pub use context::{Context, Properties, driver_version};
/// The version of cudarc whose types the raw entries take.
pub use cudarc;
pub use image::{Toolkit, images, toolkit};
pub use launch::{Kernel, Launch};
pub use workspace::WORKSPACE_ALIGNMENT;

/// Every kernel that the host side launches.
pub fn kernels() -> Vec<Kernel> {
    anchor_box_loss::kernels()
        .chain(anchor_decode::kernels())
        .chain(attention::kernels())
        .chain(cast::kernels())
        .chain(corner_decode::kernels())
        .chain(corner_embedding_loss::kernels())
        .chain(corner_offset_loss::kernels())
        .chain(corner_pool::kernels())
        .chain(corner_pool_pair::kernels())
        .chain(corner_targets::kernels())
        .chain(heatmap_focal_loss::kernels())
        .chain(match_anchors::kernels())
        .chain(nms::kernels())
        .chain(elementwise::kernels())
        .chain(group_norm::kernels())
        .chain(layer_norm::kernels())
        .chain(matmul::kernels())
        .chain(spatial::kernels())
        .chain(sigmoid_focal_loss::kernels())
        .chain(soft_nms::kernels())
        .collect()
}
