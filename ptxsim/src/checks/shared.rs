//! The race detector for the shared memory of a cluster.

use super::access::{Access, Agent, Conflict, GROUP, GROUPS_OF_BLOCK, Kind, LANES};
use super::clock::Knowledge;
use super::granule::Granule;
use super::piece::{GRANULE, Piece, SEVERAL, granules, range_granules};
use super::record::{Checked, Clash, Context, CopyWait};
use crate::memory::SHARED_RANK_SHIFT;
use std::collections::HashMap;

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
struct Sync {
    /// Released into the phase that is not complete yet.
    arriving: Knowledge,
    /// What the latest complete phase gives to those who leave.
    completed: Knowledge,
    /// Latest time of a warp among those that arrived, in each of the two.
    arriving_time: u32,
    completed_time: u32,
    /// Agent of the copies that complete on this mbarrier.
    copies: Option<Agent>,
}

/// A warp.
#[derive(Debug, Default)]
struct Warp {
    knowledge: Knowledge,
    floors: Vec<u32>,
    sync: u16,
    copies: CopyWait,
    /// Knowledge at the latest fence: what relaxed atomics release.
    at_fence: Option<Box<Knowledge>>,
    /// Read by relaxed atomics: what the next fence acquires.
    before_fence: Option<Box<Knowledge>>,
}

/// Happens-before race detector for the shared memory of one block or cluster.
///
/// Addresses are offsets in the cluster's shared memory, `rank << 24 | offset`, already checked to
/// be in bounds; `site`s are PTX lines.
#[derive(Debug)]
pub struct SharedRaces {
    ranks: u32,
    warps_per_block: u32,
    /// Those of rank 0, of rank 1 and so on.
    granules: Vec<Granule>,
    granules_of_block: usize,
    warps: Vec<Warp>,
    /// Current time of each agent that is not a warp, from 1.
    times: HashMap<Agent, u32>,
    syncs: HashMap<SyncId, Sync>,
    /// What atomics released into a word.
    locations: HashMap<u32, Knowledge>,
    next_agent: u16,
}

impl SharedRaces {
    /// A detector for a cluster of `ranks` blocks (1 without clusters), each of `warps_per_block`
    /// warps, at most 32, and `shared_bytes` bytes of shared memory.
    pub fn new(ranks: u32, warps_per_block: u32, shared_bytes: u32) -> SharedRaces {
        let of_block = (shared_bytes as usize).div_ceil(GRANULE);
        let all = of_block * ranks as usize;
        let mut races = SharedRaces {
            ranks,
            warps_per_block,
            granules: std::iter::repeat_with(Granule::default).take(all).collect(),
            granules_of_block: of_block,
            warps: Vec::new(),
            times: HashMap::new(),
            syncs: HashMap::new(),
            locations: HashMap::new(),
            next_agent: 0,
        };
        races.start();
        races
    }

    /// Forgets everything, for the next cluster of the same launch.
    pub fn reset(&mut self) {
        self.granules.iter_mut().for_each(Granule::clear);
        self.times.clear();
        self.syncs.clear();
        self.locations.clear();
        self.start();
    }

    fn start(&mut self) {
        self.next_agent = (self.ranks as usize * GROUPS_OF_BLOCK * GROUP) as u16;
        self.warps = (0..self.ranks * self.warps_per_block)
            .map(|_| Warp::default())
            .collect();
        for rank in 0..self.ranks {
            for warp in 0..self.warps_per_block {
                let agent = Agent::warp(rank, warp);
                let state = &mut self.warps[(rank * self.warps_per_block + warp) as usize];
                state.knowledge.seen.raise(agent, 1);
                state.copies.group = Agent::cp_async(rank, warp).group();
            }
        }
    }

    fn warp_index(&self, warp: Agent) -> usize {
        let rank = warp.index() / (GROUPS_OF_BLOCK * GROUP);
        rank * self.warps_per_block as usize + warp.index() % GROUP
    }

    /// The agent of the copies that complete on the mbarrier at `address`.
    pub fn copies_to(&mut self, address: u32) -> Agent {
        let next = &mut self.next_agent;
        let sync = self.syncs.entry(SyncId::Mbarrier(address)).or_default();
        *sync.copies.get_or_insert_with(|| {
            *next = next.saturating_add(1);
            Agent(*next - 1)
        })
    }

    fn time(&self, agent: Agent) -> u32 {
        if self.times.is_empty() {
            1
        } else {
            self.times.get(&agent).copied().unwrap_or(1)
        }
    }

    /// Records an access of `size` bytes (1 to 16, a power of two) by each lane of `mask`, and
    /// returns the first conflict.
    pub fn access(
        &mut self,
        access: &Access,
        addresses: &[u32; LANES],
        mask: u32,
        size: usize,
    ) -> Option<Conflict> {
        if access.kind.is_atomic() {
            self.synchronise(access, addresses, mask);
        }
        let reads = !access.kind.writes();
        let mut recorder = self.recorder(access);
        granules(addresses, mask, size, reads, |piece| recorder.take(piece));
        let first = recorder.first;
        first.map(|(piece, clash)| self.conflict(access.kind, &piece, &clash))
    }

