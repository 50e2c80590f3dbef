//! The blocks of a launch: which are resident, and whose turn it is.
//!
//! Clusters run one after the other, each with all its warps in a fixed order, so a launch is the
//! same every time. A cooperative grid is resident as a whole. When the resident clusters only
//! jump in circles, as blocks do that wait for one that has not started, another one is admitted.

use super::async_state::ClusterAsync;
use super::block::{Block, Cluster};
use super::launch::Launch;
use super::registers::Registers;
use super::turn::{self, Lanes, Turn};
use super::warp::{Warp, WarpState};
use crate::checks::SharedRaces;
use crate::memory::{Buffer, LANES, View};
use crate::program::Program;
use crate::report::FindingKind;
use crate::sim::{Checks, LaunchError};

/// Rounds without an effect after which another cluster is admitted.
const IDLE_ROUNDS: u32 = 16;
/// Rounds without an effect, with nothing left to admit, after which a launch counts as hung: some
/// 10 million jumps back of every warp.
const HUNG_ROUNDS: u32 = 40_000;
/// Times in a row, without an effect between, that suspended waits end before their phase does.
const MAX_TIMEOUTS: u32 = 16;
/// Clusters that wait for each other at the same time.
const MAX_RESIDENT: usize = 1024;

/// A warp that is resident.
struct Slot {
    registers: Registers,
    state: WarpState,
    local: Buffer,
    lanes: Lanes,
    rank: usize,
    done: bool,
}

/// A cluster that is resident.
struct Resident {
    cluster: Cluster,
    shared: Vec<Buffer>,
    warps: Vec<Slot>,
}

/// What a launch executes on.
pub struct Grid<'a> {
    /// The kernel's code.
    pub program: &'a Program,
    /// Global memory.
    pub view: &'a View,
    /// The kernel's parameters.
    pub params: &'a Buffer,
}

/// How a round of turns went.
#[derive(Default)]
struct Round {
    /// A warp would go on.
    running: bool,
    /// An instruction was completed.
    progress: bool,
}

