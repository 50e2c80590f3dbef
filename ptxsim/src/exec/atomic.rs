//! `atom` and `red` on global and shared memory.

mod wide;

use super::access::{Home, Space};
use super::half::{Bf16, F16, Half, choose};
use super::load_store::memory_modifiers;
use super::observe::Access;
use super::registers::Row;
use super::step::Step;
use super::warp::Warp;
use crate::memory::{LANES, Span, lanes};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::{Address, AnyDest, AnySource};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::sim::LaunchError;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("atom", atom), ("red", red)];

/// What an atomic does to a word: `(old, b, c)` to new, in the low bits.
pub type Update = fn(u64, u64, u64) -> u64;

/// An operation by its modifier, but for `cas` and `exch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Compare and swap.
    Cas,
    /// Exchange.
    Exch,
    /// Addition; floating-point types round to nearest even.
    Add,
    /// Add one, or wrap to 0 at the operand.
    Inc,
    /// Subtract one, or wrap to the operand at 0 and above it.
    Dec,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
}

const OPERATIONS: &[(&str, Operation)] = &[
    ("and", Operation::And),
    ("or", Operation::Or),
    ("xor", Operation::Xor),
    ("cas", Operation::Cas),
    ("exch", Operation::Exch),
    ("add", Operation::Add),
    ("inc", Operation::Inc),
    ("dec", Operation::Dec),
    ("min", Operation::Min),
    ("max", Operation::Max),
];

/// Takes the operation among an opcode's modifiers.
///
/// # Errors
/// When there is none.
pub fn operation(m: &Modifiers<'_>) -> Result<Operation, Unsupported> {
    m.choose(OPERATIONS)
        .ok_or_else(|| Unsupported::new("no operation"))
}

/// The function that updates a word of type `ty`. `flush` turns subnormal operands and results of
/// f32 additions into zeros, as atomics on global memory do (PTX ISA, `atom`).
///
/// # Errors
/// When the operation is not defined for the type.
pub fn update(operation: Operation, ty: Type, flush: bool) -> Result<Update, Unsupported> {
    use Operation::{Add, And, Cas, Dec, Exch, Inc, Max, Min, Or, Xor};
    Ok(match (operation, ty) {
        (And, Type::B32 | Type::B64) => |old, b, _| old & b,
        (Or, Type::B32 | Type::B64) => |old, b, _| old | b,
        (Xor, Type::B32 | Type::B64) => |old, b, _| old ^ b,
        (Exch, Type::B32 | Type::B64) => |_, b, _| b,
        (Cas, Type::B16 | Type::B32 | Type::B64) => |old, b, c| if old == b { c } else { old },
        (Inc, Type::U32) => |old, b, _| if old >= b { 0 } else { old + 1 },
        (Dec, Type::U32) => |old, b, _| if old == 0 || old > b { b } else { old - 1 },
        (Add, Type::U32 | Type::S32) => |old, b, _| u64::from((old as u32).wrapping_add(b as u32)),
        (Add, Type::U64 | Type::S64) => |old, b, _| old.wrapping_add(b),
        (Min, Type::U32 | Type::U64) => |old, b, _| old.min(b),
        (Max, Type::U32 | Type::U64) => |old, b, _| old.max(b),
        (Min, Type::S32) => |old, b, _| u64::from((old as i32).min(b as i32) as u32),
        (Max, Type::S32) => |old, b, _| u64::from((old as i32).max(b as i32) as u32),
        (Min, Type::S64) => |old, b, _| (old as i64).min(b as i64) as u64,
        (Max, Type::S64) => |old, b, _| (old as i64).max(b as i64) as u64,
        (Add, Type::F32) if flush => |old, b, _| add_f32(flushed(old), flushed(b), flushed),
        (Add, Type::F32) => |old, b, _| add_f32(old, b, |sum| sum),
        (Add, Type::F64) => |old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (_, Type::F16) => half_update::<F16>(operation)?,
        (_, Type::BF16) => half_update::<Bf16>(operation)?,
        (_, Type::F16x2) => pair_update::<F16>(operation)?,
        (_, Type::BF16x2) => pair_update::<Bf16>(operation)?,
        _ => return Err(Unsupported::new(format!("{operation:?} of {ty:?}"))),
    })
}

