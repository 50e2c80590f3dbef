//! Files: tensors in the safetensors format, and the weights of models in them.

mod safetensors;
mod weights;

pub use self::safetensors::{TensorFile, write_tensors, write_whole};
pub use weights::Weights;