impl Grid<'_> {
    /// Executes a launch to its end.
    ///
    /// # Errors
    /// What the driver reports when the kernel fails.
    pub fn run(&self, launch: &mut Launch) -> Result<(), LaunchError> {
        let shape = launch.config.cluster;
        let clusters: [u32; 3] =
            std::array::from_fn(|i| launch.config.grid[i].div_ceil(shape[i].max(1)));
        let count = clusters.iter().map(|&n| u64::from(n)).product::<u64>();
        let mut pending = 0..count;
        let mut residents: Vec<Resident> = Vec::new();
        let mut spare: Vec<Resident> = Vec::new();
        let mut idle = 0;
        let mut timeouts = 0;
        loop {
            let wanted = if launch.config.cooperative {
                usize::MAX
            } else {
                1
            };
            while residents.len() < wanted
                && self.admit(launch, clusters, &mut pending, &mut residents, &mut spare)?
            {
            }
            if residents.is_empty() {
                return Ok(());
            }
            let effects = launch.effects;
            let round = self.round(launch, &mut residents)?;
            let (done, going): (Vec<_>, Vec<_>) = residents
                .into_iter()
                .partition(|r| r.warps.iter().all(|w| w.done));
            residents = going;
            spare.extend(done);
            idle = if launch.effects == effects {
                idle + 1
            } else {
                0
            };
            if idle == 0 {
                timeouts = 0;
            }
            if residents.is_empty() {
                continue;
            }
            if !round.running && !round.progress {
                self.force_or_deadlock(launch, &mut residents, &mut timeouts)?;
            } else if idle >= IDLE_ROUNDS
                && residents.len() < MAX_RESIDENT
                && self.admit(launch, clusters, &mut pending, &mut residents, &mut spare)?
            {
                idle = 0;
            } else if idle >= HUNG_ROUNDS {
                return Err(self.deadlock(launch, &mut residents, "runs in circles"));
            }
        }
    }

    /// Makes the next cluster resident; whether there was one.
    fn admit(
        &self,
        launch: &mut Launch,
        clusters: [u32; 3],
        pending: &mut std::ops::Range<u64>,
        residents: &mut Vec<Resident>,
        spare: &mut Vec<Resident>,
    ) -> Result<bool, LaunchError> {
        let Some(linear) = pending.next() else {
            return Ok(false);
        };
        let [x, y, _] = clusters.map(u64::from);
        let index = [linear % x, linear / x % y, linear / (x * y)].map(|i| i as u32);
        let resident = match spare.pop() {
            Some(used) => used.renew(launch, index),
            None => {
                Resident::new(self.program, launch, index).ok_or(LaunchError::OutOfResources)?
            }
        };
        residents.push(resident);
        Ok(true)
    }

    /// Gives each warp a turn.
    fn round(&self, launch: &mut Launch, residents: &mut [Resident]) -> Result<Round, LaunchError> {
        let mut round = Round::default();
        for resident in residents {
            for index in 0..resident.warps.len() {
                if resident.warps[index].done {
                    continue;
                }
                let (mut warp, lanes) = self.warp(launch, resident, index);
                match turn::run(&mut warp, lanes) {
                    Turn::Paused => round.running = true,
                    Turn::Blocked { progress } => round.progress |= progress,
                    Turn::Done => {
                        round.progress = true;
                        resident.warps[index].done = true;
                    }
                    Turn::Failed(error) => return Err(error),
                }
            }
        }
        Ok(round)
    }

    fn warp<'r>(
        &'r self,
        launch: &'r mut Launch,
        resident: &'r mut Resident,
        index: usize,
    ) -> (Warp<'r>, &'r mut Lanes) {
        let slot = &mut resident.warps[index];
        let warp = Warp {
            registers: &mut slot.registers,
            state: &mut slot.state,
            cluster: &mut resident.cluster,
            rank: slot.rank,
            shared: &resident.shared,
            local: &slot.local,
            params: self.params,
            view: self.view,
            program: self.program,
            launch,
        };
        (warp, &mut slot.lanes)
    }

    /// Nothing can go on: lanes that wait for others of their warp go on without them, or suspended
    /// waits time out, or else it is a deadlock.
    fn force_or_deadlock(
        &self,
        launch: &mut Launch,
        residents: &mut [Resident],
        timeouts: &mut u32,
    ) -> Result<(), LaunchError> {
        let mut warps = residents.iter_mut().flat_map(|r| &mut r.warps);
        if warps.any(|warp| !warp.done && warp.lanes.force()) {
            return Ok(());
        }
        if *timeouts < MAX_TIMEOUTS {
            *timeouts += 1;
            let mut any = false;
            for warp in residents.iter_mut().flat_map(|r| &mut r.warps) {
                any |= !warp.done && warp.lanes.time_out();
            }
            if any {
                return Ok(());
            }
        }
        Err(self.deadlock(launch, residents, "waits for"))
    }

    /// Reports who waits where, at the first lanes that do.
    fn deadlock(&self, launch: &mut Launch, residents: &mut [Resident], verb: &str) -> LaunchError {
        let mut text = String::new();
        for resident in residents.iter() {
            for slot in resident.warps.iter().filter(|slot| !slot.done) {
                let block = resident.cluster.blocks[slot.rank].index;
                slot.describe(&mut text, block, self.program, verb);
            }
        }
        let first = residents
            .iter()
            .position(|r| r.warps.iter().any(|w| !w.done));
        if let Some(resident) = first {
            let resident = &mut residents[resident];
            let index = resident
                .warps
                .iter()
                .position(|w| !w.done)
                .unwrap_or_default();
            let (warp, lanes) = self.warp(launch, resident, index);
            let mut warp = warp;
            let lane = lanes
                .groups
                .first()
                .map_or(0, |group| group.mask.trailing_zeros());
            warp.state.pc = lanes.groups.first().map_or(0, |group| group.pc);
            warp.find(
                FindingKind::Deadlock,
                format!("no thread can go on: {text}"),
                lane,
                None,
            );
        }
        LaunchError::Timeout
    }
}

