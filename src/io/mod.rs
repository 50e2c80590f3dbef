//! Files: tensors in the safetensors format.

mod safetensors;

pub use self::safetensors::{TensorFile, write_tensors};
