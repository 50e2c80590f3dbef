//! Instructions of clusters, `elect.sync` and `griddepcontrol`.

use super::access::Space;
use super::async_access::{at_rank, bits, rank_of};
use super::async_order;
use super::registers::{Dest, Source};
use super::step::{Reason, Step};
use super::value::Word;
use super::warp::Warp;
use crate::checks::SyncId;
use crate::memory::{LANES, SHARED_WINDOW};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::operands::Place;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::report::FindingKind;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("barrier.cluster.arrive", arrive),
    ("barrier.cluster.wait", wait),
    ("mapa", mapa),
    ("getctarank", getctarank),
    ("elect.sync", elect),
    ("griddepcontrol.wait", nothing),
    ("griddepcontrol.launch_dependents", nothing),
];

fn arrive(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let release = !m.take("relaxed");
    m.ignore(&["release", "aligned"]);
    m.finish()?;
    Ok(Box::new(move |warp, mask| {
        if let Some(wait) = warp.converge(mask, warp.live()) {
            return wait;
        }
        async_order::arrive(warp, SyncId::Cluster, release);
        arrive_lanes(warp, mask);
        Step::Next
    }))
}

fn arrive_lanes(warp: &mut Warp<'_>, mask: u32) {
    let next = warp.cluster.asynchronous.barrier.phase + 1;
    for lane in bits(mask) {
        let arrival = &mut warp.state.asynchronous.cluster_arrival[lane as usize];
        if *arrival == next {
            let message = "second arrival at the cluster barrier before it completed".to_owned();
            warp.find(FindingKind::Barrier, message, lane, None);
            continue;
        }
        *arrival = next;
        warp.cluster.asynchronous.barrier.arrived += 1;
    }
    complete_when_full(warp);
}

fn complete_when_full(warp: &mut Warp<'_>) {
    let live: u32 = warp
        .cluster
        .blocks
        .iter()
        .map(|block| block.live_threads)
        .sum();
    let barrier = &mut warp.cluster.asynchronous.barrier;
    if barrier.arrived >= live && live > 0 {
        barrier.phase += 1;
        barrier.arrived = 0;
        warp.launch.effects += 1;
        async_order::cluster_completed(warp);
    }
}

/// The lanes of `mask` have ended and are no longer among their block's live threads: the cluster
/// barrier does not wait for them any more.
pub fn lanes_ended(warp: &mut Warp<'_>, mask: u32) {
    let barrier = &mut warp.cluster.asynchronous.barrier;
    let arrivals = &warp.state.asynchronous.cluster_arrival;
    let arrived = bits(mask)
        .filter(|&lane| arrivals[lane as usize] == barrier.phase + 1)
        .count();
    barrier.arrived -= arrived as u32;
    if barrier.arrived > 0 {
        complete_when_full(warp);
    }
}

fn wait(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["acquire", "aligned"]);
    m.finish()?;
    Ok(Box::new(|warp, mask| {
        if let Some(wait) = warp.converge(mask, warp.live()) {
            return wait;
        }
        let phase = warp.cluster.asynchronous.barrier.phase;
        let arrivals = warp.state.asynchronous.cluster_arrival;
        if let Some(lane) = bits(mask).find(|&lane| arrivals[lane as usize] == 0) {
            let message = "wait at the cluster barrier without an arrival".to_owned();
            warp.find(FindingKind::Barrier, message, lane, None);
        }
        if bits(mask).any(|lane| arrivals[lane as usize] > phase) {
            return warp.retry(Reason::ClusterBarrier);
        }
        async_order::cluster_wait(warp);
        Step::Next
    }))
}

