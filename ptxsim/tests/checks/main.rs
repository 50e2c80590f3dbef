//! Kernels with a planted mistake, which the checks find at its line, and their correct twins,
//! with which they find nothing.

mod bounds;
mod counters;
mod harness;
mod races;
mod synchronization;
mod uninitialized;
