//! The property suite of each op, on the CPU and on one CUDA device.
//!
//! One program, because a process settles on one CUDA driver. See [`device`] for how the device is
//! chosen. `--cfg with_models` takes in the tests of the models, for the GPU bundle.

mod device;
#[cfg(feature = "cuda")]
mod simulator;

mod anchor_box_loss;
mod anchor_decode;
mod attention;
mod cast;
mod corner_decode;
mod corner_losses;
mod corner_pool;
mod corner_targets;
mod dense;
mod heatmap_focal_loss;
#[cfg(feature = "cuda")]
mod hopper;
mod match_anchors;
mod matmul;
#[cfg(with_models)]
#[path = "../models/suite/mod.rs"]
mod models;
mod nms;
mod sigmoid_focal_loss;
mod soft_nms;
