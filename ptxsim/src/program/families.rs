//! Which module decodes which opcode.

use super::Decode;
use crate::exec::{
    async_copy, atomic, barrier, bits, bulk, call, cluster, collective, compare, control, convert,
    data, fence, float, half, integer, load_store, matrix, mbarrier, mma, remote, select,
    setmaxnreg, tensor_copy, tensor_map_access, wgmma,
};

/// A family's name and opcodes. The key is the start of an opcode, ending at a dot.
type Family = (&'static str, &'static [(&'static str, Decode)]);

const FAMILIES: &[Family] = &[
    ("async_copy", async_copy::OPCODES),
    ("atomic", atomic::OPCODES),
    ("barrier", barrier::OPCODES),
    ("bits", bits::OPCODES),
    ("bulk", bulk::OPCODES),
    ("call", call::OPCODES),
    ("cluster", cluster::OPCODES),
    ("collective", collective::OPCODES),
    ("compare", compare::OPCODES),
    ("control", control::OPCODES),
    ("convert", convert::OPCODES),
    ("data", data::OPCODES),
    ("fence", fence::OPCODES),
    ("integer", integer::OPCODES),
    ("load_store", load_store::OPCODES),
    ("mbarrier", mbarrier::OPCODES),
    ("remote", remote::OPCODES),
    ("tensor_copy", tensor_copy::OPCODES),
    ("tensor_map_access", tensor_map_access::OPCODES),
    ("matrix", matrix::OPCODES),
    ("mma", mma::OPCODES),
    ("select", select::OPCODES),
    ("setmaxnreg", setmaxnreg::OPCODES),
    ("wgmma", wgmma::OPCODES),
];

/// An opcode's entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name of the family.
    pub family: &'static str,
    /// What of the opcode the family is found by.
    pub key: &'static str,
    /// Decodes it.
    pub decode: Decode,
}

/// The entry with the longest key that `opcode` starts with. Arithmetic on halves, f32 and f64 is
/// told from that on integers by its type.
pub fn find(opcode: &str) -> Option<Entry> {
    let by_type = [("half", half::find(opcode)), ("float", float::find(opcode))];
    if let Some((family, Some((key, decode)))) = by_type.into_iter().find(|(_, f)| f.is_some()) {
        return Some(Entry {
            family,
            key,
            decode,
        });
    }
    let fits = |key: &str| {
        opcode
            .strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    by_key()
        .filter(|entry| fits(entry.key))
        .max_by_key(|entry| entry.key.len())
}

/// All entries, as family and key.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let halves = half::KEYS.iter().map(|key| ("half", *key));
    let floats = float::KEYS.iter().map(|(key, _)| ("float", *key));
    halves
        .chain(floats)
        .chain(by_key().map(|entry| (entry.family, entry.key)))
}

fn by_key() -> impl Iterator<Item = Entry> {
    FAMILIES.iter().flat_map(|&(family, opcodes)| {
        opcodes.iter().map(move |&(key, decode)| Entry {
            family,
            key,
            decode,
        })
    })
}
