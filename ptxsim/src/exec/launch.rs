//! State of one launch.

use super::runtime::Heap;
use crate::checks::{Findings, GlobalRaces};
use crate::ptx::ast::Directives;
use crate::report::Counters;
use crate::sim::{Checks, LaunchConfig};
use std::sync::Arc;

/// State of one launch, shared by all its blocks.
#[derive(Debug)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: String,
    /// Its shape.
    pub config: LaunchConfig,
    /// Which checks run.
    pub checks: Checks,
    /// Bytes of local memory of a thread.
    pub local_stride: u32,
    /// Shared memory of a block in bytes: reserved, static and dynamic.
    pub shared_bytes: u32,
    /// The first of these bytes, which are the system's.
    pub reserved_shared: u32,
    /// Counters.
    pub counters: Counters,
    /// Findings so far.
    pub findings: Findings,
    /// Detects races in global memory, where that is checked.
    pub global_races: Option<GlobalRaces>,
    /// The kernel's launch bounds.
    pub directives: Directives,
    /// What `printf` wrote.
    pub printed: String,
    /// What `malloc` allocates from, where the module calls it.
    pub heap: Option<Arc<Heap>>,
    /// Address of what the blocks of a cooperative grid synchronise through, 0 for other grids.
    pub grid_workspace: u64,
    /// Stores, atomics and other effects that another warp could wait for.
    pub effects: u64,
}

impl Launch {
    /// Index of the thread with this number in its block.
    pub fn thread_index(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.config.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    /// Number of a block in the grid.
    pub fn block_number(&self, index: [u32; 3]) -> u32 {
        let [width, height, _] = self.config.grid;
        index[0] + width * (index[1] + height * index[2])
    }
}
