//! Matrix instructions, executed.

mod kernels;
mod mma;
mod moves;
mod support;
mod wgmma;
