//! What the property suites share: the devices that they run on.

pub mod device;
#[cfg(feature = "cuda")]
mod simulator;

pub use device::{Target, targets};
