//! The CPU backend: a module an op, on slices, over all threads of the current rayon pool.
//!
//! Results do not depend on the number of threads. This module knows neither tensors nor the CUDA backend.

pub mod nms;
