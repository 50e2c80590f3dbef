//! Arrivals: `mbarrier.arrive`, `mbarrier.arrive_drop`, and those of asynchronous copies.

use super::{finish, operand_at, phase_completed, update};
use crate::checks::SyncId;
use crate::exec::async_access::{SharedAddress, bits, shared_space};
use crate::exec::async_order;
use crate::exec::registers::{Dest, Source};
use crate::exec::step::Step;
use crate::exec::warp::Warp;
use crate::memory::LANES;
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::operands::AnyDest;
use crate::ptx::ast::Instruction;
use crate::sim::LaunchError;

/// The operands of `mbarrier.arrive` and `mbarrier.arrive_drop`.
struct Arrive {
    place: SharedAddress,
    state: Option<Dest<u64>>,
    count: Source<u32>,
    /// Bytes of `.expect_tx`.
    bytes: Option<Source<u32>>,
    release: bool,
    drop: bool,
    no_complete: bool,
}

pub(super) fn decode(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let expect = m.take("expect_tx");
    let extra = match i.operands.get(2) {
        Some(operand) => Some(d.source32(operand)?),
        None if expect => return Err(Unsupported::new("no transaction count")),
        None => None,
    };
    let (bytes, count) = if expect { (extra, None) } else { (None, extra) };
    let arrive = Arrive {
        place: operand_at(d, i, 1, shared_space(&m))?,
        state: match d.any_dest(d.operand(i, 0)?)? {
            AnyDest::Long(dest) => Some(dest),
            AnyDest::Discard => None,
            AnyDest::Word(..) => return Err(Unsupported::new("a state of 32 bits")),
        },
        count: count.unwrap_or_else(|| d.word(1)),
        bytes,
        release: !m.take("relaxed"),
        drop: d.key == "mbarrier.arrive_drop",
        no_complete: m.take("noComplete"),
    };
    m.ignore(&["release", "cta", "cluster"]);
    finish(&m)?;
    Ok(Box::new(move |warp, mask| {
        execute_arrive(warp, mask, &arrive).into()
    }))
}

fn execute_arrive(warp: &mut Warp<'_>, mask: u32, a: &Arrive) -> Result<Step, LaunchError> {
    warp.check_defined(a.count, mask, "the count of an arrival");
    let counts = *warp.read(a.count);
    let bytes = a.bytes.map(|source| {
        warp.check_defined(source, mask, "a transaction count");
        *warp.read(source)
    });
    let addresses = warp.shared_addresses(&a.place, mask)?;
    let mut states = [0; LANES];
    for lane in bits(mask) {
        let (at, count) = (addresses[lane as usize], counts[lane as usize]);
        async_order::arrive(warp, SyncId::Mbarrier(at), a.release);
        let phase = warp
            .cluster
            .asynchronous
            .mbarriers
            .get(&at)
            .map_or(0, |life| life.phase);
        let arrival = update(warp, lane, at, |b| {
            if let Some(bytes) = bytes {
                b.expect_tx(bytes[lane as usize])?;
            }
            if a.drop {
                b.drop_expected(count)?;
            }
            if a.no_complete {
                b.arrive_no_complete(count)
            } else {
                b.arrive(count)
            }
        })?;
        if let Some(arrival) = arrival {
            states[lane as usize] = arrival.token | phase << 32;
            if arrival.completed {
                phase_completed(warp, lane, at);
            }
        }
    }
    if let Some(state) = a.state {
        warp.write(state, mask, u32::MAX, &states);
    }
    Ok(Step::Next)
}

/// One arrival by the asynchronous copies of a lane: `cp.async.mbarrier.arrive`. `raise` without
/// `.noinc`.
///
/// # Errors
/// The address is not allowed.
pub fn arrive_copies(
    warp: &mut Warp<'_>,
    lane: u32,
    address: u32,
    raise: bool,
) -> Result<(), LaunchError> {
    async_order::arrive_copies(warp, address);
    let arrival = update(warp, lane, address, |b| {
        if raise {
            b.raise_pending()?;
        }
        b.arrive(1)
    })?;
    if arrival.is_some_and(|arrival| arrival.completed) {
        phase_completed(warp, lane, address);
    }
    Ok(())
}

/// complete-tx: an asynchronous operation issued by `lane` moved `bytes`.
///
/// # Errors
/// The address is not allowed.
pub fn complete_tx(
    warp: &mut Warp<'_>,
    lane: u32,
    address: u32,
    bytes: u32,
) -> Result<(), LaunchError> {
    if update(warp, lane, address, |b| b.complete_tx(bytes))? == Some(true) {
        phase_completed(warp, lane, address);
    }
    Ok(())
}
