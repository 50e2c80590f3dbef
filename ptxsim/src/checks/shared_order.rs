//! What orders accesses to shared memory: barriers, mbarriers, fences, waits.

use super::access::{Agent, GROUPS_OF_BLOCK};
use super::clock::Knowledge;
use super::record::CopyWait;
use super::shared::SharedRaces;

/// What orders accesses of several agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncId {
    /// A named barrier of the block with this rank; `bar.sync 0` is number 0.
    Barrier {
        /// Rank of the block in its cluster.
        rank: u32,
        /// Number of the barrier.
        id: u32,
    },
    /// The barrier of the cluster.
    Cluster,
    /// The mbarrier at this address of the cluster's shared memory (`rank << 24 | offset`).
    Mbarrier(u32),
}

/// A barrier or mbarrier.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// Released into the phase that is not complete yet.
    pub arriving: Knowledge,
    /// What the latest complete phase gives to those who leave.
    pub completed: Knowledge,
    /// Latest time of a warp among those that arrived, in each of the two.
    pub arriving_time: u32,
    pub completed_time: u32,
    /// Agent of the copies that complete on this mbarrier.
    pub copies: Option<Agent>,
}

/// A warp.
#[derive(Debug, Default)]
pub(super) struct Warp {
    pub knowledge: Knowledge,
    pub floors: Vec<u32>,
    pub sync: u16,
    pub copies: CopyWait,
    /// Knowledge at the latest fence: what relaxed atomics and arrivals release.
    pub at_fence: Option<Box<Knowledge>>,
    /// Read by relaxed atomics and waits: what the next fence acquires.
    pub before_fence: Option<Box<Knowledge>>,
}

impl SharedRaces {
    /// `fence.acq_rel`, `fence.sc` or `membar` by a warp.
    pub fn fence(&mut self, warp: Agent) {
        let index = self.warp_index(warp);
        let state = &mut self.warps[index];
        if let Some(read) = state.before_fence.take() {
            state.knowledge.join(&read);
        }
        state.at_fence = Some(Box::new(state.knowledge.clone()));
        advance(state, warp, 0);
        self.learned(index);
    }

    /// `fence.proxy.async` by a warp: what happened before is visible to the async proxy.
    pub fn proxy_fence(&mut self, warp: Agent) {
        let index = self.warp_index(warp);
        let state = &mut self.warps[index];
        let Knowledge { seen, fenced } = &mut state.knowledge;
        fenced.join(seen);
        advance(state, warp, 0);
    }

    /// `bar.warp.sync` that all running lanes of the warp take part in.
    pub fn warp_sync(&mut self, warp: Agent) {
        let index = self.warp_index(warp);
        self.warps[index].sync = self.warps[index].sync.wrapping_add(1);
    }

    /// The warp arrives: what it knows goes into the phase that is not complete yet.
    pub fn release(&mut self, warp: Agent, id: SyncId) {
        let index = self.warp_index(warp);
        let state = &mut self.warps[index];
        let sync = self.syncs.entry(id).or_default();
        sync.arriving.join(&state.knowledge);
        sync.arriving_time = sync.arriving_time.max(state.knowledge.seen.get(warp));
        advance(state, warp, 0);
    }

    /// As [`SharedRaces::release`] of a relaxed arrival: only what a fence came after.
    pub fn release_relaxed(&mut self, warp: Agent, id: SyncId) {
        let index = self.warp_index(warp);
        if let Some(fenced) = &self.warps[index].at_fence {
            self.syncs.entry(id).or_default().arriving.join(fenced);
        }
    }

    /// As [`SharedRaces::acquire`] of a relaxed wait: only once a fence follows.
    pub fn acquire_relaxed(&mut self, warp: Agent, id: SyncId) {
        let index = self.warp_index(warp);
        if let Some(sync) = self.syncs.get(&id) {
            let read = self.warps[index].before_fence.get_or_insert_default();
            read.join(&sync.completed);
        }
    }

    /// `cp.async.mbarrier.arrive`: the warp's `cp.async` operations so far arrive when they are
    /// done.
    pub fn release_copies(&mut self, warp: Agent, copies: Agent, id: SyncId) {
        let time = self.commit(copies);
        self.release(warp, id);
        let sync = self.syncs.entry(id).or_default();
        sync.arriving.seen.raise(copies, time);
    }

    /// The phase that was arrived at is complete; copies that complete on an mbarrier are done.
    pub fn complete(&mut self, id: SyncId) {
        let sync = self.syncs.entry(id).or_default();
        if matches!(id, SyncId::Mbarrier(_)) {
            sync.completed.join(&sync.arriving);
            sync.arriving.clear();
            if let Some(agent) = sync.copies {
                let time = self.times.entry(agent).or_insert(1);
                sync.completed.seen.raise(agent, *time);
                *time += 1;
            }
        } else {
            std::mem::swap(&mut sync.completed, &mut sync.arriving);
            sync.arriving.clear();
        }
        sync.completed_time = std::mem::take(&mut sync.arriving_time);
    }

    /// The warp leaves after the latest complete phase, before another one completes.
    pub fn acquire(&mut self, warp: Agent, id: SyncId) {
        let index = self.warp_index(warp);
        if let Some(sync) = self.syncs.get(&id) {
            let state = &mut self.warps[index];
            state.knowledge.join(&sync.completed);
            // Warps that meet go on with the same time, so that their reads share records.
            let time = sync.completed_time;
            advance(state, warp, time);
        }
        self.learned(index);
    }

    /// Ends the current group of an agent's asynchronous operations and returns its number.
    pub fn commit(&mut self, agent: Agent) -> u32 {
        let time = self.times.entry(agent).or_insert(1);
        *time += 1;
        *time - 1
    }

    /// The warp waited for the agent's groups up to number `group`.
    pub fn wait(&mut self, warp: Agent, agent: Agent, group: u32) {
        let index = self.warp_index(warp);
        let state = &mut self.warps[index];
        let known = state.knowledge.seen.get(agent);
        if group > known {
            state.knowledge.seen.raise(agent, group);
            if agent.group() == state.copies.group {
                state.copies.after = known;
                state.copies.sync = state.sync;
            }
        }
    }

    /// The warp's lanes are together, and its knowledge has grown.
    pub(super) fn learned(&mut self, index: usize) {
        let warp = &mut self.warps[index];
        warp.sync = warp.sync.wrapping_add(1);
        warp.floors.resize(self.ranks as usize * GROUPS_OF_BLOCK, 0);
        let own_rank = index as u32 / self.warps_per_block;
        let own_warp = index as u32 % self.warps_per_block;
        for rank in 0..self.ranks {
            // The own time is ahead of what others know; own accesses are ordered anyway.
            let others = (0..self.warps_per_block).filter(|&w| rank != own_rank || w != own_warp);
            let known = others.map(|w| warp.knowledge.seen.get(Agent::warp(rank, w)));
            warp.floors[rank as usize * GROUPS_OF_BLOCK] = known.min().unwrap_or(0);
        }
    }
}

/// Moves the warp's own time on, past `time` at least.
pub(super) fn advance(state: &mut Warp, warp: Agent, time: u32) {
    let now = state.knowledge.seen.get(warp);
    state.knowledge.seen.raise(warp, (now + 1).max(time + 1));
}
