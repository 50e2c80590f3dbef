//! `mov`, `cvta`, `isspacep`.

use super::access::Space;
use super::lanes::{LaneLoop, instruction, mapped};
use super::registers::{Dest, Registers, Source};
use super::special;
use super::step::Step;
use super::value::Word;
use crate::memory::{LANES, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Window, window_of};
use crate::program::decoder::{Decoder, Unsupported, unfit};
use crate::program::operands::{AnyDest, AnySource, Place};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("mov", mov), ("cvta", cvta), ("isspacep", isspacep)];

fn mov(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    let (to, from) = (d.operand(i, 0)?, d.operand(i, 1)?);
    match (to, from) {
        _ if ty == Type::Pred => mov_predicate(d, to, from),
        (Operand::Vector(parts), _) => unpack(d, parts, from, ty),
        (_, Operand::Vector(parts)) => pack(d, to, parts, ty),
        (_, Operand::Special(name)) => mov_special(d, to, name),
        (_, Operand::Variable(variable, offset)) => {
            mov_place(d, to, d.symbols.place(*variable), *offset as u64)
        }
        (_, Operand::Function(name)) => {
            let address = d.symbols.function_address(name);
            let address = address.ok_or_else(|| Unsupported::new(format!("function {name}")))?;
            mov_place(d, to, Place::Global(address), 0)
        }
        _ if ty == Type::B128 => {
            let (to, from) = (d.long_pair(to)?, d.long_pair(from)?);
            Ok(copies(
                to.into_iter()
                    .zip(from)
                    .map(|(t, f)| Copy128 {
                        dest: t,
                        source: f.source(),
                    })
                    .collect(),
            ))
        }
        _ if ty.size() == 8 => move_register(d.dest::<u64>(to)?, d.source(from)?, u64::MAX),
        _ => {
            let keep = u32::MAX >> (32 - 8 * ty.size());
            move_register(d.dest::<u32>(to)?, d.source(from)?, keep)
        }
    }
}

/// A move of the bits of `keep`; no [`lanes::map1`](super::lanes::map1), whose results are computed.
fn move_register<W: Word>(
    dest: Dest<W>,
    source: Source<W>,
    keep: W,
) -> Result<Execute, Unsupported> {
    Ok(Box::new(move |warp, mask| {
        W::file_mut(warp.registers).copy(dest, source, mask, keep);
        Step::Next
    }))
}

/// One 64-bit half of a 128-bit move.
#[derive(Clone, Copy)]
struct Copy128 {
    dest: Dest<u64>,
    source: Source<u64>,
}

fn copies(parts: Vec<Copy128>) -> Execute {
    Box::new(move |warp, mask| {
        // All sources are read before a destination is written: the two may overlap.
        let values: Vec<_> = parts
            .iter()
            .map(|p| (*warp.read(p.source), warp.defined(p.source)))
            .collect();
        for (part, (value, defined)) in parts.iter().zip(values) {
            warp.write(part.dest, mask, defined, &value);
        }
        Step::Next
    })
}

fn mov_predicate(d: &Decoder<'_>, to: &Operand, from: &Operand) -> Result<Execute, Unsupported> {
    let to = d.predicate_dest(to)?;
    if let Operand::Special(name) = from {
        let read = special::find(name)?;
        return Ok(Box::new(move |warp, mask| {
            let bits = (0..LANES).fold(0, |m, lane| m | u32::from(read(warp, lane) != 0) << lane);
            to.into_iter()
                .for_each(|to| warp.registers.predicates.write(to, mask, u32::MAX, bits));
            Step::Next
        }));
    }
    let from = d.predicate(from)?;
    Ok(Box::new(move |warp, mask| {
        let predicates = &mut warp.registers.predicates;
        let (bits, defined) = (predicates.read(from), predicates.defined(from));
        to.into_iter()
            .for_each(|to| predicates.write(to, mask, defined, bits));
        Step::Next
    }))
}

