//! Execution: a launch from its first block to its last.
//!
//! ```text
//! launch    one kernel launch: counters, findings, the view of global memory
//! block     what the warps of a block and of a cluster share
//! warp      what an instruction may touch while it executes for one warp
//! registers register files of a warp, 32 lanes wide
//! lanes     the loops over 32 lanes, compiled for plain x86-64 and for AVX2
//! step      what an instruction tells the scheduler
//! ```
//!
//! The other modules are instruction families: each decodes the opcodes of its table into closures
//! over register slots.

pub mod approximate;
pub mod barrier;
pub mod bits;
pub mod block;
pub mod collective;
pub mod compare;
pub mod convert;
pub mod data;
pub mod finding;
pub mod float;
pub mod half;
pub mod integer;
pub mod lanes;
pub mod launch;
pub mod number;
pub mod registers;
pub mod rounding;
pub mod step;
pub mod value;
pub mod warp;
