//! Tools for property tests against [`reference`](mod@crate::reference): for this crate's tests,
//! and for those of people who write kernels of their own.
//!
//! - [`budget`]: how far a result may lie from the exact one.
//! - [`compare`]: comparisons that NaN fails, element by element.
//! - [`guard`]: output buffers that show what was not written, and what should not have been.
//! - [`strategy`]: sizes and data on which kernels go wrong.
//! - `tensor_map`, with the feature `cuda`: what the kernels for compute capability 9.0 copy by.

pub mod budget;
pub mod compare;
pub mod guard;
pub mod strategy;

/// Tensor maps: by them the copy engine of compute capability 9.0 finds boxes of a tensor.
#[cfg(feature = "cuda")]
pub mod tensor_map {
    pub use crate::cuda::tensor_map::{Tensor, TensorMap};
}
