//! Execution: a launch from its first block to its last.
//!
//! ```text
//! launch    one kernel launch: shape, counters, findings
//! grid      which blocks are resident, and whose turn it is
//! block     what the warps of a block and of a cluster share
//! turn      a warp executes until it waits, ends or has jumped back often
//! group     lanes of a warp that go together, and which of them go next
//! warp      what an instruction may touch while it executes for one warp
//! access    addresses of a warp's lanes, and the places in memory that they mean
//! registers register files of a warp, 32 lanes wide
//! lanes     the loops over 32 lanes, compiled for plain x86-64 and for AVX2
//! step      what an instruction tells the scheduler
//! async_*   what asynchronous operations share: addresses, groups, what the checks learn
//! ```
//!
//! The other modules are instruction families: each decodes the opcodes of its table into closures
//! over register slots.

pub mod access;
pub mod approximate;
pub mod async_access;
pub mod async_copy;
pub mod async_order;
pub mod async_state;
pub mod atomic;
pub mod barrier;
pub mod bits;
pub mod block;
pub mod bulk;
pub mod call;
pub mod cluster;
pub mod collective;
pub mod compare;
pub mod control;
pub mod convert;
pub mod data;
pub mod directed;
pub mod fence;
pub mod float;
pub mod grid;
pub mod group;
pub mod half;
pub mod integer;
pub mod lanes;
pub mod launch;
pub mod load_store;
pub mod matrix;
pub mod mbarrier;
pub mod mma;
pub mod narrow;
pub mod number;
pub mod observe;
pub mod real;
pub mod reduction;
pub mod registers;
pub mod remote;
pub mod rounding;
pub mod runtime;
pub mod select;
pub mod setmaxnreg;
pub mod special;
pub mod step;
pub mod tensor_copy;
pub mod tensor_map_access;
pub mod turn;
pub mod value;
pub mod warp;
pub mod warpgroup;
pub mod wgmma;