fn add_f32(a: u64, b: u64, finish: fn(u64) -> u64) -> u64 {
    finish(
        (f32::from_bits(a as u32) + f32::from_bits(b as u32))
            .to_bits()
            .into(),
    )
}

/// The bits of an f32, zero of the same sign in place of a subnormal.
fn flushed(bits: u64) -> u64 {
    if f32::from_bits(bits as u32).is_subnormal() {
        bits & 0x8000_0000
    } else {
        bits
    }
}

fn half_update<H: Half>(operation: Operation) -> Result<Update, Unsupported> {
    Ok(match operation {
        Operation::Add => |old, b, _| on_halves(old, b, H::add),
        Operation::Min => |old, b, _| on_halves(old, b, |x: H, y| choose(x, y, false, false)),
        Operation::Max => |old, b, _| on_halves(old, b, |x: H, y| choose(x, y, true, false)),
        _ => return Err(Unsupported::new(format!("{operation:?} of halves"))),
    })
}

fn pair_update<H: Half>(operation: Operation) -> Result<Update, Unsupported> {
    Ok(match operation {
        Operation::Add => |old, b, _| on_pairs(old, b, H::add),
        Operation::Min => |old, b, _| on_pairs(old, b, |x: H, y| choose(x, y, false, false)),
        Operation::Max => |old, b, _| on_pairs(old, b, |x: H, y| choose(x, y, true, false)),
        _ => return Err(Unsupported::new(format!("{operation:?} of halves"))),
    })
}

fn on_halves<H: Half>(old: u64, b: u64, f: fn(H, H) -> H) -> u64 {
    f(H::from_bits(old as u16), H::from_bits(b as u16))
        .to_bits()
        .into()
}

fn on_pairs<H: Half>(old: u64, b: u64, f: fn(H, H) -> H) -> u64 {
    on_halves(old, b, f) | on_halves(old >> 16, b >> 16, f) << 16
}

fn atom(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    decode(d, i, Some(d.operand(i, 0)?), 1)
}

fn red(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    decode(d, i, None, 0)
}

/// One element of an atomic, which may be a vector.
struct Element {
    dest: AnyDest,
    b: AnySource,
    c: Option<AnySource>,
}

/// A decoded `atom` or `red`.
struct Atomic {
    /// Whether the new value is the operand alone, whatever the old one was.
    replaces: bool,
    space: Space,
    access: Access,
    address: Address,
    elements: Vec<Element>,
    size: usize,
    /// For shared, and for other memory.
    updates: [Update; 2],
}

fn decode(
    d: &Decoder<'_>,
    i: &Instruction,
    dest: Option<&Operand>,
    first: usize,
) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let operation = operation(&m)?;
    let modifiers = memory_modifiers(&m);
    m.ignore(&["noftz"]);
    let ty = m.ty()?;
    m.finish()?;
    let address = d.address(d.operand(i, first)?)?;
    if ty == Type::B128 {
        return wide::decode(d, i, operation, first, address, &modifiers);
    }
    let operands = d.elements(d.operand(i, first + 1)?);
    let c = match operation {
        Operation::Cas => Some(d.any_source(d.operand(i, first + 2)?, ty)?),
        _ => None,
    };
    let dests = dest.map(|dest| d.elements(dest));
    let element = |(index, operand): (usize, &Operand)| {
        let dest = dests.map(|all| all.get(index).ok_or_else(|| Unsupported::new("vector")));
        let dest = dest.transpose()?.map(|dest| d.any_dest(dest)).transpose()?;
        let b = d.any_source(operand, ty)?;
        Ok(Element {
            dest: dest.unwrap_or(AnyDest::Discard),
            b,
            c,
        })
    };
    let elements: Vec<Element> = operands
        .iter()
        .enumerate()
        .map(element)
        .collect::<Result<_, Unsupported>>()?;
    let size = ty.size() as usize;
    let atomic = Atomic {
        replaces: operation == Operation::Exch,
        space: modifiers.space,
        access: Access::atomic(&modifiers, (size * elements.len()) as u32),
        address,
        elements,
        size,
        updates: [update(operation, ty, false)?, update(operation, ty, true)?],
    };
    Ok(Box::new(move |warp, mask| {
        execute(warp, mask, &atomic).map(|()| Step::Next).into()
    }))
}

