//! State of one launch.

use crate::report::{Counters, Finding};
use crate::sim::{Checks, LaunchConfig};

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
    /// Static and dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Counters.
    pub counters: Counters,
    /// Findings so far.
    pub findings: Vec<Finding>,
    /// Stores, atomics and other effects that another warp could wait for.
    pub effects: u64,
}

impl Launch {
    /// Index of the thread with this number in its block.
    pub fn thread_index(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.config.block;
        [linear % x, linear / x % y, linear / (x * y)]
    }
}
