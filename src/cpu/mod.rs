//! The CPU backend: a module an op, on slices, over all threads of the current rayon pool.
//!
//! Results do not depend on the number of threads, nor on which vector instructions the processor
//! has. This module knows neither tensors nor the CUDA backend.

mod activation;
pub mod anchor_box_loss;
pub mod anchor_decode;
mod anchors;
pub mod attention;
mod avx2;
pub mod conv2d;
pub mod corner_decode;
pub mod corner_losses;
pub mod corner_pool;
pub mod corner_targets;
pub mod elementwise;
pub mod heatmap_focal_loss;
mod lanes;
pub mod linear;
pub mod match_anchors;
mod math;
pub mod matmul;
pub mod nms;
pub mod norm;
mod order;
pub mod sigmoid_focal_loss;
pub mod soft_nms;
pub mod spatial;
