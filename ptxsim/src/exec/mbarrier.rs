//! The `mbarrier` instructions: PTX ISA 9.0, 9.7.13.15.
//!
//! A broken rule is a finding and leaves the object as it was.

mod arrive;
pub mod object;
mod wait;

pub use arrive::{arrive_copies, complete_tx};

use super::access::Space;
use super::async_access::{SharedAddress, bits, generic, shared_space};
use super::async_order;
use super::async_state::MbarrierLife;
use super::step::Step;
use super::warp::Warp;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::Instruction;
use crate::report::FindingKind;
use crate::sim::{Checks, LaunchError};
use object::{Mbarrier, MbarrierError, token_pending};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("mbarrier.init", init),
    ("mbarrier.inval", inval),
    ("mbarrier.expect_tx", transactions),
    ("mbarrier.complete_tx", transactions),
    ("mbarrier.arrive", arrive::decode),
    ("mbarrier.arrive_drop", arrive::decode),
    ("mbarrier.test_wait", wait::decode),
    ("mbarrier.try_wait", wait::decode),
    ("mbarrier.pending_count", pending_count),
];

/// Size and alignment of an mbarrier.
const BYTES: u32 = 8;

fn operand_at(
    d: &Decoder<'_>,
    i: &Instruction,
    index: usize,
    space: Space,
) -> Result<SharedAddress, Unsupported> {
    Ok(SharedAddress {
        address: d.address(d.operand(i, index)?)?,
        space,
    })
}

/// Takes `.b64`, the type of every mbarrier.
fn finish(m: &Modifiers<'_>) -> Result<(), Unsupported> {
    m.ignore(&["b64"]);
    m.finish()
}

fn init(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let place = operand_at(d, i, 0, shared_space(&m))?;
    let count = d.source32(d.operand(i, 1)?)?;
    finish(&m)?;
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(count, mask, "the count of an mbarrier");
        let counts = *warp.read(count);
        each(warp, &place, mask, |warp, lane, address| {
            initialize(warp, lane, address, counts[lane as usize])
        })
    }))
}

fn initialize(warp: &mut Warp<'_>, lane: u32, address: u32, count: u32) -> Result<(), LaunchError> {
    let span = warp.shared_span(lane, address, BYTES, BYTES)?;
    let barrier = match Mbarrier::new(count) {
        Ok(barrier) => barrier,
        Err(error) => {
            broken_rule(warp, lane, address, &error.to_string());
            return Ok(());
        }
    };
    span.write(0, &barrier.to_bits().to_le_bytes());
    async_order::plain_write(warp, lane, address, BYTES);
    changed(warp);
    if warp.launch.checks == Checks::All {
        let life = MbarrierLife {
            phase: 0,
            observed: true,
        };
        if warp
            .cluster
            .asynchronous
            .mbarriers
            .insert(address, life)
            .is_some()
        {
            broken_rule(
                warp,
                lane,
                address,
                "initialised again without mbarrier.inval",
            );
        }
    }
    Ok(())
}

fn inval(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let place = operand_at(d, i, 0, shared_space(&m))?;
    finish(&m)?;
    Ok(Box::new(move |warp, mask| {
        each(warp, &place, mask, |warp, lane, address| {
            let span = warp.shared_span(lane, address, BYTES, BYTES)?;
            if let Err(error) = Mbarrier::from_bits(span.load(0)) {
                broken_rule(warp, lane, address, &error.to_string());
                return Ok(());
            }
            span.store(0, 0u64);
            span.set_valid(0, BYTES as usize, false);
            async_order::plain_write(warp, lane, address, BYTES);
            warp.cluster.asynchronous.mbarriers.remove(&address);
            changed(warp);
            Ok(())
        })
    }))
}

fn transactions(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let place = operand_at(d, i, 0, shared_space(&m))?;
    let bytes = d.source32(d.operand(i, 1)?)?;
    m.ignore(&["relaxed", "cta", "cluster"]);
    finish(&m)?;
    let expect = d.key == "mbarrier.expect_tx";
    Ok(Box::new(move |warp, mask| {
        warp.check_defined(bytes, mask, "a transaction count");
        let row = *warp.read(bytes);
        each(warp, &place, mask, |warp, lane, address| {
            let bytes = row[lane as usize];
            if expect {
                update(warp, lane, address, |b| b.expect_tx(bytes)).map(drop)
            } else {
                complete_tx(warp, lane, address, bytes)
            }
        })
    }))
}

fn pending_count(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    finish(&d.modifiers(i))?;
    d.map1(i, token_pending)
}

/// Calls `f(lane, address)` for each lane.
fn each(
    warp: &mut Warp<'_>,
    place: &SharedAddress,
    mask: u32,
    mut f: impl FnMut(&mut Warp<'_>, u32, u32) -> Result<(), LaunchError>,
) -> Step {
    let run = warp.shared_addresses(place, mask).and_then(|addresses| {
        bits(mask).try_for_each(|lane| f(warp, lane, addresses[lane as usize]))
    });
    run.map(|()| Step::Next).into()
}

/// Changes an mbarrier; `None` where a rule was broken, which is reported.
fn update<T>(
    warp: &mut Warp<'_>,
    lane: u32,
    address: u32,
    f: impl FnOnce(&mut Mbarrier) -> Result<T, MbarrierError>,
) -> Result<Option<T>, LaunchError> {
    let span = warp.shared_span(lane, address, BYTES, BYTES)?;
    async_order::mbarrier_access(warp, lane, address);
    let result = Mbarrier::from_bits(span.load(0)).and_then(|mut barrier| {
        let value = f(&mut barrier)?;
        span.store(0, barrier.to_bits());
        Ok(value)
    });
    changed(warp);
    Ok(result
        .map_err(|error| broken_rule(warp, lane, address, &error.to_string()))
        .ok())
}

/// The current phase completed. PTX wants a wait to have seen the phase before by the first arrival
/// of this one; rings whose blocks release each other's stages break that without harm, so it is
/// reported only here, where a wait for the phase before can no longer succeed.
fn phase_completed(warp: &mut Warp<'_>, lane: u32, address: u32) {
    let mut missed = None;
    if let Some(life) = warp.cluster.asynchronous.mbarriers.get_mut(&address) {
        missed = (!life.observed).then_some(life.phase);
        *life = MbarrierLife {
            phase: life.phase + 1,
            observed: false,
        };
    }
    async_order::phase_completed(warp, address);
    if let Some(phase) = missed {
        let before = phase - 1;
        let rule =
            format!("phase {phase} completes although no wait has seen phase {before} complete");
        broken_rule(warp, lane, address, &rule);
    }
}

fn changed(warp: &mut Warp<'_>) {
    warp.launch.effects += 1;
}

#[cold]
fn broken_rule(warp: &mut Warp<'_>, lane: u32, address: u32, rule: &str) {
    let message = format!("mbarrier: {rule}");
    warp.find(FindingKind::Mbarrier, message, lane, Some(generic(address)));
}
