//! `bar` and `barrier`: the 16 named barriers of a block; `bar.warp.sync`.

use super::registers::{Predicate, Row, Source};
use super::step::{Reason, Step};
use super::warp::Warp;
use crate::checks::SyncId;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::AnyDest;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("bar", bar),
    ("barrier", barrier),
    ("bar.warp.sync", warp_sync),
];

/// Named barriers of a block.
pub const BARRIERS: usize = 16;

/// One of the 16 named barriers of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamedBarrier {
    /// How often it completed.
    phase: u64,
    /// Threads that arrived in this phase.
    arrived: u32,
    /// Threads that this phase expects: `None` for all that have not ended, or before the first
    /// arrival.
    expected: Option<u32>,
    /// Arrivals with a true predicate in this phase.
    votes: u32,
    /// Threads that gave a predicate in this phase.
    voters: u32,
    /// Votes and voters of the phase before.
    result: (u32, u32),
}

/// What a thread does at a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Sync,
    Arrive,
    Reduce(Reduction),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Count,
    And,
    Or,
}

/// A decoded `bar`.
struct Bar {
    action: Action,
    /// All lanes of the warp execute it together.
    aligned: bool,
    id: Source<u32>,
    threads: Option<Source<u32>>,
    predicate: Predicate,
    result: BarResult,
}

/// Where a reduction goes.
enum BarResult {
    None,
    Count(super::registers::Dest<u32>),
    Predicate(Option<u32>),
}

fn bar(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    decode(d, i, true)
}

fn barrier(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let aligned = m.take("aligned");
    decode(d, i, aligned)
}

fn decode(d: &Decoder<'_>, i: &Instruction, aligned: bool) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["cta", "aligned"]);
    let action = action(&m)?;
    let (result, rest) = match action {
        Action::Reduce(Reduction::Count) => match d.any_dest(d.operand(i, 0)?)? {
            AnyDest::Word(dest, _) => (BarResult::Count(dest), 1),
            _ => return Err(Unsupported::new("a count of other than 32 bits")),
        },
        Action::Reduce(_) => (BarResult::Predicate(d.predicate_dest(d.operand(i, 0)?)?), 1),
        _ => (BarResult::None, 0),
    };
    let operands = &i.operands[rest..];
    let is_predicate = |o: &Operand| match o {
        Operand::Register(r) | Operand::NotRegister(r) => d.register_type(*r) == Type::Pred,
        _ => false,
    };
    let (numbers, predicate) = match operands.split_last() {
        Some((last, numbers)) if rest == 1 && (is_predicate(last) || operands.len() == 3) => {
            (numbers, d.predicate(last)?)
        }
        _ => (operands, Predicate::TRUE),
    };
    let bar = Bar {
        action,
        aligned,
        id: d.source32(
            numbers
                .first()
                .ok_or_else(|| Unsupported::new("no barrier"))?,
        )?,
        threads: numbers.get(1).map(|o| d.source32(o)).transpose()?,
        predicate,
        result,
    };
    Ok(Box::new(move |warp, mask| execute(warp, mask, &bar).into()))
}

fn action(m: &Modifiers<'_>) -> Result<Action, Unsupported> {
    let action = match m.next() {
        Some("sync") => Action::Sync,
        Some("arrive") => Action::Arrive,
        Some("red") => {
            let choices = [
                ("popc", Reduction::Count),
                ("and", Reduction::And),
                ("or", Reduction::Or),
            ];
            let reduction = m
                .choose(&choices)
                .ok_or_else(|| Unsupported::new("no reduction"))?;
            m.ty()?;
            Action::Reduce(reduction)
        }
        other => return Err(Unsupported::new(format!("barrier operation {other:?}"))),
    };
    m.finish()?;
    Ok(action)
}

fn execute(warp: &mut Warp<'_>, mask: u32, bar: &Bar) -> Result<Step, LaunchError> {
    if warp.state.token.is_none()
        && bar.aligned
        && let Some(wait) = warp.converge_as(mask, warp.live(), FindingKind::Barrier)
    {
        return Ok(wait);
    }
    let id = same_value(warp, bar.id, mask, "the number of a barrier");
    if id as usize >= BARRIERS {
        let message = format!("barrier {id} of {BARRIERS}");
        warp.find(FindingKind::Barrier, message, mask.trailing_zeros(), None);
        return Err(LaunchError::LaunchFailed);
    }
    let token = match warp.state.token {
        Some(token) => token,
        None => {
            let threads = bar
                .threads
                .map(|t| same_value(warp, t, mask, "the count of a barrier"));
            arrive(warp, mask, bar, id, threads)
        }
    };
    if bar.action == Action::Arrive {
        return Ok(Step::Next);
    }
    let state = warp.block().barriers[id as usize];
    if state.phase == token {
        let expected = state.expected.unwrap_or(warp.block().live_threads);
        return Ok(warp.wait(
            Reason::Barrier {
                id,
                expected,
                arrived: state.arrived,
            },
            token,
        ));
    }
    let rank = warp.rank as u32;
    warp.races(|races, agent| races.acquire(agent, SyncId::Barrier { rank, id }));
    write_result(warp, mask, bar, state.result);
    Ok(Step::Next)
}

