//! `ld`, `ldu` and `st` of all state spaces.

use super::access::{Home, Space};
use super::lanes::{Body, execute, mapped};
use super::observe::Access;
use super::registers::{Dest, Row};
use super::step::Step;
use super::warp::Warp;
use crate::memory::{self, LANES, Scalar};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::operands::{Address, AnyDest, AnySource};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::sim::{Checks, LaunchError};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("ld", ld), ("ldu", ld), ("st", st)];

/// What `ld`, `st`, `atom` and `red` have in common.
pub struct MemoryModifiers {
    /// State space.
    pub space: Space,
    /// Elements of a vector.
    pub elements: usize,
    /// `.acquire`, or `.acq_rel`.
    pub acquire: bool,
    /// `.release`, or `.acq_rel`.
    pub release: bool,
    /// `.relaxed`, `.acquire`, `.release`, `.volatile` or `.mmio`: meant to be seen by others.
    pub strong: bool,
}

/// Takes state space, vector, memory order, scope and cache hints.
pub fn memory_modifiers(m: &Modifiers<'_>) -> MemoryModifiers {
    const SPACES: &[(&str, Space)] = &[
        ("global", Space::Global),
        ("const", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("shared::cluster", Space::Shared),
        ("local", Space::Local),
        ("param", Space::Param),
        ("param::entry", Space::Param),
        ("param::func", Space::Param),
    ];
    let acq_rel = m.take("acq_rel");
    let acquire = m.take("acquire") || acq_rel;
    let release = m.take("release") || acq_rel;
    let relaxed = m.take("relaxed") | m.take("volatile") | m.take("mmio");
    let space = m.choose(SPACES).unwrap_or(Space::Generic);
    let elements = m.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    m.ignore(&[
        "weak", "cta", "cluster", "gpu", "sys", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt",
    ]);
    m.ignore_prefixed(&["L1::", "L2::"]);
    MemoryModifiers {
        space,
        elements,
        acquire,
        release,
        strong: acquire | release | relaxed,
    }
}

/// An element that a load writes.
#[derive(Clone, Copy)]
enum Target {
    Word { dest: Dest<u32>, keep: u32 },
    Long(Dest<u64>),
    Pair([Dest<u64>; 2]),
    Discard,
}

/// How the bits of an element widen to its register.
#[derive(Clone, Copy)]
struct Widening {
    /// Bits of the element.
    bits: u32,
    /// Whether the sign is extended.
    signed: bool,
}

fn ld(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let modifiers = memory_modifiers(&m);
    let ty = m.ty()?;
    m.finish()?;
    let elements = d.elements(d.operand(i, 0)?);
    if elements.len() != modifiers.elements {
        return Err(Unsupported::new(
            "vector of another length than its modifier says",
        ));
    }
    let targets: Vec<Target> = elements
        .iter()
        .map(|e| target(d, e, ty))
        .collect::<Result<_, _>>()?;
    let access = Access::load(&modifiers, (ty.size() as usize * targets.len()) as u32);
    let address = d.address(d.operand(i, 1)?)?;
    let space = param_home(&address, modifiers.space);
    let signed = matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64);
    let widening = Widening {
        bits: ty.size() * 8,
        signed,
    };
    Ok(execute(Load {
        address,
        space,
        access,
        targets,
        widening,
    }))
}

/// Parameters of calls lie in the frame, those of kernels in their own space.
fn param_home(address: &Address, space: Space) -> Space {
    use crate::program::operands::{Base, Place};
    match (space, address.base) {
        (Space::Param, Base::Fixed(Place::Frame(_))) => Space::Local,
        _ => space,
    }
}

fn target(d: &Decoder<'_>, operand: &Operand, ty: Type) -> Result<Target, Unsupported> {
    if ty == Type::B128 {
        return Ok(Target::Pair(d.long_pair(operand)?));
    }
    Ok(match d.any_dest(operand)? {
        AnyDest::Discard => Target::Discard,
        AnyDest::Long(dest) => Target::Long(dest),
        AnyDest::Word(_, bits) if bits < ty.size() * 8 => {
            return Err(Unsupported::new("register narrower than the type"));
        }
        AnyDest::Word(dest, bits) => Target::Word {
            dest,
            keep: u32::MAX >> (32 - bits),
        },
    })
}

/// A decoded `ld`.
struct Load {
    address: Address,
    space: Space,
    access: Access,
    targets: Vec<Target>,
    widening: Widening,
}

impl Body for Load {
    #[inline(always)]
    fn run(&self, warp: &mut Warp<'_>, mask: u32) -> Result<Step, LaunchError> {
        warp.access(
            self.access,
            self.space,
            &self.address,
            mask,
            |warp, row, _, lanes| self.elements(warp, row, lanes),
        )?;
        Ok(Step::Next)
    }
}

impl Load {
    /// Moves the elements of a row to their registers.
    #[inline(always)]
    fn elements(&self, warp: &mut Warp<'_>, row: &memory::Row<'_>, lanes: u32) {
        let Widening { bits, signed } = self.widening;
        let size = bits as usize / 8;
        let all_defined = warp.launch.checks == Checks::Off
            || row.defined(0, self.access.bytes as usize) == lanes;
        for (element, target) in self.targets.iter().enumerate() {
            let offset = element * size;
            let defined = if all_defined {
                lanes
            } else {
                row.defined(offset, size)
            };
            match *target {
                Target::Word { dest, keep } => {
                    let mut values = load_words(row, offset, size);
                    if signed {
                        let shift = 32 - bits;
                        values =
                            mapped(&values, |v| (((v << shift) as i32) >> shift) as u32 & keep);
                    }
                    warp.write(dest, lanes, defined, &values);
                }
                Target::Long(dest) => {
                    let mut values = load_longs(row, offset, size);
                    if signed {
                        let shift = 64 - bits;
                        values = mapped(&values, |v| (((v << shift) as i64) >> shift) as u64);
                    }
                    warp.write(dest, lanes, defined, &values);
                }
                Target::Pair(halves) => {
                    for (half, dest) in halves.into_iter().enumerate() {
                        let values = load_longs(row, offset + 8 * half, 8);
                        warp.write(dest, lanes, defined, &values);
                    }
                }
                Target::Discard => {}
            }
        }
    }
}