fn mapa(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let space = if m.take("shared::cluster") {
        Space::Shared
    } else {
        Space::Generic
    };
    let ty = m.ty()?;
    m.finish()?;
    match ty {
        Type::U32 => decode_mapa::<u32>(d, i, space, |a, rank, _| at_rank(a, rank)),
        Type::U64 => decode_mapa::<u64>(d, i, space, |a, rank, space| {
            let window = if space == Space::Generic {
                SHARED_WINDOW
            } else {
                0
            };
            window + u64::from(at_rank(a as u32, rank))
        }),
        _ => Err(Unsupported::new("type")),
    }
}

fn decode_mapa<W: Word>(
    d: &Decoder<'_>,
    i: &Instruction,
    space: Space,
    map: fn(W, u32, Space) -> W,
) -> Result<Execute, Unsupported> {
    let dest: Dest<W> = d.dest(d.operand(i, 0)?)?;
    let address: Source<W> = shared_source(d, d.operand(i, 1)?)?;
    let rank = d.source32(d.operand(i, 2)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(rank, mask, "the rank of a block");
        let ranks = *warp.read(rank);
        let blocks = warp.cluster.blocks.len() as u32;
        if let Some(lane) = bits(mask).find(|&lane| ranks[lane as usize] >= blocks) {
            let rank = ranks[lane as usize];
            let message = format!("mapa: rank {rank} in a cluster of {blocks} blocks");
            return Step::Trap(warp.bad_operand(lane, message));
        }
        let defined = warp.defined(address);
        let row = *warp.read(address);
        let mapped: [W; LANES] = std::array::from_fn(|l| map(row[l], ranks[l], space));
        warp.write(dest, mask, defined, &mapped);
        Step::Next
    }))
}

/// A register, or the offset of a shared variable, whose rank is that of the executing block.
fn shared_source<W: Word>(d: &Decoder<'_>, operand: &Operand) -> Result<Source<W>, Unsupported> {
    match operand {
        Operand::Variable(variable, offset) => match d.symbols.place(*variable) {
            Place::Shared(base) => d.source(&Operand::Int(base as i64 + offset)),
            _ => Err(Unsupported::new("a variable that is not in shared memory")),
        },
        other => d.source(other),
    }
}

fn getctarank(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["shared::cluster"]);
    let ty = m.ty()?;
    m.finish()?;
    if matches!(d.operand(i, 1)?, Operand::Variable(..)) {
        let dest: Dest<u32> = d.dest(d.operand(i, 0)?)?;
        return Ok(Box::new(move |warp, mask| {
            let rank = warp.rank as u32;
            warp.write(dest, mask, u32::MAX, &[rank; LANES]);
            Step::Next
        }));
    }
    match ty {
        Type::U32 => d.map1(i, |address: u32| rank_of(address) as u32),
        // Of a generic address, the low half is the shared address.
        Type::U64 => d.map1(i, |address: u64| rank_of(address as u32) as u32),
        _ => Err(Unsupported::new("type")),
    }
}

/// The leader is the first lane of the membermask.
fn elect(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    let Operand::Pair(lane, leader) = d.operand(i, 0)? else {
        return Err(Unsupported::new("operands"));
    };
    let lane: Option<Dest<u32>> = match **lane {
        Operand::Discard => None,
        ref operand => Some(d.dest(operand)?),
    };
    let leader = d.predicate_dest(leader)?;
    let members = d.source32(d.operand(i, 1)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(members, mask, "a member mask");
        let members = warp.read(members)[mask.trailing_zeros() as usize % LANES];
        if let Some(wait) = warp.converge(mask, members) {
            return wait;
        }
        let elected = (members & mask).trailing_zeros();
        if let Some(dest) = lane {
            warp.write(dest, mask, u32::MAX, &[elected; LANES]);
        }
        if let Some(slot) = leader {
            let bit = 1u32.checked_shl(elected).unwrap_or(0);
            warp.registers.predicates.write(slot, mask, u32::MAX, bit);
        }
        Step::Next
    }))
}

/// Grids run one after the other, so prerequisites are complete and dependents come later.
fn nothing(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|_, _| Step::Next))
}
