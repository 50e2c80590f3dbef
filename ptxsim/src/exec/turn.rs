//! A warp's turn: it executes until it waits, ends or has jumped back often.

use super::group::{self, CallFrame, Group};
use super::registers::{FrameBase, Predicate};
use super::step::{Reason, Step};
use super::warp::Warp;
use crate::memory::LANES;
use crate::sim::LaunchError;

/// Jumps back in one turn, after which other warps get theirs.
const JUMPS_IN_TURN: u32 = 256;
/// Jumps back of a group, at first and at least, after which other lanes of its warp go.
const JUMPS_BEFORE_YIELD: (u32, u32) = (1024, 16);

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The warp would go on.
    Paused,
    /// All of its lanes wait; whether any instruction was completed in this turn.
    Blocked {
        /// Some instruction was completed.
        progress: bool,
    },
    /// All lanes have ended.
    Done,
    /// The launch fails.
    Failed(LaunchError),
}

/// The lanes of a warp between its turns.
#[derive(Debug)]
pub struct Lanes {
    /// Groups that have not ended.
    pub groups: Vec<Group>,
    /// Jumps back before a group yields; halved each time, since lanes that wait for each other
    /// once will do it again.
    jumps_before_yield: u32,
}

impl Lanes {
    /// All threads of a warp at the start of a kernel.
    pub fn start(mask: u32) -> Lanes {
        Lanes {
            groups: vec![Group::start(mask)],
            jumps_before_yield: JUMPS_BEFORE_YIELD.0,
        }
    }
}

/// Why a group stopped.
enum Stop {
    /// Others may have to go first.
    Reschedule,
    /// Its turn is over.
    Pause,
    /// The launch fails.
    Failed(LaunchError),
}

/// Executes `lanes` of `warp` for a turn.
pub fn run(warp: &mut Warp<'_>, lanes: &mut Lanes) -> Turn {
    let mut jumps = JUMPS_IN_TURN;
    let mut progress = false;
    lanes.groups.iter_mut().for_each(|g| g.blocked = false);
    while !lanes.groups.is_empty() {
        let Some(index) = group::select(&mut lanes.groups) else {
            if lanes
                .groups
                .iter()
                .all(|g| matches!(g.reason, Some(Reason::Lanes(_))))
            {
                lanes.force();
                continue;
            }
            return Turn::Blocked { progress };
        };
        let index = group::merge(&mut lanes.groups, index);
        enter(warp, &mut lanes.groups[index]);
        let before = warp.launch.counters.warp_instructions;
        let stop = run_group(warp, lanes, index, &mut jumps);
        if warp.launch.counters.warp_instructions != before {
            progress = true;
            let executed = warp.state.pc;
            // What was executed may be what others wait for; the group itself was just asked.
            lanes
                .groups
                .iter_mut()
                .for_each(|g| g.blocked &= g.pc == executed);
        }
        match stop {
            Stop::Reschedule => {}
            Stop::Pause => return Turn::Paused,
            Stop::Failed(error) => return Turn::Failed(error),
        }
    }
    Turn::Done
}

impl Lanes {
    /// Lets the first group that waits for other lanes go on without them; whether there is one.
    pub fn force(&mut self) -> bool {
        let waits = |g: &&mut Group| matches!(g.reason, Some(Reason::Lanes(_)));
        let first = self.groups.iter_mut().filter(waits).min_by_key(|g| g.pc);
        first
            .map(|group| (group.forced, group.blocked) = (true, false))
            .is_some()
    }

    /// Lets all groups go on that are suspended at an mbarrier; whether there are any.
    pub fn time_out(&mut self) -> bool {
        let suspended = |g: &&mut Group| matches!(g.reason, Some(Reason::Mbarrier { .. }));
        let mut any = false;
        for group in self.groups.iter_mut().filter(suspended) {
            group.forced = true;
            any = true;
        }
        any
    }
}

/// Makes the warp that of the group.
fn enter(warp: &mut Warp<'_>, group: &mut Group) {
    warp.registers.set_base(group.base);
    let state = &mut *warp.state;
    state.local_base = group.local_base;
    state.function = group.function;
    state.token = group.token;
    state.forced = group.forced;
    state.active = group.mask;
    group.reason = None;
}

/// Executes a group until others may have to go.
fn run_group(warp: &mut Warp<'_>, lanes: &mut Lanes, index: usize, jumps: &mut u32) -> Stop {
    let program = warp.program;
    let group = &mut lanes.groups[index];
    let (mut pc, active) = (group.pc, group.mask);
    // An instruction that has waited, or is forced, is executed alone.
    let alone = std::mem::take(&mut group.forced) | group.token.take().is_some();
    let mut meeting = if alone {
        0
    } else {
        group::next_meeting(&lanes.groups, index)
    };
    loop {
        let instruction = &program.code[pc as usize];
        let mask = match instruction.guard {
            None => active,
            Some(guard) => guard_lanes(warp, guard, active),
        };
        warp.state.pc = pc;
        let step = if mask == 0 {
            Step::Next
        } else {
            (instruction.execute)(warp, mask)
        };
        if step != Step::Wait {
            warp.launch.counters.warp_instructions += 1;
            warp.launch.counters.thread_instructions += u64::from(mask.count_ones());
        }
        match step {
            Step::Next => pc += 1,
            Step::Jump(target) if mask == active => {
                let back = target <= pc;
                pc = target;
                let group = &mut lanes.groups[index];
                group.pc = pc;
                if back && let Some(stop) = lanes.jumped_back(index, jumps) {
                    return stop;
                }
                meeting = group::next_meeting(&lanes.groups, index);
            }
            other => {
                lanes.groups[index].pc = pc;
                return part(warp, lanes, index, mask, other);
            }
        }
        if pc >= meeting {
            lanes.groups[index].pc = pc;
            return Stop::Reschedule;
        }
    }
}

