//! `cp.async`: copies of 4, 8 or 16 bytes from global to shared memory, and their groups.

use super::access::Space;
use super::async_access::{SharedAddress, bits, shared_space};
use super::registers::{Predicate, Source};
use super::step::Step;
use super::warp::Warp;
use super::{async_order, mbarrier};
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::operands::Address;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::sim::LaunchError;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("cp.async.ca", copy),
    ("cp.async.cg", copy),
    ("cp.async.commit_group", commit),
    ("cp.async.wait_group", wait),
    ("cp.async.wait_all", wait_all),
    ("cp.async.mbarrier.arrive", mbarrier_arrive),
];

/// How much of the source is read.
#[derive(Clone, Copy)]
enum Take {
    All,
    /// So many bytes; zeros follow.
    Bytes(Source<u32>),
    /// Nothing where the predicate is true.
    Unless(Predicate),
}

struct Copy {
    to: SharedAddress,
    from: Address,
    size: u32,
    take: Take,
}

fn copy(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let space = shared_space(&m);
    if space != Space::Shared || !m.take("global") {
        return Err(Unsupported::new("a state space"));
    }
    let policy = m.take("L2::cache_hint");
    m.ignore(&["L2::64B", "L2::128B", "L2::256B"]);
    m.finish()?;
    let size = match d.operand(i, 2)? {
        Operand::Int(size @ (4 | 8 | 16)) => *size as u32,
        other => return Err(Unsupported::new(format!("copy size {other:?}"))),
    };
    if size != 16 && d.key == "cp.async.cg" {
        return Err(Unsupported::new(format!("copy size {size} with .cg")));
    }
    let extra = i.operands.len() - 3 - usize::from(policy && i.operands.len() > 3);
    let take = match (extra, i.operands.get(3)) {
        (1, Some(operand)) if is_predicate(d, operand) => Take::Unless(d.predicate(operand)?),
        (1, Some(operand)) => Take::Bytes(d.source32(operand)?),
        (0, _) => Take::All,
        _ => return Err(Unsupported::new("operands")),
    };
    let to = SharedAddress {
        address: d.address(d.operand(i, 0)?)?,
        space,
    };
    let copy = Copy {
        to,
        from: d.address(d.operand(i, 1)?)?,
        size,
        take,
    };
    Ok(Box::new(move |warp, mask| {
        execute_copy(warp, mask, &copy).into()
    }))
}

fn is_predicate(d: &Decoder<'_>, operand: &Operand) -> bool {
    match operand {
        Operand::Register(r) | Operand::NotRegister(r) => d.register_type(*r) == Type::Pred,
        _ => false,
    }
}

fn execute_copy(warp: &mut Warp<'_>, mask: u32, c: &Copy) -> Result<Step, LaunchError> {
    let to = warp.shared_addresses(&c.to, mask)?;
    let from = warp.addresses(&c.from, mask);
    let taken = bytes_taken(warp, mask, c)?;
    let size = c.size as usize;
    let places = warp.shared_row(&to.map(u64::from), mask, size)?;
    let mut reading = 0;
    for lane in bits(mask) {
        let target = places.lane(lane as usize);
        let bytes = taken[lane as usize] as usize;
        if bytes > 0 {
            reading |= 1 << lane;
            // The alignment is that of the whole copy, even where fewer bytes are read.
            let source = warp.global_span(lane, from[lane as usize], bytes as u32, c.size)?;
            target.copy_from(0, &source, 0, bytes);
        }
        target.write(bytes, &[0; 16][bytes..size]);
    }
    async_order::copy(warp, mask, &to, size);
    async_order::global_reads(warp, reading, &from, size);
    let counters = &mut warp.launch.counters;
    counters.shared_stores.record(&to, mask, size);
    counters.async_copies.record(&from, reading, size);
    warp.launch.effects += 1;
    Ok(Step::Next)
}

/// Bytes that each lane reads.
fn bytes_taken(warp: &mut Warp<'_>, mask: u32, c: &Copy) -> Result<[u32; LANES], LaunchError> {
    match c.take {
        Take::All => Ok([c.size; LANES]),
        Take::Unless(ignore) => {
            let undefined = mask & !warp.registers.predicates.defined(ignore);
            if undefined != 0 {
                warp.find_undefined(undefined, "the predicate of a copy");
            }
            let ignore = warp.registers.predicates.read(ignore);
            Ok(std::array::from_fn(|lane| {
                if ignore >> lane & 1 != 0 { 0 } else { c.size }
            }))
        }
        Take::Bytes(source) => {
            warp.check_defined(source, mask, "the source size of a copy");
            let row = *warp.read(source);
            if let Some(lane) = bits(mask).find(|&lane| row[lane as usize] > c.size) {
                let message = format!(
                    "cp.async: source size must be at most the copy's {}, got {}",
                    c.size, row[lane as usize]
                );
                return Err(warp.bad_operand(lane, message));
            }
            Ok(row)
        }
    }
}

fn commit(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        async_order::commit_copies(warp, mask);
        Step::Next
    }))
}

fn wait(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    let Operand::Int(pending) = *d.operand(i, 0)? else {
        return Err(Unsupported::new("a group count that is no constant"));
    };
    Ok(Box::new(move |warp, mask| {
        async_order::wait_copies(warp, mask, pending as usize);
        Step::Next
    }))
}

fn wait_all(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    d.modifiers(i).finish()?;
    Ok(Box::new(|warp, mask| {
        async_order::commit_copies(warp, mask);
        async_order::wait_copies(warp, mask, 0);
        Step::Next
    }))
}

fn mbarrier_arrive(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let raise = !m.take("noinc");
    let place = SharedAddress {
        address: d.address(d.operand(i, 0)?)?,
        space: shared_space(&m),
    };
    m.ignore(&["b64"]);
    m.finish()?;
    Ok(Box::new(move |warp, mask| {
        let run = warp.shared_addresses(&place, mask).and_then(|addresses| {
            bits(mask).try_for_each(|lane| {
                mbarrier::arrive_copies(warp, lane, addresses[lane as usize], raise)
            })
        });
        run.map(|()| Step::Next).into()
    }))
}
