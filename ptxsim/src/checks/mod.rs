//! What is wrong with a kernel, and where.
//!
//! [`SharedRaces`] and [`GlobalRaces`] are happens-before race detectors, for the shared memory of
//! a block or cluster and for global memory between the blocks of a launch. They are told of every
//! access and of every operation that orders accesses, and never look at data. [`Findings`]
//! collects what they and the executor find.
//!
//! *Happens before* is the transitive union of program order within a warp and of each release that
//! an acquire observed: barriers, mbarrier phases, groups of asynchronous operations, atomics with
//! fences. Two accesses of one byte race when neither happens before the other, one writes, and not
//! both are atomic. Because order comes from the operations and not from the interleaving that
//! happened, a race is found in whatever order the simulator ran the warps.
//!
//! Shared memory is recorded by granules of 16 bytes, global memory by lines of 128, both with a
//! mask of their bytes.

mod access;
mod clock;
mod findings;
mod global;
mod global_line;
mod global_order;
mod granule;
mod piece;
mod record;
mod shared;
#[cfg(test)]
mod shared_tests;

pub use access::{Access, Agent, Conflict, Hazard, Kind, Proxy};
pub use findings::{Findings, Place, Sources};
pub use global::GlobalRaces;
pub use shared::{SharedRaces, SyncId};
