//! Hand-written CUDA kernels for detection and attention, checked against a CPU reference.
//!
//! - [`ops`]: the ops. One call checks its input and runs on the device where the tensors lie.
//! - [`reference`](mod@reference): the definition of each op, in plain loops: what everything else is
//!   tested against.
//! - [`cuda`]: the raw entries, for those who bring their own buffers, stream and workspace.
//! - [`cpu`]: the same for the processor, on slices.
//! - [`models`]: RetinaNet, CornerNet, Transformer and Vision Transformer over the ops.
//! - [`io`]: tensors in files.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda_absent.rs"]
pub mod cuda;
mod dtype;
mod error;
pub mod io;
pub mod models;
pub mod ops;
pub mod params;
pub mod reference;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use tensor::{Device, Tensor};
