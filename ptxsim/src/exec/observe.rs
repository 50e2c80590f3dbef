//! What counters and checks learn of a memory access.

use super::access::Home;
use super::load_store::MemoryModifiers;
use super::warp::Warp;
use crate::checks;
use crate::memory::{LANES, SHARED_RANK_SHIFT};

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

    fn checked_kind(self) -> checks::Kind {
        match (self.kind, self.strong) {
            (Kind::Load, false) => checks::Kind::Read,
            (Kind::Load, true) => checks::Kind::AtomicRead,
            (Kind::Store, false) => checks::Kind::Write,
            (Kind::Store, true) => checks::Kind::AtomicWrite,
            (Kind::Atomic, _) => checks::Kind::AtomicUpdate,
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
        if access.kind != Kind::Load {
            self.launch.effects += 1;
        }
        match home {
            Home::Global => self.observe_global(access, addresses, mask),
            Home::Shared(rank) => {
                // Offsets in the cluster, as the checks know addresses.
                let start = base - (u64::from(rank) << SHARED_RANK_SHIFT);
                let offsets = addresses.map(|a| a.wrapping_sub(start) as u32);
                self.observe_shared(access, &offsets, mask);
            }
            Home::Local => {
                let bytes = u64::from(mask.count_ones() * access.bytes);
                self.launch.counters.local_bytes += bytes;
            }
            Home::Param => {}
        }
    }

    #[inline]
    fn observe_global(&mut self, access: Access, addresses: &[u64; LANES], mask: u32) {
        let size = access.bytes as usize;
        let counters = &mut self.launch.counters;
        let traffic = match access.kind {
            Kind::Load => &mut counters.global_loads,
            Kind::Store => &mut counters.global_stores,
            Kind::Atomic => &mut counters.global_atomics,
        };
        traffic.record(addresses, mask, size);
        if self.launch.global_races.is_none() {
            return;
        }
        let (site, kind) = (self.line(), access.checked_kind());
        let block = self.linear_block();
        let Some(races) = &mut self.launch.global_races else {
            return;
        };
        if access.release {
            races.fence(block);
        }
        if let Some(conflict) = races.access(block, kind, addresses, mask, size, site) {
            self.find_conflict(&conflict, conflict.lane, Some(conflict.address));
        }
    }

    #[inline]
    fn observe_shared(&mut self, access: Access, offsets: &[u32; LANES], mask: u32) {
        let size = access.bytes as usize;
        let counters = &mut self.launch.counters;
        match access.kind {
            Kind::Load => counters.shared_loads.record(offsets, mask, size),
            Kind::Store => counters.shared_stores.record(offsets, mask, size),
            Kind::Atomic => counters.shared_atomics.record_atomic(offsets, mask, size),
        }
        if self.cluster.races.is_none() {
            return;
        }
        let checked = checks::Access {
            release: access.release,
            acquire: access.acquire,
            ..checks::Access::plain(self.agent(), access.checked_kind(), self.line())
        };
        let Some(races) = &mut self.cluster.races else {
            return;
        };
        if let Some(conflict) = races.access(&checked, offsets, mask, size) {
            self.find_conflict(&conflict, conflict.lane, Some(conflict.address));
        }
    }
}
