//! Virtual registers to register slots.

use super::flow::flow_of;
use super::liveness;
use crate::exec::registers::FrameBase;
use crate::ptx::ast::{Function, Type};

/// The slot of each virtual register, in the file of its width.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Slot by [`RegId`](crate::ptx::ast::RegId); a 128-bit register has this one and the next.
    pub of: Vec<u32>,
    /// Slots of each file.
    pub counts: FrameBase,
}

/// A register file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Registers of 8 to 32 bits.
    Word,
    /// 64-bit registers.
    Long,
    /// 128-bit registers: two 64-bit ones.
    LongPair,
    /// Predicates.
    Predicate,
}

/// The file of a register of type `ty`.
pub fn file_of(ty: Type) -> FileKind {
    match ty {
        Type::Pred => FileKind::Predicate,
        Type::B128 => FileKind::LongPair,
        _ if ty.size() == 8 => FileKind::Long,
        _ => FileKind::Word,
    }
}

impl Slots {
    /// Slots by liveness. 128-bit registers lie after the 64-bit ones.
    pub fn assign(function: &Function) -> Slots {
        let kinds: Vec<FileKind> = function.registers.iter().map(|r| file_of(r.ty)).collect();
        let classes: Vec<u8> = kinds.iter().map(|&kind| kind as u8).collect();
        let flow: Vec<_> = (0..function.body.len())
            .map(|i| flow_of(function, i))
            .collect();
        let assigned = liveness::assign(&classes, &flow);
        let count = |kind: FileKind| assigned.counts.get(kind as usize).copied().unwrap_or(0);
        let longs = count(FileKind::Long);
        let place = |(kind, &slot): (&FileKind, &u32)| match kind {
            FileKind::LongPair => longs + 2 * slot,
            _ => slot,
        };
        Slots {
            of: kinds.iter().zip(&assigned.slot).map(place).collect(),
            counts: FrameBase {
                words: count(FileKind::Word),
                longs: longs + 2 * count(FileKind::LongPair),
                predicates: count(FileKind::Predicate),
            },
        }
    }
}
