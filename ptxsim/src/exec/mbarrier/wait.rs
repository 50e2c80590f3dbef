//! `mbarrier.test_wait` and `mbarrier.try_wait`.

use super::object::{Mbarrier, token_parity};
use super::{BYTES, broken_rule, finish, operand_at};
use crate::exec::async_access::{SharedAddress, bits, shared_space};
use crate::exec::async_order;
use crate::exec::registers::Source;
use crate::exec::step::{Reason, Step};
use crate::exec::warp::Warp;
use crate::memory::LANES;
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::ptx::ast::Instruction;
use crate::sim::LaunchError;

/// The operands of `mbarrier.test_wait` and `mbarrier.try_wait`.
struct Wait {
    place: SharedAddress,
    done: Option<u32>,
    phase: Phase,
    acquire: bool,
    suspends: bool,
}

/// How a wait names its phase.
#[derive(Clone, Copy)]
enum Phase {
    Parity(Source<u32>),
    State(Source<u64>),
}

pub(super) fn decode(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let phase = d.operand(i, 2)?;
    let wait = Wait {
        place: operand_at(d, i, 1, shared_space(&m))?,
        done: d.predicate_dest(d.operand(i, 0)?)?,
        phase: if m.take("parity") {
            Phase::Parity(d.source32(phase)?)
        } else {
            Phase::State(d.source64(phase)?)
        },
        acquire: !m.take("relaxed"),
        suspends: d.key == "mbarrier.try_wait",
    };
    m.ignore(&["acquire", "cta", "cluster"]);
    finish(&m)?;
    Ok(Box::new(move |warp, mask| {
        execute_wait(warp, mask, &wait).into()
    }))
}

fn execute_wait(warp: &mut Warp<'_>, mask: u32, w: &Wait) -> Result<Step, LaunchError> {
    let addresses = warp.shared_addresses(&w.place, mask)?;
    let states: [u64; LANES] = match w.phase {
        Phase::Parity(source) => {
            warp.check_defined(source, mask, "a phase parity");
            warp.read(source).map(u64::from)
        }
        Phase::State(source) => {
            warp.check_defined(source, mask, "an mbarrier's state");
            *warp.read(source)
        }
    };
    let mut done = 0;
    for lane in bits(mask) {
        let (at, state) = (addresses[lane as usize], states[lane as usize]);
        check_phase(warp, lane, at, state, matches!(w.phase, Phase::Parity(_)));
        let complete = inspect(warp, lane, at, |b| b.completed(token_parity(state)))?;
        done |= u32::from(complete.unwrap_or(true)) << lane;
        if complete == Some(true) {
            if let Some(life) = warp.cluster.asynchronous.mbarriers.get_mut(&at) {
                life.observed = true;
            }
            async_order::phase_observed(warp, at, w.acquire);
        }
    }
    if done == 0 {
        let lane = mask.trailing_zeros() as usize % LANES;
        let reason = Reason::Mbarrier {
            address: addresses[lane],
            phase: states[lane] & 1,
        };
        // A suspended wait may end at any time; it does when nothing else can go on, since a kernel
        // may test one phase before it does what completes it.
        if w.suspends && !warp.state.forced {
            return Ok(warp.retry(reason));
        }
    }
    if let Some(slot) = w.done {
        warp.registers.predicates.write(slot, mask, u32::MAX, done);
    }
    Ok(if done == 0 && !w.suspends {
        Step::Yield
    } else {
        Step::Next
    })
}

/// Reads an mbarrier; `None` where there is none, which is reported.
fn inspect<T>(
    warp: &mut Warp<'_>,
    lane: u32,
    address: u32,
    f: impl FnOnce(Mbarrier) -> T,
) -> Result<Option<T>, LaunchError> {
    let span = warp.shared_span(lane, address, BYTES, BYTES)?;
    async_order::mbarrier_access(warp, lane, address);
    let barrier = Mbarrier::from_bits(span.load(0));
    Ok(barrier
        .map(f)
        .map_err(|error| broken_rule(warp, lane, address, &error.to_string()))
        .ok())
}

/// A wait may name the current phase or the one before; a state remembers which it belongs to.
fn check_phase(warp: &mut Warp<'_>, lane: u32, address: u32, state: u64, parity: bool) {
    let Some(life) = warp.cluster.asynchronous.mbarriers.get(&address) else {
        return;
    };
    if parity && state > 1 {
        let message = format!("phase parity must be 0 or 1, got {state}");
        broken_rule(warp, lane, address, &message);
    } else if !parity && (life.phase as u32).wrapping_sub((state >> 32) as u32) > 1 {
        let message = format!("wait for phase {} in phase {}", state >> 32, life.phase);
        broken_rule(warp, lane, address, &message);
    }
}
