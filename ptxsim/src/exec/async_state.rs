//! State of asynchronous operations and of clusters that outlives an instruction.
//!
//! Operations are executed when they are issued. What is kept here serves the rules about their
//! completion, and the waiting.

use std::collections::{HashMap, VecDeque};

use crate::memory::LANES;

/// Asynchronous state of a warp.
#[derive(Debug, Default)]
pub struct WarpAsync {
    /// `cp.async` groups.
    pub copies: Groups,
    /// Bulk groups.
    pub bulk: Groups,
    /// By lane, one more than the phase of the cluster barrier at which it arrived last.
    pub cluster_arrival: [u64; LANES],
}

/// The groups that each lane committed and did not wait for yet, oldest first, by the number under
/// which the race detector knows them.
#[derive(Debug, Default)]
pub struct Groups {
    committed: [VecDeque<u32>; LANES],
}

impl Groups {
    /// The lanes of `mask` committed a group.
    pub fn commit(&mut self, mask: u32, group: u32) {
        for (lane, committed) in self.committed.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                committed.push_back(group);
            }
        }
    }

    /// The lanes of `mask` wait until at most `pending` of their groups are left. The latest group
    /// that is complete for all of them.
    pub fn wait(&mut self, mask: u32, pending: usize) -> Option<u32> {
        let mut complete = None;
        for (lane, committed) in self.committed.iter_mut().enumerate() {
            if mask >> lane & 1 == 0 {
                continue;
            }
            while committed.len() > pending {
                complete = complete.max(committed.pop_front());
            }
        }
        complete
    }
}

/// Asynchronous state of a cluster.
#[derive(Debug, Default)]
pub struct ClusterAsync {
    /// Live mbarriers by shared address, where checks ask for them.
    pub mbarriers: HashMap<u32, MbarrierLife>,
    /// The cluster barrier.
    pub barrier: ClusterBarrier,
}

/// What the checks know of an mbarrier beyond its 64 bits.
#[derive(Debug, Clone, Copy)]
pub struct MbarrierLife {
    /// Phases completed.
    pub phase: u64,
    /// A wait has seen the latest completed phase.
    pub observed: bool,
}

/// `barrier.cluster`.
#[derive(Debug, Default, Clone, Copy)]
pub struct ClusterBarrier {
    /// How often it completed.
    pub phase: u64,
    /// Threads that arrived in this phase and have not ended.
    pub arrived: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_complete_in_order() {
        let mut groups = Groups::default();
        (1..=3).for_each(|group| groups.commit(u32::MAX, group));
        assert_eq!(groups.wait(u32::MAX, 3), None);
        assert_eq!(groups.wait(u32::MAX, 1), Some(2));
        assert_eq!(groups.wait(u32::MAX, 1), None);
        assert_eq!(groups.wait(u32::MAX, 0), Some(3));
    }

    #[test]
    fn lanes_count_their_own_groups() {
        let mut groups = Groups::default();
        groups.commit(0b01, 1);
        groups.commit(0b10, 2);
        assert_eq!(groups.wait(0b01, 0), Some(1));
        assert_eq!(groups.wait(0b01, 0), None);
        assert_eq!(groups.wait(0b11, 0), Some(2));
    }
}