/// Lanes of `active` that a guard lets execute.
#[inline]
fn guard_lanes(warp: &mut Warp<'_>, guard: Predicate, active: u32) -> u32 {
    let undefined = active & !warp.registers.predicates.defined(guard);
    if undefined != 0 {
        warp.find_undefined(undefined, "a predicate");
    }
    active & warp.registers.predicates.read(guard)
}

impl Lanes {
    /// Counts a jump back of a group; the reason to stop, if it has jumped often.
    fn jumped_back(&mut self, index: usize, jumps: &mut u32) -> Option<Stop> {
        *jumps -= 1;
        if self.groups.len() > 1 {
            let group = &mut self.groups[index];
            group.jumps += 1;
            if group.jumps >= self.jumps_before_yield {
                group.jumps = 0;
                group.yielded = true;
                self.jumps_before_yield = (self.jumps_before_yield / 2).max(JUMPS_BEFORE_YIELD.1);
                return Some(if *jumps == 0 {
                    Stop::Pause
                } else {
                    Stop::Reschedule
                });
            }
        }
        (*jumps == 0).then_some(Stop::Pause)
    }
}

/// Lanes part, call, return, end or wait: the group goes back to the list in parts.
fn part(warp: &mut Warp<'_>, lanes: &mut Lanes, index: usize, mask: u32, step: Step) -> Stop {
    let group = lanes.groups.swap_remove(index);
    let next = group.pc + 1;
    let rest = group.mask & !mask;
    if rest != 0 {
        lanes.groups.push(group.part(rest, next));
    }
    let mut taken = group.part(mask, next);
    match step {
        Step::Next => {}
        Step::Jump(target) => {
            warp.launch.counters.divergent_branches += 1;
            taken.pc = target;
        }
        Step::Scatter => return scatter(warp, lanes, &taken),
        Step::Call(function) => {
            let later = mask & !warp.state.callers;
            if later != 0 {
                lanes.groups.push(group.part(later, group.pc));
            }
            taken.mask = warp.state.callers;
            call(warp, &group, &mut taken, function);
        }
        Step::Return if !group.frames.is_empty() => leave(warp, &mut taken),
        Step::Return | Step::Exit => {
            warp.exit(mask);
            return Stop::Reschedule;
        }
        Step::Wait => {
            taken.pc = group.pc;
            taken.token = warp.state.token;
            taken.reason = Some(warp.state.reason);
            taken.blocked = true;
        }
        Step::Yield => {
            taken.yielded = true;
            lanes.groups.push(taken);
            return Stop::Pause;
        }
        Step::Trap(error) => return Stop::Failed(error),
    }
    lanes.groups.push(taken);
    Stop::Reschedule
}

/// Each lane goes to its own target.
fn scatter(warp: &mut Warp<'_>, lanes: &mut Lanes, taken: &Group) -> Stop {
    let mut left = taken.mask;
    let mut parts = 0;
    while left != 0 {
        let target = warp.state.targets[left.trailing_zeros() as usize];
        let same = (0..LANES).filter(|&l| left >> l & 1 != 0 && warp.state.targets[l] == target);
        let mask = same.fold(0, |m, l| m | 1 << l);
        left &= !mask;
        parts += 1;
        lanes.groups.push(taken.part(mask, target));
    }
    warp.launch.counters.divergent_branches += u64::from(parts > 1);
    Stop::Reschedule
}

/// Enters a function.
fn call(warp: &mut Warp<'_>, caller: &Group, taken: &mut Group, function: u32) {
    let from = &warp.program.functions[caller.function as usize];
    let to = &warp.program.functions[function as usize];
    taken.frames.push(CallFrame {
        call: caller.pc,
        function: caller.function,
        base: caller.base,
        local_base: caller.local_base,
    });
    taken.function = function;
    taken.pc = to.entry;
    taken.local_base = caller.local_base + from.local;
    taken.base = FrameBase {
        words: caller.base.words + from.slots.words,
        longs: caller.base.longs + from.slots.longs,
        predicates: caller.base.predicates + from.slots.predicates,
    };
    warp.registers.open_frame(taken.base, to.slots, taken.mask);
}

/// Returns from a function and copies its results to the caller's frame.
fn leave(warp: &mut Warp<'_>, taken: &mut Group) {
    let Some(frame) = taken.frames.pop() else {
        return;
    };
    if let Some(results) = warp.program.results.get(&(frame.call, taken.function)) {
        for copy in results {
            let (from, to) = (taken.local_base + copy.from, frame.local_base + copy.to);
            warp.copy_local(taken.mask, from, to, copy.bytes);
        }
    }
    taken.pc = frame.call + 1;
    taken.function = frame.function;
    taken.base = frame.base;
    taken.local_base = frame.local_base;
}
