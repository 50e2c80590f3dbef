//! Selections: `selp`, `slct`.

use super::lanes::{LaneLoop, instruction};
use super::narrow::flush;
use super::registers::{Dest, Predicate, Registers, Row, Source};
use super::value::Word;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("selp", selp), ("slct", slct)];

fn selp(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    match ty.size() {
        8 => select::<u64>(d, i),
        _ => select::<u32>(d, i),
    }
}

struct Select<W> {
    dest: Dest<W>,
    a: Source<W>,
    b: Source<W>,
    by: Predicate,
}

impl<W: Word> LaneLoop for Select<W> {
    #[inline(always)]
    fn run<const WIDE: bool>(&self, registers: &mut Registers, mask: u32) {
        let by = registers.predicates.read(self.by);
        let (a, b) = (registers.read(self.a), registers.read(self.b));
        let out: Row<W> = std::array::from_fn(|lane| {
            if by >> lane & 1 == 1 {
                a[lane]
            } else {
                b[lane]
            }
        });
        let chosen = registers.defined(self.a) & by | registers.defined(self.b) & !by;
        let defined = chosen & registers.predicates.defined(self.by);
        registers.write(self.dest, mask, defined, &out);
    }
}

fn select<W: Word>(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    Ok(instruction(Select::<W> {
        dest: d.dest(d.operand(i, 0)?)?,
        a: d.source(d.operand(i, 1)?)?,
        b: d.source(d.operand(i, 2)?)?,
        by: d.predicate(d.operand(i, 3)?)?,
    }))
}

/// `slct`: the first where the third operand is not negative; a NaN selects the second.
fn slct(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ftz = m.take("ftz");
    let (ty, by) = (m.ty()?, m.ty()?);
    m.finish()?;
    match (ty.size(), by) {
        (8, Type::S32) => d.map3(i, |a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
        (8, _) => d.map3(
            i,
            move |a: u64, b: u64, c: f32| if chooses(c, ftz) { a } else { b },
        ),
        (_, Type::S32) => d.map3(i, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
        _ => d.map3(
            i,
            move |a: u32, b: u32, c: f32| if chooses(c, ftz) { a } else { b },
        ),
    }
}

/// -0 counts as 0.
#[inline(always)]
fn chooses(c: f32, ftz: bool) -> bool {
    (if ftz { flush(c) } else { c }) >= 0.0
}
