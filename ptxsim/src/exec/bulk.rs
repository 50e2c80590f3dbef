//! `cp.async.bulk`, `cp.reduce.async.bulk` and bulk groups: PTX ISA 9.0, 9.7.9.25.4 and 9.7.9.27.2.

use super::access::Space;
use super::async_access::{SharedAddress, at_rank, bits, rank_of};
use super::reduction::{self, Reduction};
use super::registers::Source;
use super::step::Step;
use super::warp::Warp;
use super::{async_order, mbarrier};
use crate::checks::Kind;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::Address;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("cp.async.bulk", copy),
    ("cp.reduce.async.bulk", reduce),
    ("cp.async.bulk.prefetch", prefetch),
    ("cp.async.bulk.commit_group", commit),
    ("cp.async.bulk.wait_group", wait),
];

/// Alignment of addresses and sizes.
const ALIGN: u32 = 16;

/// Where a bulk copy goes from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Global to shared memory.
    Load,
    /// The block's own shared memory to that of another one.
    Peer,
    /// Shared to global memory.
    Store,
}

/// Takes the destination and source spaces, in that order, and the completion mechanism.
///
/// # Errors
/// A combination that PTX does not have.
pub fn route(m: &Modifiers<'_>) -> Result<Route, Unsupported> {
    let spaces = [
        ("shared::cta", 's'),
        ("shared::cluster", 's'),
        ("global", 'g'),
    ];
    let pair = (m.choose(&spaces), m.choose(&spaces));
    let mbarrier = m.take("mbarrier::complete_tx::bytes");
    let group = m.take("bulk_group");
    match (pair, mbarrier, group) {
        ((Some('s'), Some('g')), true, false) => Ok(Route::Load),
        ((Some('s'), Some('s')), true, false) => Ok(Route::Peer),
        ((Some('g'), Some('s')), false, true) => Ok(Route::Store),
        _ => Err(Unsupported::new("state spaces and completion mechanism")),
    }
}

/// A 32-bit or 16-bit mask of destination blocks.
pub fn block_mask(
    d: &Decoder<'_>,
    i: &Instruction,
    m: &Modifiers<'_>,
    index: usize,
) -> Result<Option<Source<u32>>, Unsupported> {
    if !m.take("multicast::cluster") {
        return Ok(None);
    }
    d.source32(d.operand(i, index)?).map(Some)
}

struct Copy {
    route: Route,
    to: Address,
    from: Address,
    bytes: Source<u32>,
    mbarrier: Option<SharedAddress>,
    blocks: Option<Source<u32>>,
    reduction: Option<Reduction>,
}

fn copy(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let copy = parse(d, i, &m, None)?;
    m.finish()?;
    Ok(Box::new(move |warp, mask| {
        execute(warp, mask, &copy).into()
    }))
}

fn reduce(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let reduction = reduction::parse(&m)?;
    let copy = parse(d, i, &m, Some(reduction))?;
    m.finish()?;
    if copy.route == Route::Load {
        return Err(Unsupported::new(
            "a reduction into shared memory from global memory",
        ));
    }
    Ok(Box::new(move |warp, mask| {
        execute(warp, mask, &copy).into()
    }))
}

fn parse(
    d: &Decoder<'_>,
    i: &Instruction,
    m: &Modifiers<'_>,
    reduction: Option<Reduction>,
) -> Result<Copy, Unsupported> {
    let route = route(m)?;
    m.ignore(&["L2::cache_hint"]);
    let mbarrier = match route {
        Route::Store => None,
        _ => Some(SharedAddress {
            address: d.address(d.operand(i, 3)?)?,
            space: Space::Shared,
        }),
    };
    Ok(Copy {
        route,
        to: d.address(d.operand(i, 0)?)?,
        from: d.address(d.operand(i, 1)?)?,
        bytes: d.source32(d.operand(i, 2)?)?,
        mbarrier,
        blocks: block_mask(d, i, m, 4)?,
        reduction,
    })
}

fn execute(warp: &mut Warp<'_>, mask: u32, c: &Copy) -> Result<Step, LaunchError> {
    let to = warp.addresses(&c.to, mask);
    let from = warp.addresses(&c.from, mask);
    warp.check_defined(c.bytes, mask, "the size of a bulk copy");
    let bytes = *warp.read(c.bytes);
    let mbarriers = match &c.mbarrier {
        Some(operand) => warp.shared_addresses(operand, mask)?,
        None => [0; LANES],
    };
    for lane in bits(mask) {
        let l = lane as usize;
        if !bytes[l].is_multiple_of(ALIGN) {
            let message = format!("bulk copy: size must be a multiple of 16, got {}", bytes[l]);
            return Err(warp.bad_operand(lane, message));
        }
        match c.route {
            Route::Load => {
                let ranks = destinations(warp, lane, to[l] as u32, c.blocks)?;
                load(
                    warp,
                    lane,
                    to[l] as u32,
                    from[l],
                    bytes[l],
                    mbarriers[l],
                    &ranks,
                )?;
            }
            Route::Peer => {
                to_peer(
                    warp,
                    lane,
                    to[l] as u32,
                    from[l] as u32,
                    bytes[l],
                    mbarriers[l],
                    c.reduction,
                )?;
            }
            Route::Store => store(warp, lane, to[l], from[l] as u32, bytes[l], c.reduction)?,
        }
    }
    warp.launch.effects += 1;
    Ok(Step::Next)
}

