//! Instructions that the lanes of a warp execute together: `shfl`, `vote`, `match`, `redux`.

use super::registers::{Dest, Row, Source};
use super::step::Step;
use super::value::Word;
use super::warp::Warp;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::report::FindingKind;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[
    ("shfl.sync", shuffle),
    ("vote.sync", vote),
    ("match.any.sync", match_any),
    ("match.all.sync", match_all),
    ("redux.sync", reduce),
    ("activemask", active_mask),
];

/// Waits until the lanes that the member mask names are here. `Err` while they are not.
fn gather(warp: &mut Warp<'_>, mask: u32, members: Source<u32>) -> Result<(), Step> {
    warp.check_defined(members, mask, "the member mask");
    let needed = warp.read(members)[mask.trailing_zeros() as usize];
    if mask & !needed != 0 {
        let message = format!("lanes {mask:#010x} execute it, its member mask is {needed:#010x}");
        warp.find(
            FindingKind::WarpSync,
            message,
            (mask & !needed).trailing_zeros(),
            None,
        );
    }
    warp.converge(mask, needed).map_or(Ok(()), Err)
}

/// How a shuffle finds its source lane.
#[derive(Clone, Copy)]
enum Mode {
    Up,
    Down,
    Butterfly,
    Index,
}

impl Mode {
    /// The source lane, and whether it lies in the lane's segment (PTX ISA, shfl.sync).
    fn source(self, lane: u32, b: u32, c: u32) -> (u32, bool) {
        let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
        let highest = lane & segment | clamp & !segment;
        let lowest = lane & segment;
        let (source, inside) = match self {
            Mode::Up => (
                lane.wrapping_sub(b),
                lane as i32 - b as i32 >= highest as i32,
            ),
            Mode::Down => (lane + b, lane + b <= highest),
            Mode::Butterfly => (lane ^ b, lane ^ b <= highest),
            Mode::Index => {
                let source = lowest | b & !segment;
                (source, source <= highest)
            }
        };
        if inside {
            (source & 31, true)
        } else {
            (lane, false)
        }
    }
}

fn shuffle(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let modes = [
        ("up", Mode::Up),
        ("down", Mode::Down),
        ("bfly", Mode::Butterfly),
        ("idx", Mode::Index),
    ];
    let mode = m.choose(&modes).ok_or_else(|| Unsupported::new("mode"))?;
    m.ty()?;
    m.finish()?;
    let (dest, inside) = match d.operand(i, 0)? {
        Operand::Pair(dest, p) => (d.dest::<u32>(dest)?, d.predicate_dest(p)?),
        single => (d.dest::<u32>(single)?, None),
    };
    let [a, b, c, members] = [1, 2, 3, 4].map(|k| d.operand(i, k).and_then(|o| d.source32(o)));
    let (a, b, c, members) = (a?, b?, c?, members?);
    Ok(Box::new(move |warp, mask| {
        if let Err(wait) = gather(warp, mask, members) {
            return wait;
        }
        let (values, by, clamps) = (warp.read(a), warp.read(b), warp.read(c));
        let known = warp.defined(a);
        let steady = warp.defined(b) & warp.defined(c);
        let (mut bits, mut defined) = (0, 0);
        let out: Row<u32> = std::array::from_fn(|lane| {
            let (source, within) = mode.source(lane as u32, by[lane], clamps[lane]);
            bits |= u32::from(within) << lane;
            // The value of a lane that does not take part is undefined.
            defined |= ((known & mask) >> source & 1) << lane;
            values[source as usize]
        });
        warp.write(dest, mask, defined & steady, &out);
        if let Some(slot) = inside {
            warp.registers.predicates.write(slot, mask, steady, bits);
        }
        Step::Next
    }))
}

fn vote(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    /// From the lanes in which the predicate holds and those that take part.
    type Outcome = fn(u32, u32) -> bool;
    let outcomes: [(&str, Option<Outcome>); 4] = [
        ("all", Some(|holds, members| holds == members)),
        ("any", Some(|holds, _| holds != 0)),
        ("uni", Some(|holds, members| holds == 0 || holds == members)),
        ("ballot", None),
    ];
    let outcome = m
        .choose(&outcomes)
        .ok_or_else(|| Unsupported::new("mode"))?;
    m.ty()?;
    m.finish()?;
    let predicate = d.predicate(d.operand(i, 1)?)?;
    let members = d.source32(d.operand(i, 2)?)?;
    let target = d.operand(i, 0)?;
    let (bits, slot) = match outcome {
        None => (Some(d.dest::<u32>(target)?), None),
        Some(_) => (None, d.predicate_dest(target)?),
    };
    Ok(Box::new(move |warp, mask| {
        if let Err(wait) = gather(warp, mask, members) {
            return wait;
        }
        let file = &mut warp.registers.predicates;
        let holds = file.read(predicate) & mask;
        let defined = if mask & !file.defined(predicate) == 0 {
            mask
        } else {
            0
        };
        if let (Some(outcome), Some(slot)) = (outcome, slot) {
            file.write(
                slot,
                mask,
                defined,
                if outcome(holds, mask) { u32::MAX } else { 0 },
            );
        }
        if let Some(dest) = bits {
            warp.write(dest, mask, defined, &[holds; LANES]);
        }
        Step::Next
    }))
}

