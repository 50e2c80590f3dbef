//! What an instruction may touch while it executes for one warp.

use super::async_state::WarpAsync;
use super::barrier::threads_ended;
use super::block::{Block, Cluster};
use super::cluster;
use super::launch::Launch;
use super::registers::{Dest, Registers, Row, Source};
use super::step::{Reason, Step, Targets};
use super::value::Word;
use super::warpgroup::WarpPart;
use crate::checks::{Agent, Conflict, Place, SharedRaces};
use crate::memory::{Buffer, Hint, LANES, View, lanes};
use crate::program::Program;
use crate::report::FindingKind;

/// State of a warp that outlives its turn. Families that keep state for each warp have a field here.
#[derive(Debug)]
pub struct WarpState {
    /// Index in the block.
    pub index: u32,
    /// Lanes that have a thread.
    pub threads: u32,
    /// Lanes that have ended.
    pub exited: u32,
    /// First byte of the current frame in each lane's local memory.
    pub local_base: u32,
    /// The carry flag of each lane.
    pub carry: u32,
    /// The allocation that the last access hit.
    pub hint: Hint,
    /// What executing lanes noted when they had to wait, such as a barrier's phase at their
    /// arrival; `None` when the instruction executes for the first time.
    pub token: Option<u64>,
    /// Why the executing lanes wait.
    pub reason: Reason,
    /// No other lane of the warp can go on, so lanes that are missing will not come.
    pub forced: bool,
    /// Where [`Step::Scatter`] sends the lanes.
    pub targets: Targets,
    /// Lanes that [`Step::Call`] calls for; the others execute the call again.
    pub callers: u32,
    /// Index in the program of the executing function.
    pub function: u32,
    /// Index of the executing instruction.
    pub pc: u32,
    /// Lanes that execute, whatever the guard says.
    pub active: u32,
    /// Groups of asynchronous copies.
    pub asynchronous: WarpAsync,
    /// Its part in a warpgroup.
    pub warpgroup: WarpPart,
}

impl WarpState {
    /// A warp of the lanes `threads` before its first instruction.
    pub fn new(index: u32, threads: u32) -> WarpState {
        WarpState {
            index,
            threads,
            exited: 0,
            carry: 0,
            local_base: 0,
            hint: Hint::default(),
            token: None,
            reason: Reason::Other("nothing"),
            forced: false,
            targets: [0; LANES],
            callers: 0,
            function: 0,
            pc: 0,
            active: 0,
            asynchronous: WarpAsync::default(),
            warpgroup: WarpPart::default(),
        }
    }
}

/// A warp during its turn.
pub struct Warp<'a> {
    /// Its registers.
    pub registers: &'a mut Registers,
    /// The rest of its own state.
    pub state: &'a mut WarpState,
    /// Its cluster.
    pub cluster: &'a mut Cluster,
    /// Rank of its block in the cluster.
    pub rank: usize,
    /// Shared memory of the cluster's blocks by rank.
    pub shared: &'a [Buffer],
    /// Local memory of the 32 lanes, one after the other.
    pub local: &'a Buffer,
    /// The kernel's parameters.
    pub params: &'a Buffer,
    /// Global memory.
    pub view: &'a View,
    /// The kernel's code.
    pub program: &'a Program,
    /// The launch.
    pub launch: &'a mut Launch,
}