/// The value of an operand that has to be the same in all lanes.
fn same_value(warp: &mut Warp<'_>, source: Source<u32>, mask: u32, what: &str) -> u32 {
    warp.check_defined(source, mask, what);
    let row = warp.read(source);
    let first = row[mask.trailing_zeros() as usize % LANES];
    let differs = (0..LANES).find(|&lane| mask >> lane & 1 != 0 && row[lane] != first);
    if let Some(lane) = differs {
        let message = format!("{what} is {} in this lane and {first} in others", row[lane]);
        warp.find(FindingKind::Barrier, message, lane as u32, None);
    }
    first
}

/// Counts the lanes of `mask` in; the phase that they arrived in.
fn arrive(warp: &mut Warp<'_>, mask: u32, bar: &Bar, id: u32, threads: Option<u32>) -> u64 {
    let lane = mask.trailing_zeros();
    // A count is in whole warps, whatever threads they have.
    let lanes = match threads {
        Some(_) if mask == warp.live() => LANES as u32,
        _ => mask.count_ones(),
    };
    let true_lanes = mask & warp.registers.predicates.read(bar.predicate);
    if threads.is_some_and(|t| t == 0 || !t.is_multiple_of(LANES as u32)) {
        let message = format!(
            "a count of {} threads: not a multiple of {LANES}",
            threads.unwrap_or(0)
        );
        warp.find(FindingKind::Barrier, message, lane, None);
    }
    let state = warp.block().barriers[id as usize];
    if state.arrived > 0 && state.expected != threads {
        let count = |t: Option<u32>| t.map_or("all".to_owned(), |t| t.to_string());
        let message = format!(
            "barrier {id} is used with {} threads here and with {} by those that wait at it",
            count(threads),
            count(state.expected)
        );
        warp.find(FindingKind::Barrier, message, lane, None);
    }
    let rank = warp.rank as u32;
    warp.races(|races, agent| races.release(agent, SyncId::Barrier { rank, id }));
    warp.launch.effects += 1;
    let state = &mut warp.block().barriers[id as usize];
    state.arrived += lanes;
    state.expected = threads;
    state.votes += true_lanes.count_ones();
    state.voters += mask.count_ones();
    let phase = state.phase;
    complete(warp, id);
    phase
}

/// Ends the phase of a barrier when all have arrived.
fn complete(warp: &mut Warp<'_>, id: u32) {
    let rank = warp.rank as u32;
    let block = warp.block();
    let live = block.live_threads;
    let state = &mut block.barriers[id as usize];
    let expected = state.expected.unwrap_or(live);
    if state.arrived == 0 || state.arrived < expected {
        return;
    }
    *state = NamedBarrier {
        phase: state.phase + 1,
        result: (state.votes, state.voters),
        ..NamedBarrier::default()
    };
    warp.launch.counters.barriers += 1;
    warp.races(|races, _| races.complete(SyncId::Barrier { rank, id }));
}

/// Threads ended: barriers that wait for all that are left may be complete.
pub fn threads_ended(warp: &mut Warp<'_>) {
    for id in 0..BARRIERS as u32 {
        let state = warp.block().barriers[id as usize];
        if state.arrived > 0 && state.expected.is_none() {
            complete(warp, id);
        }
    }
}

fn write_result(warp: &mut Warp<'_>, mask: u32, bar: &Bar, (votes, voters): (u32, u32)) {
    let Action::Reduce(reduction) = bar.action else {
        return;
    };
    let holds = match reduction {
        Reduction::Count => false,
        Reduction::And => votes == voters,
        Reduction::Or => votes > 0,
    };
    match bar.result {
        BarResult::Count(dest) => warp.write(dest, mask, u32::MAX, &[votes; LANES]),
        BarResult::Predicate(Some(slot)) => {
            let bits = if holds { u32::MAX } else { 0 };
            warp.registers.predicates.write(slot, mask, u32::MAX, bits);
        }
        _ => {}
    }
}

fn warp_sync(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    let members = d.source32(d.operand(i, 0)?)?;
    Ok(Box::new(move |warp, mask| {
        let row: Row<u32> = *warp.read(members);
        let members = row[mask.trailing_zeros() as usize % LANES];
        if let Some(wait) = warp.converge(mask, members) {
            return wait;
        }
        warp.races(|races, agent| races.warp_sync(agent));
        Step::Next
    }))
}
