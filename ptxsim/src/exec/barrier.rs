//! `bar` and `barrier`: the 16 named barriers of a block.

/// One of the 16 named barriers of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamedBarrier {
    /// How often it completed.
    pub phase: u64,
    /// Threads that arrived in this phase.
    pub arrived: u32,
    /// Threads that this phase expects; 0 before the first arrival.
    pub expected: u32,
}
