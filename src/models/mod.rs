//! Architectures as thin layers over [`ops`](crate::ops): each file reads like its paper.

mod detection;
pub mod fpn;
pub mod layers;
pub mod resnet;
pub mod retinanet;

pub use detection::Detection;