fn execute(warp: &mut Warp<'_>, mask: u32, atomic: &Atomic) -> Result<(), LaunchError> {
    let Atomic {
        access,
        space,
        ref address,
        size,
        ..
    } = *atomic;
    warp.access(access, space, address, mask, |warp, row, home, lanes_of| {
        let shared = matches!(home, Home::Shared(_));
        let update = atomic.updates[usize::from(!shared)];
        for (index, element) in atomic.elements.iter().enumerate() {
            let offset = index * size;
            let operands = defined(warp, element);
            let was_defined = track(
                row,
                lanes_of,
                offset..offset + size,
                operands,
                atomic.replaces,
            );
            let (b, c) = (longs(warp, element.b), element.c.map(|c| longs(warp, c)));
            let mut old = [0; LANES];
            for lane in lanes(lanes_of) {
                let c = c.map_or(0, |c| c[lane]);
                old[lane] = apply(&row.lane(lane), offset, size, |word| {
                    update(word, b[lane], c)
                });
            }
            write(warp, element.dest, lanes_of, was_defined, &old);
        }
    })
}

/// Marks what the lanes of `mask`, one after the other, make of the bytes of `range`: defined where
/// the operands are and, unless the operation `replaces` the old value, that was. The lanes that met
/// a defined old value.
fn track(
    row: &crate::memory::Row<'_>,
    mask: u32,
    range: Range<usize>,
    operands: u32,
    replaces: bool,
) -> u32 {
    let (offset, size) = (range.start, range.len());
    if row.defined(offset, size) & operands & mask == mask {
        return mask;
    }
    let mut defined = 0;
    for lane in lanes(mask) {
        let place = row.lane(lane);
        let was = place.is_valid(offset, size);
        defined |= u32::from(was) << lane;
        let is = (was || replaces) && operands >> lane & 1 != 0;
        place.set_valid(offset, size, is);
    }
    defined
}

fn defined(warp: &Warp<'_>, element: &Element) -> u32 {
    let of = |source| match source {
        AnySource::Word(s) => warp.defined(s),
        AnySource::Long(s) => warp.defined(s),
    };
    of(element.b) & element.c.map_or(u32::MAX, of)
}

fn longs(warp: &Warp<'_>, source: AnySource) -> Row<u64> {
    match source {
        AnySource::Word(s) => warp.read(s).map(u64::from),
        AnySource::Long(s) => *warp.read(s),
    }
}

fn write(warp: &mut Warp<'_>, dest: AnyDest, mask: u32, defined: u32, values: &Row<u64>) {
    match dest {
        AnyDest::Word(dest, _) => warp.write(dest, mask, defined, &values.map(|v| v as u32)),
        AnyDest::Long(dest) => warp.write(dest, mask, defined, values),
        AnyDest::Discard => {}
    }
}

/// Updates the word of `size` bytes at `offset` of `place` atomically and gives its old value.
pub fn apply(place: &Span<'_>, offset: usize, size: usize, f: impl Fn(u64) -> u64) -> u64 {
    // The update always succeeds, so both sides of the result hold the old value.
    match size {
        2 => {
            let update = |old: u16| Some(f(old.into()) as u16);
            let old = place
                .atomic16(offset)
                .fetch_update(Relaxed, Relaxed, update);
            old.unwrap_or_else(|old| old).into()
        }
        4 => {
            let update = |old: u32| Some(f(old.into()) as u32);
            let old = place
                .atomic32(offset)
                .fetch_update(Relaxed, Relaxed, update);
            old.unwrap_or_else(|old| old).into()
        }
        _ => {
            let update = |old: u64| Some(f(old));
            let old = place
                .atomic64(offset)
                .fetch_update(Relaxed, Relaxed, update);
            old.unwrap_or_else(|old| old)
        }
    }
}
