//! Architectures as thin layers over [`ops`](crate::ops): each file reads like its paper.

pub mod bert;
pub mod cornernet;
mod detection;
pub mod fpn;
pub mod hourglass;
pub mod layers;
pub mod resnet;
pub mod retinanet;
pub mod transformer;

pub use detection::Detection;
