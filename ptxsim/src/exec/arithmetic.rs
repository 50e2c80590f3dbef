//! `add`, `sub`.

use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Type};

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("add", add)];

fn add(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    match ty {
        Type::U32 | Type::S32 => d.map2(i, u32::wrapping_add),
        Type::U64 | Type::S64 => d.map2(i, u64::wrapping_add),
        _ => Err(Unsupported::new("type")),
    }
}