/// Writes one value a lane, computed in 64 bits, to a register of any width.
fn each_lane(
    d: &Decoder<'_>,
    to: &Operand,
    value: impl Fn(&super::warp::Warp<'_>, usize) -> u64 + Send + Sync + 'static,
) -> Result<Execute, Unsupported> {
    match d.any_dest(to)? {
        AnyDest::Word(dest, bits) => Ok(Box::new(move |warp, mask| {
            let keep = u32::MAX >> (32 - bits);
            let row = std::array::from_fn(|lane| value(warp, lane) as u32 & keep);
            warp.write(dest, mask, u32::MAX, &row);
            Step::Next
        })),
        AnyDest::Long(dest) => Ok(Box::new(move |warp, mask| {
            let row = std::array::from_fn(|lane| value(warp, lane));
            warp.write(dest, mask, u32::MAX, &row);
            Step::Next
        })),
        AnyDest::Discard => Err(unfit(to, "a destination")),
    }
}

fn mov_special(d: &Decoder<'_>, to: &Operand, name: &str) -> Result<Execute, Unsupported> {
    each_lane(d, to, special::find(name)?)
}

fn mov_place(
    d: &Decoder<'_>,
    to: &Operand,
    place: Place,
    offset: u64,
) -> Result<Execute, Unsupported> {
    each_lane(d, to, move |warp, _| warp.fixed(place).wrapping_add(offset))
}

/// `mov.b32 {a, b}, r` and its like: the first element gets the low bits.
fn unpack(
    d: &Decoder<'_>,
    parts: &[Operand],
    from: &Operand,
    ty: Type,
) -> Result<Execute, Unsupported> {
    let bits = ty.size() * 8 / parts.len() as u32;
    let dests: Vec<AnyDest> = parts
        .iter()
        .map(|p| d.any_dest(p))
        .collect::<Result<_, _>>()?;
    if ty == Type::B128 {
        let halves = d.long_pair(from)?;
        let pairs = dests
            .into_iter()
            .zip(halves)
            .map(|(dest, half)| match dest {
                AnyDest::Long(dest) if bits == 64 => Ok(Copy128 {
                    dest,
                    source: half.source(),
                }),
                _ => Err(Unsupported::new(
                    "128-bit move to other than two 64-bit registers",
                )),
            });
        return Ok(copies(pairs.collect::<Result<_, _>>()?));
    }
    match d.any_source(from, ty)? {
        AnySource::Word(source) => Ok(instruction(Unpack {
            source,
            dests,
            bits,
        })),
        AnySource::Long(source) => Ok(instruction(Unpack {
            source,
            dests,
            bits,
        })),
    }
}

/// A register that is made of parts.
trait Whole: Word {
    /// The part that begins at bit `shift`, and what lies above it.
    fn part(self, shift: u32) -> u32;
    /// With a part put at bit `shift`, which was 0.
    fn with(self, part: u32, shift: u32) -> Self;
}

impl Whole for u32 {
    #[inline(always)]
    fn part(self, shift: u32) -> u32 {
        self >> shift
    }
    #[inline(always)]
    fn with(self, part: u32, shift: u32) -> u32 {
        self | part << shift
    }
}

impl Whole for u64 {
    #[inline(always)]
    fn part(self, shift: u32) -> u32 {
        (self >> shift) as u32
    }
    #[inline(always)]
    fn with(self, part: u32, shift: u32) -> u64 {
        self | u64::from(part) << shift
    }
}

struct Unpack<W> {
    source: Source<W>,
    dests: Vec<AnyDest>,
    bits: u32,
}

impl<W: Whole> LaneLoop for Unpack<W> {
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let (row, defined) = (*registers.read(self.source), registers.defined(self.source));
        let keep = u32::MAX >> (32 - self.bits);
        for (part, dest) in self.dests.iter().enumerate() {
            let shift = part as u32 * self.bits;
            if let AnyDest::Word(dest, _) = *dest {
                registers.write(dest, mask, defined, &mapped(&row, |v| v.part(shift) & keep));
            }
        }
    }
}