/// Groups named in a deadlock's message.
const DESCRIBED: usize = 12;

impl Slot {
    fn describe(&self, text: &mut String, block: [u32; 3], program: &Program, verb: &str) {
        for group in &self.lanes.groups {
            let named = text.matches("; ").count();
            if named >= DESCRIBED {
                return;
            }
            let reason = group
                .reason
                .map_or_else(|| "going on".to_owned(), |r| r.to_string());
            let line = program.site(group.pc).line;
            let warp = self.state.index;
            text.push_str(&format!(
                "block {block:?} warp {warp} lanes {:#010x} at PTX line {line} {verb} {reason}; ",
                group.mask
            ));
        }
    }
}

impl Resident {
    /// The cluster with this index, with memory of its own; `None` when the host has not enough.
    fn new(program: &Program, launch: &Launch, index: [u32; 3]) -> Option<Resident> {
        let config = &launch.config;
        let ranks = config.cluster.iter().product::<u32>() as usize;
        let threads = config.block.iter().product::<u32>();
        let warps = threads.div_ceil(LANES as u32);
        let tracked = launch.checks > Checks::Off;
        let buffer = |len: usize| match tracked {
            true => Buffer::new(len, 0),
            false => Buffer::untracked(len, 0),
        };
        let mut resident = Resident {
            cluster: Cluster {
                blocks: Vec::new(),
                index,
                races: None,
                asynchronous: ClusterAsync::default(),
            },
            shared: Vec::new(),
            warps: Vec::new(),
        };
        for rank in 0..ranks {
            resident.shared.push(buffer(launch.shared_bytes as usize)?);
            for warp in 0..warps {
                resident.warps.push(Slot {
                    registers: Registers::new(program),
                    state: WarpState::new(warp, 0),
                    local: buffer(launch.local_stride as usize * LANES)?,
                    lanes: Lanes::start(0),
                    rank,
                    done: false,
                });
            }
        }
        resident.start(launch, index);
        Some(resident)
    }

    /// Another cluster in the memory of one that has ended.
    fn renew(mut self, launch: &Launch, index: [u32; 3]) -> Resident {
        self.shared.iter_mut().for_each(Buffer::reset);
        for slot in &mut self.warps {
            slot.registers.reset();
            if launch.local_stride > 0 {
                slot.local.reset();
            }
        }
        self.start(launch, index);
        self
    }

    /// Puts blocks and warps at their first instruction.
    fn start(&mut self, launch: &Launch, index: [u32; 3]) {
        let config = &launch.config;
        let shape = config.cluster;
        let threads = config.block.iter().product::<u32>();
        let block = |rank: usize| {
            let rank = rank as u32;
            let inner = [
                rank % shape[0],
                rank / shape[0] % shape[1],
                rank / (shape[0] * shape[1]),
            ];
            let index = std::array::from_fn(|i| index[i] * shape[i] + inner[i]);
            Block::new(index, rank, threads)
        };
        let mut races = self.cluster.races.take();
        if launch.checks == Checks::All {
            match &mut races {
                Some(races) => races.reset(),
                None => {
                    let (ranks, warps) = (self.shared.len() as u32, threads.div_ceil(LANES as u32));
                    races = Some(SharedRaces::new(ranks, warps, launch.shared_bytes));
                }
            }
        }
        self.cluster = Cluster {
            blocks: (0..self.shared.len()).map(block).collect(),
            index,
            races,
            asynchronous: ClusterAsync::default(),
        };
        for shared in &self.shared {
            // What the system keeps there counts as written.
            shared
                .span()
                .set_valid(0, launch.reserved_shared as usize, true);
        }
        for slot in &mut self.warps {
            let first = slot.state.index * LANES as u32;
            let lanes = u32::MAX >> (LANES as u32 - (threads - first).min(LANES as u32));
            slot.state = WarpState::new(slot.state.index, lanes);
            slot.lanes = Lanes::start(lanes);
            slot.done = false;
        }
    }
}
