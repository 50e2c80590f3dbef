//! Architectures as thin layers over [`ops`](crate::ops): each file reads like its paper.

pub mod bert;
pub mod layers;
pub mod transformer;