/// `match.any`: the lanes that hold the same value.
fn match_any(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    let dest = d.dest(d.operand(i, 0)?)?;
    match ty.size() {
        8 => matching::<u64>(d, i, dest, None),
        _ => matching::<u32>(d, i, dest, None),
    }
}

/// `match.all`: all lanes if they hold the same value, none otherwise.
fn match_all(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    let (dest, p) = match d.operand(i, 0)? {
        Operand::Pair(dest, p) => (d.dest(dest)?, d.predicate_dest(p)?),
        single => (d.dest(single)?, None),
    };
    match ty.size() {
        8 => matching::<u64>(d, i, dest, Some(p)),
        _ => matching::<u32>(d, i, dest, Some(p)),
    }
}

/// The lanes of `mask` if the operand is defined in all of them, else none: what results of all lanes
/// together are.
fn defined_together<W: Word>(warp: &Warp<'_>, mask: u32, source: Source<W>) -> u32 {
    match mask & !warp.defined(source) {
        0 => mask,
        _ => 0,
    }
}

fn matching<W: Word + PartialEq>(
    d: &Decoder<'_>,
    i: &Instruction,
    dest: Dest<u32>,
    all: Option<Option<u32>>,
) -> Result<Execute, Unsupported> {
    let value: Source<W> = d.source(d.operand(i, 1)?)?;
    let members = d.source32(d.operand(i, 2)?)?;
    Ok(Box::new(move |warp, mask| {
        if let Err(wait) = gather(warp, mask, members) {
            return wait;
        }
        let defined = defined_together(warp, mask, value);
        let row = warp.read(value);
        let same = |lane: usize| {
            (0..LANES)
                .filter(|&k| mask >> k & 1 == 1 && row[k] == row[lane])
                .fold(0, |m, k| m | 1 << k)
        };
        let mut out: Row<u32> = std::array::from_fn(same);
        if let Some(p) = all {
            let agree = out[mask.trailing_zeros() as usize] == mask;
            out = [if agree { mask } else { 0 }; LANES];
            if let Some(slot) = p {
                warp.registers
                    .predicates
                    .write(slot, mask, defined, if agree { mask } else { 0 });
            }
        }
        warp.write(dest, mask, defined, &out);
        Step::Next
    }))
}

fn reduce(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let op = m.next().ok_or_else(|| Unsupported::new("operation"))?;
    let ty = m.ty()?;
    m.finish()?;
    let f: fn(u32, u32) -> u32 = match (op, ty) {
        ("add", Type::U32 | Type::S32) => u32::wrapping_add,
        ("min", Type::U32) => u32::min,
        ("max", Type::U32) => u32::max,
        ("min", Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
        ("max", Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
        ("and", Type::B32) => |a, b| a & b,
        ("or", Type::B32) => |a, b| a | b,
        ("xor", Type::B32) => |a, b| a ^ b,
        _ => return Err(Unsupported::new("operation on this type")),
    };
    let dest = d.dest(d.operand(i, 0)?)?;
    let value = d.source32(d.operand(i, 1)?)?;
    let members: Source<u32> = d.source32(d.operand(i, 2)?)?;
    Ok(Box::new(move |warp, mask| {
        if let Err(wait) = gather(warp, mask, members) {
            return wait;
        }
        let defined = defined_together(warp, mask, value);
        let row = warp.read(value);
        let lanes = (0..LANES).filter(|&lane| mask >> lane & 1 == 1);
        let result = lanes.map(|lane| row[lane]).reduce(f).unwrap_or(0);
        warp.write(dest, mask, defined, &[result; LANES]);
        Step::Next
    }))
}

fn active_mask(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    m.ty()?;
    m.finish()?;
    let dest = d.dest(d.operand(i, 0)?)?;
    Ok(Box::new(move |warp, mask| {
        warp.write(dest, mask, mask, &[mask; LANES]);
        Step::Next
    }))
}
