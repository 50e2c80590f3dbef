//! Virtual registers to register slots.

use crate::ptx::ast::{Function, Type};

/// The slot of each virtual register, in the file of its width.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Slot by [`RegId`](crate::ptx::ast::RegId); a 128-bit register has this one and the next.
    pub of: Vec<u32>,
    /// Slots of up to 32 bits.
    pub words: u32,
    /// 64-bit slots.
    pub longs: u32,
    /// Predicate slots.
    pub predicates: u32,
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
    /// A slot of its own for every register.
    pub fn one_each(function: &Function) -> Slots {
        let mut slots = Slots::default();
        for register in &function.registers {
            let (next, width) = match file_of(register.ty) {
                FileKind::Word => (&mut slots.words, 1),
                FileKind::Long => (&mut slots.longs, 1),
                FileKind::LongPair => (&mut slots.longs, 2),
                FileKind::Predicate => (&mut slots.predicates, 1),
            };
            slots.of.push(*next);
            *next += width;
        }
        slots
    }
}
