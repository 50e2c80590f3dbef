//! Atomics of 128 bits.

use super::{Operation, track};
use crate::exec::load_store::MemoryModifiers;
use crate::exec::observe::Access;
use crate::exec::registers::Dest;
use crate::exec::step::Step;
use crate::exec::warp::Warp;
use crate::memory::{LANES, lanes};
use crate::program::Execute;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::operands::Address;
use crate::ptx::ast::Instruction;
use std::sync::{Mutex, PoisonError};

/// 128-bit atomics of launches on several threads exclude each other.
static EXCLUSION: Mutex<()> = Mutex::new(());

/// `atom.exch.b128` and `atom.cas.b128`.
pub(super) fn decode(
    d: &Decoder<'_>,
    i: &Instruction,
    operation: Operation,
    first: usize,
    address: Address,
    modifiers: &MemoryModifiers,
) -> Result<Execute, Unsupported> {
    let compare = match operation {
        Operation::Cas => true,
        Operation::Exch => false,
        _ => return Err(Unsupported::new("128-bit atomic")),
    };
    let (dest, b) = (
        d.long_pair(d.operand(i, 0)?)?,
        d.long_pair(d.operand(i, first + 1)?)?,
    );
    let new = if compare {
        d.long_pair(d.operand(i, first + 2)?)?
    } else {
        b
    };
    let (space, access) = (modifiers.space, Access::atomic(modifiers, 16));
    let run = move |warp: &mut Warp<'_>, mask: u32| {
        warp.access(access, space, &address, mask, |warp, row, _, same| {
            let pair = |warp: &Warp<'_>, [low, high]: [Dest<u64>; 2]| {
                [*warp.read(low.source()), *warp.read(high.source())]
            };
            let operands = [b, new]
                .map(|[low, high]| warp.defined(low.source()) & warp.defined(high.source()));
            let was_defined = track(row, same, 0..16, operands[0] & operands[1], !compare);
            let (b, new) = (pair(warp, b), pair(warp, new));
            let mut old = [[0; LANES]; 2];
            let guard = EXCLUSION.lock().unwrap_or_else(PoisonError::into_inner);
            for lane in lanes(same) {
                let place = row.lane(lane);
                let words = [place.load(0), place.load(8)];
                if !compare || words == [b[0][lane], b[1][lane]] {
                    place.store(0, new[0][lane]);
                    place.store(8, new[1][lane]);
                }
                [old[0][lane], old[1][lane]] = words;
            }
            drop(guard);
            warp.write(dest[0], same, was_defined, &old[0]);
            warp.write(dest[1], same, was_defined, &old[1]);
        })
    };
    Ok(Box::new(move |warp, mask| {
        run(warp, mask).map(|()| Step::Next).into()
    }))
}