/// Elements of up to 4 bytes.
#[inline(always)]
pub fn load_words(row: &memory::Row<'_>, offset: usize, size: usize) -> Row<u32> {
    #[inline(always)]
    fn narrow<T: Scalar + Into<u32>>(row: &memory::Row<'_>, offset: usize) -> Row<u32> {
        let mut values = [T::default(); LANES];
        row.load(offset, &mut values);
        mapped(&values, Into::into)
    }
    match size {
        1 => narrow::<u8>(row, offset),
        2 => narrow::<u16>(row, offset),
        _ => narrow::<u32>(row, offset),
    }
}

/// Elements of up to 8 bytes.
#[inline(always)]
pub fn load_longs(row: &memory::Row<'_>, offset: usize, size: usize) -> Row<u64> {
    if size < 8 {
        return mapped(&load_words(row, offset, size), u64::from);
    }
    let mut values = [0; LANES];
    row.load(offset, &mut values);
    values
}

/// An element that a store reads.
#[derive(Clone, Copy)]
enum Origin {
    Any(AnySource),
    Pair([Dest<u64>; 2]),
}

fn st(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let modifiers = memory_modifiers(&m);
    let ty = m.ty()?;
    m.finish()?;
    let elements = d.elements(d.operand(i, 1)?);
    if elements.len() != modifiers.elements {
        return Err(Unsupported::new(
            "vector of another length than its modifier says",
        ));
    }
    let origin = |operand| match ty {
        Type::B128 => d.long_pair(operand).map(Origin::Pair),
        _ => d.any_source(operand, ty).map(Origin::Any),
    };
    let origins: Vec<Origin> = elements.iter().map(origin).collect::<Result<_, _>>()?;
    let size = ty.size() as usize;
    let access = Access::store(&modifiers, (size * origins.len()) as u32);
    let address = d.address(d.operand(i, 0)?)?;
    let space = param_home(&address, modifiers.space);
    Ok(execute(Store {
        address,
        space,
        access,
        origins,
        size,
    }))
}

/// A decoded `st`.
struct Store {
    address: Address,
    space: Space,
    access: Access,
    origins: Vec<Origin>,
    size: usize,
}

impl Body for Store {
    #[inline(always)]
    fn run(&self, warp: &mut Warp<'_>, mask: u32) -> Result<Step, LaunchError> {
        let store = |warp: &mut Warp<'_>, row: &memory::Row<'_>, home, lanes| {
            for (element, origin) in self.origins.iter().enumerate() {
                let offset = element * self.size;
                let defined = self.element(warp, row, offset, origin);
                row.set_defined(offset, self.size, defined);
                if lanes & !defined != 0 && home == Home::Global {
                    check_stored(warp, origin, lanes & !defined);
                }
            }
        };
        warp.access(self.access, self.space, &self.address, mask, store)?;
        Ok(Step::Next)
    }
}

impl Store {
    /// Stores an element; the lanes in which it is defined.
    #[inline(always)]
    fn element(
        &self,
        warp: &Warp<'_>,
        row: &memory::Row<'_>,
        offset: usize,
        origin: &Origin,
    ) -> u32 {
        match *origin {
            Origin::Any(AnySource::Word(source)) => {
                store_words(row, offset, self.size, warp.read(source));
                warp.defined(source)
            }
            Origin::Any(AnySource::Long(source)) if self.size == 8 => {
                row.store(offset, warp.read(source));
                warp.defined(source)
            }
            Origin::Any(AnySource::Long(source)) => {
                let words = mapped(warp.read(source), |v| v as u32);
                store_words(row, offset, self.size, &words);
                warp.defined(source)
            }
            Origin::Pair([low, high]) => {
                row.store(offset, warp.read(low.source()));
                row.store(offset + 8, warp.read(high.source()));
                warp.defined(low.source()) & warp.defined(high.source())
            }
        }
    }
}

/// Reports the lanes of `undefined` that store to global memory what was computed from values that
/// nothing wrote. A copy of such a value is no use of it.
#[cold]
fn check_stored(warp: &mut Warp<'_>, origin: &Origin, undefined: u32) {
    let computed = match *origin {
        Origin::Any(AnySource::Word(source)) => warp.registers.computed(source),
        Origin::Any(AnySource::Long(source)) => warp.registers.computed(source),
        Origin::Pair(halves) => halves
            .into_iter()
            .fold(0, |all, half| all | warp.registers.computed(half.source())),
    };
    if undefined & computed != 0 {
        warp.find_undefined(undefined & computed, "a result that is stored");
    }
}

/// Stores elements of up to 4 bytes.
#[inline(always)]
pub fn store_words(row: &memory::Row<'_>, offset: usize, size: usize, values: &Row<u32>) {
    match size {
        1 => row.store(offset, &mapped(values, |v| v as u8)),
        2 => row.store(offset, &mapped(values, |v| v as u16)),
        _ => row.store(offset, values),
    }
}
