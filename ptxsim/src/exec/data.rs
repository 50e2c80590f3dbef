//! `mov`.

use crate::program::decoder::{Decoder, Unsupported};
use crate::program::{Decode, Execute};
use crate::ptx::ast::Instruction;

/// Opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("mov", mov)];

fn mov(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let m = d.modifiers(i);
    let ty = m.ty()?;
    m.finish()?;
    match ty.size() {
        4 => d.map1(i, |a: u32| a),
        8 => d.map1(i, |a: u64| a),
        _ => Err(Unsupported::new("type")),
    }
}
