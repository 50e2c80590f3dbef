//! Operands of decoded instructions.

use crate::exec::registers::{Dest, Source};

/// Where an address comes from.
#[derive(Debug, Clone, Copy)]
pub enum Base {
    /// A 32-bit register.
    Word(Source<u32>),
    /// A 64-bit register.
    Long(Source<u64>),
    /// A place that is the same for all lanes.
    Fixed(Place),
}

/// A place that is known when the kernel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An address of global or constant memory, or an absolute one.
    Global(u64),
    /// An offset in the block's shared memory.
    Shared(u64),
    /// An offset in the frame's local memory, where parameters of calls lie, too.
    Frame(u64),
    /// An offset in the kernel's parameters.
    Param(u64),
}

/// An address operand: base and offset in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// What the offset is added to.
    pub base: Base,
    /// In bytes.
    pub offset: i64,
}

/// A source of either width.
#[derive(Debug, Clone, Copy)]
pub enum AnySource {
    /// Up to 32 bits.
    Word(Source<u32>),
    /// 64 bits.
    Long(Source<u64>),
}

/// A destination of either width.
#[derive(Debug, Clone, Copy)]
pub enum AnyDest {
    /// Up to 32 bits; the bits of the register.
    Word(Dest<u32>, u32),
    /// 64 bits.
    Long(Dest<u64>),
    /// `_`.
    Discard,
}
