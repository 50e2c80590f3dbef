//! What the warps of a block, and of a cluster, share.

use super::async_state::ClusterAsync;
use super::barrier::{BARRIERS, NamedBarrier};
use super::warpgroup::BlockPart;
use crate::checks::SharedRaces;

/// A resident block. Families that keep state for each block have a field here.
#[derive(Debug)]
pub struct Block {
    /// Block index.
    pub index: [u32; 3],
    /// Rank in its cluster.
    pub rank: u32,
    /// Barriers 0 to 15.
    pub barriers: [NamedBarrier; BARRIERS],
    /// Threads that have not ended.
    pub live_threads: u32,
    /// Threads at the start.
    pub threads: u32,
    /// Its warpgroups.
    pub warpgroups: BlockPart,
}

/// The blocks that see each other's shared memory; a single one outside of clusters. Families that
/// keep state for each cluster have a field here.
#[derive(Debug)]
pub struct Cluster {
    /// Blocks by rank.
    pub blocks: Vec<Block>,
    /// Index of the cluster in the grid.
    pub index: [u32; 3],
    /// Detects races in its shared memory, where that is checked.
    pub races: Option<SharedRaces>,
    /// Its mbarriers and its own barrier.
    pub asynchronous: ClusterAsync,
}

impl Block {
    /// A block before its first instruction.
    pub fn new(index: [u32; 3], rank: u32, threads: u32) -> Block {
        Block {
            index,
            rank,
            barriers: [NamedBarrier::default(); BARRIERS],
            live_threads: threads,
            threads,
            warpgroups: BlockPart::default(),
        }
    }
}
