//! What counters and checks learn of a memory access.

use super::access::Home;
use super::load_store::MemoryModifiers;
use super::warp::Warp;
use crate::memory::LANES;

/// What an instruction does to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Load,
    /// Writes.
    Store,
    /// Reads and writes at once.
    Atomic,
}

/// An access as the instruction states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Bytes of a lane.
    pub bytes: u32,
    /// `.acquire`.
    pub acquire: bool,
    /// `.release`.
    pub release: bool,
    /// Meant to be seen by other threads without a barrier.
    pub strong: bool,
}

impl Access {
    /// `ld` of `bytes` a lane.
    pub fn load(m: &MemoryModifiers, bytes: u32) -> Access {
        Access {
            kind: Kind::Load,
            ..Access::store(m, bytes)
        }
    }

    /// `st` of `bytes` a lane.
    pub fn store(m: &MemoryModifiers, bytes: u32) -> Access {
        Access {
            kind: Kind::Store,
            bytes,
            acquire: m.acquire,
            release: m.release,
            strong: m.strong,
        }
    }

    /// `atom` and `red` of `bytes` a lane.
    pub fn atomic(m: &MemoryModifiers, bytes: u32) -> Access {
        Access {
            kind: Kind::Atomic,
            strong: true,
            ..Access::store(m, bytes)
        }
    }
}

impl Warp<'_> {
    /// Counts an access of the lanes of `mask` and hands it to the checks.
    #[inline]
    pub fn observe(
        &mut self,
        access: Access,
        home: Home,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
    ) {
        let _ = (base, addresses);
        if access.kind != Kind::Load {
            self.launch.effects += 1;
        }
        let counters = &mut self.launch.counters;
        let bytes = u64::from(mask.count_ones() * access.bytes);
        match home {
            Home::Global => {
                let traffic = match access.kind {
                    Kind::Load => &mut counters.global_loads,
                    Kind::Store => &mut counters.global_stores,
                    Kind::Atomic => &mut counters.global_atomics,
                };
                traffic.requests += 1;
                traffic.bytes += bytes;
            }
            Home::Shared(_) => {
                let traffic = match access.kind {
                    Kind::Load => &mut counters.shared_loads,
                    Kind::Store => &mut counters.shared_stores,
                    Kind::Atomic => &mut counters.shared_atomics,
                };
                traffic.requests += 1;
                traffic.bytes += bytes;
            }
            Home::Local => counters.local_bytes += bytes,
            Home::Param => {}
        }
    }
}
