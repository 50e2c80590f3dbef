//! The CPU backend: a module an op, on slices, over all threads of the current rayon pool.
//!
//! Results do not depend on the number of threads, nor on which vector instructions the processor
//! has. This module knows neither tensors nor the CUDA backend.

mod math;
pub mod nms;
pub mod sigmoid_focal_loss;
pub mod soft_nms;