/// `mov.b64 r, {a, b}` and its like.
fn pack(
    d: &Decoder<'_>,
    to: &Operand,
    parts: &[Operand],
    ty: Type,
) -> Result<Execute, Unsupported> {
    if ty == Type::B128 {
        let sources: Vec<_> = parts
            .iter()
            .map(|p| d.source64(p))
            .collect::<Result<_, _>>()?;
        let pairs = d.long_pair(to)?.into_iter().zip(sources);
        return Ok(copies(
            pairs
                .map(|(dest, source)| Copy128 { dest, source })
                .collect(),
        ));
    }
    let sources: Vec<_> = parts
        .iter()
        .map(|p| d.source32(p))
        .collect::<Result<_, _>>()?;
    let bits = ty.size() * 8 / parts.len() as u32;
    match d.any_dest(to)? {
        AnyDest::Word(dest, _) => Ok(instruction(Pack {
            dest,
            sources,
            bits,
        })),
        AnyDest::Long(dest) => Ok(instruction(Pack {
            dest,
            sources,
            bits,
        })),
        AnyDest::Discard => Err(unfit(to, "a destination")),
    }
}

struct Pack<W> {
    dest: Dest<W>,
    sources: Vec<Source<u32>>,
    bits: u32,
}

impl<W: Whole> LaneLoop for Pack<W> {
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let (mut out, mut defined) = ([W::default(); LANES], u32::MAX);
        let keep = u32::MAX >> (32 - self.bits);
        for (part, &source) in self.sources.iter().enumerate() {
            defined &= registers.defined(source);
            let shift = part as u32 * self.bits;
            let row = registers.read(source);
            (0..LANES).for_each(|lane| out[lane] = out[lane].with(row[lane] & keep, shift));
        }
        registers.write(self.dest, mask, defined, &out);
    }
}

fn space_of(part: Option<&str>) -> Result<Space, Unsupported> {
    Ok(match part {
        Some("global" | "const") => Space::Global,
        Some("shared" | "shared::cta" | "shared::cluster") => Space::Shared,
        Some("local") => Space::Local,
        Some("param" | "param::entry") => Space::Param,
        other => return Err(Unsupported::new(format!("state space {other:?}"))),
    })
}

/// What lies between an address in a space and the generic one.
fn window(space: Space) -> u64 {
    match space {
        Space::Global | Space::Generic => 0,
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
    }
}

fn cvta(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let to_space = m.take("to");
    let ty = m.ty()?;
    let window = window(space_of(m.next())?);
    m.finish()?;
    if ty != Type::U64 {
        return Err(Unsupported::new("addresses of 32 bits"));
    }
    match d.operand(i, 1)? {
        Operand::Variable(variable, offset) => {
            let place = d.symbols.place(*variable);
            mov_place(
                d,
                d.operand(i, 0)?,
                place,
                window.wrapping_add(*offset as u64),
            )
        }
        _ if to_space => d.map1(i, move |a: u64| a.wrapping_sub(window)),
        _ => d.map1(i, move |a: u64| a.wrapping_add(window)),
    }
}

fn isspacep(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let part = m.next();
    let own_block = part == Some("shared") || part == Some("shared::cta");
    let wanted = match space_of(part)? {
        Space::Shared => Window::Shared,
        Space::Local => Window::Local,
        Space::Param => Window::Param,
        _ if part == Some("const") => return Err(Unsupported::new("isspacep.const")),
        _ => Window::Global,
    };
    m.finish()?;
    let (to, from) = (
        d.predicate_dest(d.operand(i, 0)?)?,
        d.source64(d.operand(i, 1)?)?,
    );
    Ok(Box::new(move |warp, mask| {
        let own = (SHARED_WINDOW + warp.shared_base()) >> crate::memory::SHARED_RANK_SHIFT;
        let inside = |a: u64| {
            window_of(a) == wanted && (!own_block || a >> crate::memory::SHARED_RANK_SHIFT == own)
        };
        let row = warp.read(from);
        let bits = (0..LANES).fold(0, |m, lane| m | u32::from(inside(row[lane])) << lane);
        let defined = warp.defined(from);
        to.into_iter()
            .for_each(|to| warp.registers.predicates.write(to, mask, defined, bits));
        Step::Next
    }))
}
