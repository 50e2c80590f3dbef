//! Matrix instructions, executed.

mod mma;
mod moves;
mod support;
