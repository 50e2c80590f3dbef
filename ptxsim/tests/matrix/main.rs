//! Matrix instructions, executed.

mod kernels;
mod mma;
mod mma_rules;
mod moves;
mod support;
mod wgmma;