impl Warp<'_> {
    /// Its block.
    #[inline]
    pub fn block(&mut self) -> &mut Block {
        &mut self.cluster.blocks[self.rank]
    }

    /// Reads a register or constant.
    #[inline(always)]
    pub fn read<W: Word>(&self, source: Source<W>) -> &Row<W> {
        self.registers.read(source)
    }

    /// Lanes in which a register is defined.
    #[inline(always)]
    pub fn defined<W: Word>(&self, source: Source<W>) -> u32 {
        self.registers.defined(source)
    }

    /// Writes the lanes of `mask`; those not in `defined` become undefined.
    #[inline(always)]
    pub fn write<W: Word>(&mut self, dest: Dest<W>, mask: u32, defined: u32, values: &Row<W>) {
        self.registers.write(dest, mask, defined, values);
    }

    /// Lanes that have a thread which has not ended.
    pub fn live(&self) -> u32 {
        self.state.threads & !self.state.exited
    }

    /// Makes the executing lanes wait: the instruction is executed for them again later, with
    /// `token` in [`WarpState::token`].
    pub fn wait(&mut self, reason: Reason, token: u64) -> Step {
        self.state.reason = reason;
        self.state.token = Some(token);
        Step::Wait
    }

    /// As [`Warp::wait`] for a condition that needs no token: it is executed as if for the first
    /// time.
    pub fn retry(&mut self, reason: Reason) -> Step {
        self.state.reason = reason;
        self.state.token = None;
        Step::Wait
    }

    /// For instructions that lanes must execute together: `Some(wait)` while lanes of `needed` that
    /// have not ended are not among `mask`. When they cannot come any more it reports them as
    /// missing, and the instruction goes on without them.
    pub fn converge(&mut self, mask: u32, needed: u32) -> Option<Step> {
        self.converge_as(mask, needed, FindingKind::WarpSync)
    }

    /// [`Warp::converge`] with another kind of finding.
    #[inline]
    pub fn converge_as(&mut self, mask: u32, needed: u32, kind: FindingKind) -> Option<Step> {
        if needed & !mask == 0 {
            return None;
        }
        if needed & self.live() & !mask != 0 && !self.state.forced {
            return Some(self.retry(Reason::Lanes(needed)));
        }
        let missing = needed & !mask;
        let message = format!("lanes {missing:#010x} do not take part, active are {mask:#010x}");
        self.find(kind, message, mask.trailing_zeros(), None);
        None
    }

    /// Ends the lanes of `mask`.
    pub fn exit(&mut self, mask: u32) {
        self.state.exited |= mask;
        self.launch.effects += 1;
        self.block().live_threads -= mask.count_ones();
        threads_ended(self);
        cluster::lanes_ended(self, mask);
    }

    /// PTX line of the executing instruction.
    pub fn line(&self) -> u32 {
        self.program.site(self.state.pc).line
    }

    /// The warp, as the race detectors know it.
    pub fn agent(&self) -> Agent {
        Agent::warp(self.rank as u32, self.state.index)
    }

    /// Tells the detector of races in shared memory something, where it is on.
    #[inline]
    pub fn races(&mut self, tell: impl FnOnce(&mut SharedRaces, Agent)) {
        let agent = self.agent();
        if let Some(races) = &mut self.cluster.races {
            tell(races, agent);
        }
    }

    /// Number of the warp's block in the grid.
    pub fn linear_block(&self) -> u32 {
        self.linear_block_of(self.rank)
    }

    /// Number in the grid of the cluster's block with this rank.
    pub fn linear_block_of(&self, rank: usize) -> u32 {
        self.launch.block_number(self.cluster.blocks[rank].index)
    }

    /// Reports a race, found at the executing instruction in `lane`.
    #[cold]
    pub fn find_conflict(&mut self, conflict: &Conflict, lane: u32, address: Option<u64>) {
        let place = self.place(lane);
        let allocation = match conflict.finding() {
            FindingKind::GlobalRace => address.and_then(|a| self.view.describe(a)),
            _ => None,
        };
        let address = address.unwrap_or(conflict.address);
        self.launch
            .findings
            .add_conflict(conflict, place, address, allocation);
    }

    /// The executing instruction in `lane`.
    pub fn place(&self, lane: u32) -> Place {
        Place {
            ptx_line: self.line(),
            block: self.cluster.blocks[self.rank].index,
            thread: self.launch.thread_index(self.state.index * 32 + lane),
        }
    }

    /// Makes `bytes` of each lane's local memory uninitialised.
    pub fn clear_local(&mut self, mask: u32, from: u32, bytes: u32) {
        let stride = self.launch.local_stride as usize;
        for lane in lanes(mask) {
            let start = lane * stride + from as usize;
            self.local.span().set_valid(start, bytes as usize, false);
        }
    }

    /// Copies bytes, and their validity, of each lane's local memory.
    pub fn copy_local(&mut self, mask: u32, from: u32, to: u32, bytes: u32) {
        let (span, stride) = (self.local.span(), self.launch.local_stride as usize);
        for lane in lanes(mask) {
            let (from, to) = (lane * stride + from as usize, lane * stride + to as usize);
            span.copy_from(to, &span, from, bytes as usize);
        }
    }

    /// Reports what is wrong at the executing instruction in `lane`.
    pub fn find(&mut self, kind: FindingKind, message: String, lane: u32, address: Option<u64>) {
        let place = self.place(lane);
        let allocation = address.and_then(|a| self.view.describe(a));
        self.launch
            .findings
            .add(kind, place, address, allocation, || message);
    }

    /// Reports the lanes of `mask` in which a source is undefined; `what` says what for it is used.
    #[inline]
    pub fn check_defined<W: Word>(&mut self, source: Source<W>, mask: u32, what: &str) {
        let undefined = mask & !self.registers.defined(source);
        if undefined != 0 {
            self.find_undefined(undefined, what);
        }
    }

    /// Reports `what`, used by the lanes of `undefined`, as a value that nothing wrote.
    #[cold]
    pub fn find_undefined(&mut self, undefined: u32, what: &str) {
        if self.launch.checks > crate::sim::Checks::Off {
            let message = format!("{what} is uninitialised");
            self.find(
                FindingKind::Uninitialized,
                message,
                undefined.trailing_zeros(),
                None,
            );
        }
    }
}