/// Ranks of the blocks that a load into shared memory writes to.
///
/// # Errors
/// The mask names a block that the cluster does not have; reported.
pub fn destinations(
    warp: &mut Warp<'_>,
    lane: u32,
    to: u32,
    blocks: Option<Source<u32>>,
) -> Result<Vec<u32>, LaunchError> {
    let Some(source) = blocks else {
        return Ok(vec![rank_of(to) as u32]);
    };
    warp.check_defined(source, 1 << lane, "a multicast mask");
    let mask = warp.read(source)[lane as usize] & 0xffff;
    let size = warp.cluster.blocks.len() as u32;
    if mask >> size != 0 || mask == 0 {
        let message = format!("multicast mask {mask:#x} in a cluster of {size} blocks");
        return Err(warp.bad_operand(lane, message));
    }
    Ok(bits(mask).collect())
}

fn load(
    warp: &mut Warp<'_>,
    lane: u32,
    to: u32,
    from: u64,
    bytes: u32,
    mbarrier: u32,
    ranks: &[u32],
) -> Result<(), LaunchError> {
    let source = warp.global_span(lane, from, bytes, ALIGN)?;
    async_order::global_range(warp, lane, Kind::Read, from, bytes);
    warp.launch
        .counters
        .bulk_loads
        .record_range(from, bytes.into());
    for &rank in ranks {
        let target = at_rank(to, rank);
        let span = warp.shared_span(lane, target, bytes, ALIGN)?;
        span.copy_from(0, &source, 0, bytes as usize);
        warp.launch
            .counters
            .bulk_shared_stores
            .record_range(target, bytes);
        let mbarrier = if ranks.len() == 1 {
            mbarrier
        } else {
            at_rank(mbarrier, rank)
        };
        async_order::bulk_tracked(warp, lane, mbarrier, Kind::Write, target, bytes);
        mbarrier::complete_tx(warp, lane, mbarrier, bytes)?;
    }
    Ok(())
}

fn to_peer(
    warp: &mut Warp<'_>,
    lane: u32,
    to: u32,
    from: u32,
    bytes: u32,
    mbarrier: u32,
    reduction: Option<Reduction>,
) -> Result<(), LaunchError> {
    if rank_of(to) != rank_of(mbarrier) {
        let message = "bulk copy: destination and mbarrier must be in one block".to_owned();
        return Err(warp.bad_operand(lane, message));
    }
    let source = warp.shared_span(lane, from, bytes, ALIGN)?;
    let target = warp.shared_span(lane, to, bytes, ALIGN)?;
    warp.launch
        .counters
        .bulk_shared_loads
        .record_range(from, bytes);
    warp.launch
        .counters
        .bulk_shared_stores
        .record_range(to, bytes);
    async_order::bulk_tracked(warp, lane, mbarrier, Kind::Read, from, bytes);
    match reduction {
        None => {
            target.copy_from(0, &source, 0, bytes as usize);
            async_order::bulk_tracked(warp, lane, mbarrier, Kind::Write, to, bytes);
        }
        Some(reduction) => {
            reduction.apply(&target, &source);
            async_order::bulk_tracked(warp, lane, mbarrier, Kind::AtomicUpdate, to, bytes);
        }
    }
    mbarrier::complete_tx(warp, lane, mbarrier, bytes)
}

fn store(
    warp: &mut Warp<'_>,
    lane: u32,
    to: u64,
    from: u32,
    bytes: u32,
    reduction: Option<Reduction>,
) -> Result<(), LaunchError> {
    let source = warp.shared_span(lane, from, bytes, ALIGN)?;
    let target = warp.global_span(lane, to, bytes, ALIGN)?;
    let kind = match reduction {
        None => {
            target.copy_from(0, &source, 0, bytes as usize);
            Kind::Write
        }
        Some(reduction) => {
            reduction.apply(&target, &source);
            Kind::AtomicUpdate
        }
    };
    async_order::bulk_read(warp, lane, from, bytes);
    async_order::global_range(warp, lane, kind, to, bytes);
    let counters = &mut warp.launch.counters;
    counters.bulk_shared_loads.record_range(from, bytes);
    counters.bulk_stores.record_range(to, bytes.into());
    Ok(())
}

/// A hint: only its operands are checked.
fn prefetch(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["L2", "global", "L2::cache_hint"]);
    m.finish()?;
    let from = d.address(d.operand(i, 0)?)?;
    let bytes = d.source32(d.operand(i, 1)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.addresses(&from, mask);
        warp.check_defined(bytes, mask, "the size of a prefetch");
        Step::Next
    }))
}

fn commit(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        async_order::commit_bulk(warp, mask);
        Step::Next
    }))
}

fn wait(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ignore(&["read"]);
    m.finish()?;
    let Operand::Int(pending) = *d.operand(i, 0)? else {
        return Err(Unsupported::new("a group count that is no constant"));
    };
    Ok(Box::new(move |warp, mask| {
        async_order::wait_bulk(warp, mask, pending as usize);
        Step::Next
    }))
}
