//! Which module decodes which opcode.

use super::Decode;
use crate::exec::{
    atomic, barrier, bits, call, collective, compare, control, convert, data, float, half, integer,
    load_store,
};

/// A family's opcodes. The key is the start of an opcode, ending at a dot.
type Family = &'static [(&'static str, Decode)];

const FAMILIES: &[Family] = &[
    atomic::OPCODES,
    barrier::OPCODES,
    bits::OPCODES,
    call::OPCODES,
    collective::OPCODES,
    compare::OPCODES,
    control::OPCODES,
    convert::OPCODES,
    data::OPCODES,
    integer::OPCODES,
    load_store::OPCODES,
];

/// The entry with the longest key that `opcode` starts with.
pub fn find(opcode: &str) -> Option<(&'static str, Decode)> {
    let fits = |key: &str| {
        opcode
            .strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if let Some(found) = half::find(opcode).or_else(|| float::find(opcode)) {
        return Some(found);
    }
    let entries = FAMILIES.iter().flat_map(|family| family.iter());
    entries
        .filter(|(key, _)| fits(key))
        .max_by_key(|(key, _)| key.len())
        .copied()
}
