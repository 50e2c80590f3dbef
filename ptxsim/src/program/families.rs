//! Which module decodes which opcode.

use super::Decode;
use crate::exec::{
    async_copy, atomic, barrier, bits, bulk, call, cluster, collective, compare, control, convert,
    data, fence, float, half, integer, load_store, matrix, mbarrier, mma, remote, setmaxnreg,
    tensor_copy, tensor_map_access, wgmma,
};

/// A family's opcodes. The key is the start of an opcode, ending at a dot.
type Family = &'static [(&'static str, Decode)];

const FAMILIES: &[Family] = &[
    async_copy::OPCODES,
    atomic::OPCODES,
    barrier::OPCODES,
    bits::OPCODES,
    bulk::OPCODES,
    call::OPCODES,
    cluster::OPCODES,
    collective::OPCODES,
    compare::OPCODES,
    control::OPCODES,
    convert::OPCODES,
    data::OPCODES,
    fence::OPCODES,
    integer::OPCODES,
    load_store::OPCODES,
    mbarrier::OPCODES,
    remote::OPCODES,
    tensor_copy::OPCODES,
    tensor_map_access::OPCODES,
    matrix::OPCODES,
    mma::OPCODES,
    setmaxnreg::OPCODES,
    wgmma::OPCODES,
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
