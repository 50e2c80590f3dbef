//! Accesses, who makes them, and how two of them conflict.

use crate::report::FindingKind;

/// Lanes of a warp.
pub(super) const LANES: usize = 32;
/// Agents of a group: one bit each in a record's set.
pub(super) const GROUP: usize = 32;

/// Who accesses memory: a warp, or something that acts on its behalf and completes later.
///
/// Agents come in groups of up to 32 of one kind in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Agent(pub(super) u16);

/// Agent groups of each block: warps, then the three kinds of asynchronous operation.
pub(super) const GROUPS_OF_BLOCK: usize = 4;

impl Agent {
    fn new(rank: u32, kind: usize, warp: u32) -> Agent {
        Agent(((rank as usize * GROUPS_OF_BLOCK + kind) * GROUP) as u16 + warp as u16)
    }

    /// Warp `warp` of the block with rank `rank` in its cluster.
    pub fn warp(rank: u32, warp: u32) -> Agent {
        Agent::new(rank, 0, warp)
    }

    /// The `cp.async` operations that a warp issued.
    pub fn cp_async(rank: u32, warp: u32) -> Agent {
        Agent::new(rank, 1, warp)
    }

    /// The bulk copies from shared memory that a warp issued.
    pub fn bulk_store(rank: u32, warp: u32) -> Agent {
        Agent::new(rank, 2, warp)
    }

    /// The `wgmma` operations that a warp took part in.
    pub fn wgmma(rank: u32, warp: u32) -> Agent {
        Agent::new(rank, 3, warp)
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    pub(super) fn group(self) -> u16 {
        self.0 / GROUP as u16
    }

    #[inline(always)]
    pub(super) fn bit(self) -> u32 {
        1 << (self.0 % GROUP as u16)
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Plain load.
    Read,
    /// Plain store.
    Write,
    /// Volatile, relaxed or acquire load.
    AtomicRead,
    /// Volatile, relaxed or release store.
    AtomicWrite,
    /// `atom` and `red`.
    AtomicUpdate,
}

impl Kind {
    #[inline]
    pub(super) fn is_atomic(self) -> bool {
        matches!(
            self,
            Kind::AtomicRead | Kind::AtomicWrite | Kind::AtomicUpdate
        )
    }

    #[inline]
    pub(super) fn writes(self) -> bool {
        !matches!(self, Kind::Read | Kind::AtomicRead)
    }

    /// Whether two unordered accesses of these kinds race.
    #[inline]
    pub(super) fn conflicts(self, other: Kind) -> bool {
        (self.writes() || other.writes()) && !(self.is_atomic() && other.is_atomic())
    }

    fn noun(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::AtomicRead => "atomic read",
            Kind::AtomicWrite => "atomic write",
            Kind::AtomicUpdate => "atomic",
        }
    }
}

/// The path that an access takes to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Loads, stores, atomics, `cp.async`, `ldmatrix`.
    Generic,
    /// Bulk and tensor copies, `wgmma` operands in shared memory.
    Async,
}

/// An access to shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Who accesses.
    pub agent: Agent,
    /// The warp that issued it; the agent itself for a plain access.
    pub issuer: Agent,
    /// What it does.
    pub kind: Kind,
    /// Its path.
    pub proxy: Proxy,
    /// PTX line.
    pub site: u32,
    /// Every lane gets data from every address, as with `ldmatrix`.
    pub collective: bool,
    /// An atomic with release semantics.
    pub release: bool,
    /// An atomic with acquire semantics.
    pub acquire: bool,
}

impl Access {
    /// A warp's own access through the generic proxy.
    pub fn plain(warp: Agent, kind: Kind, site: u32) -> Access {
        Access {
            agent: warp,
            issuer: warp,
            kind,
            proxy: Proxy::Generic,
            site,
            collective: false,
            release: false,
            acquire: false,
        }
    }

    /// `ldmatrix` (read) or `stmatrix` (write).
    pub fn matrix(warp: Agent, kind: Kind, site: u32) -> Access {
        Access {
            collective: true,
            ..Access::plain(warp, kind, site)
        }
    }

    /// What `agent` does on behalf of the warp `issuer`.
    pub fn asynchronous(
        agent: Agent,
        issuer: Agent,
        kind: Kind,
        proxy: Proxy,
        site: u32,
    ) -> Access {
        Access {
            agent,
            proxy,
            ..Access::plain(issuer, kind, site)
        }
    }
}

/// How two accesses are in conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hazard {
    /// Two agents, or an agent and its own asynchronous operation, without order.
    Unordered,
    /// Lanes of one warp, with nothing between that synchronises them.
    SameWarp,
    /// Ordered, but one through the generic and one through the async proxy, without a fence.
    Proxy,
    /// Two blocks, without order.
    Blocks,
}

/// Two accesses in conflict; the later one is that of the current instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// How.
    pub hazard: Hazard,
    /// Lane of the current access.
    pub lane: u32,
    /// Address of the current access: the lane's, or the first byte for a range.
    pub address: u64,
    /// What the current access does.
    pub kind: Kind,
    /// What the earlier one did.
    pub earlier: Kind,
    /// Who made the earlier one, in words.
    pub party: String,
    /// PTX line of the earlier one.
    pub earlier_site: u32,
}

impl Conflict {
    /// The kind of finding that it makes.
    pub fn finding(&self) -> FindingKind {
        match self.hazard {
            Hazard::Unordered | Hazard::SameWarp => FindingKind::SharedRace,
            Hazard::Proxy => FindingKind::ProxyFence,
            Hazard::Blocks => FindingKind::GlobalRace,
        }
    }

    /// One sentence; `earlier_place` says where the earlier access is in the source.
    pub fn message(&self, earlier_place: &str) -> String {
        let (kind, earlier) = (self.kind.noun(), self.earlier.noun());
        let what = format!(
            "{kind} after {earlier} by {} at {earlier_place}",
            self.party
        );
        match self.hazard {
            Hazard::Unordered => format!("{what}, not ordered with it"),
            Hazard::Blocks => format!("{what}, not ordered with it within the launch"),
            Hazard::SameWarp => {
                format!("{what}: another lane of the same warp, no bar.warp.sync between")
            }
            Hazard::Proxy => format!(
                "{what}, of which one is in the generic and one in the async proxy: \
                 no fence.proxy.async between"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_need_a_write_and_a_plain_access() {
        assert!(!Kind::Read.conflicts(Kind::Read));
        assert!(!Kind::Read.conflicts(Kind::AtomicRead));
        assert!(!Kind::AtomicUpdate.conflicts(Kind::AtomicWrite));
        assert!(Kind::Read.conflicts(Kind::AtomicUpdate));
        assert!(Kind::Write.conflicts(Kind::AtomicRead));
    }
}
