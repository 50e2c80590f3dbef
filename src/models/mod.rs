//! Architectures as thin layers over [`ops`](crate::ops): each file reads like its paper.

pub mod bert;
pub mod cornernet;
mod detection;
pub mod fpn;
pub mod hourglass;
pub mod layers;
pub mod resample;
pub mod resnet;
pub mod retinanet;
pub mod saliency;
pub mod transformer;
pub mod vit;

pub use detection::Detection;