    /// Records an access to the `len` bytes at `start`.
    pub fn access_range(&mut self, access: &Access, start: u32, len: u32) -> Option<Conflict> {
        let mut recorder = self.recorder(access);
        range_granules(start.into(), len.into(), |piece| recorder.take(piece));
        let first = recorder.first;
        first.map(|(piece, clash)| self.conflict(access.kind, &piece, &clash))
    }

    #[inline]
    fn recorder(&mut self, access: &Access) -> Recorder<'_> {
        let time = self.time(access.agent);
        let index = self.warp_index(access.issuer);
        let warp = &self.warps[index];
        let plain = access.agent == access.issuer;
        let own = warp.knowledge.seen.get(access.issuer);
        let floor = warp
            .floors
            .get(usize::from(access.issuer.group()))
            .copied()
            .unwrap_or(0);
        let context = Context {
            agent: access.agent,
            clock: if plain { own } else { time },
            kind: access.kind,
            proxy: access.proxy,
            site: access.site,
            knowledge: &warp.knowledge,
            floors: &warp.floors,
            plain,
            sync: warp.sync,
            copies: &warp.copies,
            settled_group: access.issuer.group(),
            settled: if plain { floor.min(own - 1) } else { floor },
        };
        Recorder {
            granules: &mut self.granules,
            of_block: self.granules_of_block,
            collective: access.collective,
            context,
            checked: Checked::NONE,
            first: None,
        }
    }

    #[cold]
    fn conflict(&self, kind: Kind, piece: &Piece, clash: &Clash) -> Conflict {
        let first_byte = u64::from(piece.bytes.trailing_zeros());
        Conflict {
            hazard: clash.hazard,
            lane: piece.first_lane.into(),
            address: piece.granule * GRANULE as u64 + first_byte,
            kind,
            earlier: clash.earlier,
            party: self.name(clash.party),
            earlier_site: clash.site,
        }
    }

    fn name(&self, agent: Agent) -> String {
        let group = agent.index() / GROUP;
        let (rank, warp) = (group / GROUPS_OF_BLOCK, agent.index() % GROUP);
        if rank >= self.ranks as usize {
            return "a copy that completes on an mbarrier".to_owned();
        }
        let what = ["", "cp.async of ", "bulk copy of ", "wgmma of "][group % GROUPS_OF_BLOCK];
        match self.ranks {
            1 => format!("{what}warp {warp}"),
            _ => format!("{what}warp {warp} of block rank {rank}"),
        }
    }

    /// Order through the word that an atomic touches, for each lane.
    fn synchronise(&mut self, access: &Access, addresses: &[u32; LANES], mask: u32) {
        let index = self.warp_index(access.issuer);
        let warp = &mut self.warps[index];
        let mut acquired = false;
        for lane in crate::memory::lanes(mask) {
            let word = addresses[lane] & !3;
            if access.kind != Kind::AtomicWrite
                && let Some(released) = self.locations.get(&word)
            {
                if access.acquire {
                    warp.knowledge.join(released);
                    acquired = true;
                } else {
                    warp.before_fence.get_or_insert_default().join(released);
                }
            }
            if access.kind != Kind::AtomicRead {
                let released = if access.release {
                    Some(&warp.knowledge)
                } else {
                    warp.at_fence.as_deref()
                };
                if let Some(released) = released {
                    self.locations.entry(word).or_default().join(released);
                }
            }
        }
        if access.release {
            advance(warp, access.issuer, 0);
        }
        if acquired {
            self.learned(index);
        }
    }

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
    fn learned(&mut self, index: usize) {
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

/// The current access on its way over the granules.
struct Recorder<'a> {
    granules: &'a mut [Granule],
    of_block: usize,
    context: Context<'a>,
    collective: bool,
    checked: Checked,
    first: Option<(Piece, Clash)>,
}

impl Recorder<'_> {
    #[inline(always)]
    fn take(&mut self, mut piece: Piece) {
        const SHIFT: u32 = SHARED_RANK_SHIFT - GRANULE.trailing_zeros();
        let offset = (piece.granule & ((1 << SHIFT) - 1)) as usize;
        let index = (piece.granule >> SHIFT) as usize * self.of_block + offset;
        // Addresses were checked before; a granule out of range would be one of another block.
        if offset >= self.of_block || index >= self.granules.len() {
            return;
        }
        if self.collective {
            piece.lanes = [SEVERAL; 4];
        }
        let clash = self.granules[index].meet(&self.context, &piece, &mut self.checked);
        if let Some(clash) = clash
            && self.first.is_none()
        {
            self.first = Some((piece, clash));
        }
    }
}

/// Moves the warp's own time on, past `time` at least.
fn advance(state: &mut Warp, warp: Agent, time: u32) {
    let now = state.knowledge.seen.get(warp);
    state.knowledge.seen.raise(warp, (now + 1).max(time + 1));
}
