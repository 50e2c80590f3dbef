//! Architectures as thin layers over [`ops`](crate::ops): each file reads like its paper.

pub mod layers;
