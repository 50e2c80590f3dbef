//! One access to a granule as it is remembered, and what the current one makes of it.

use super::access::{Agent, GROUP, Hazard, Kind, Proxy};
use super::clock::Knowledge;
use super::piece::{NO_LANE, Piece, SEVERAL, UNKNOWN};

/// Accesses of one kind to the same bytes by agents of one group at the same time of theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// The agents' time.
    pub clock: u32,
    /// One bit for each agent of the group.
    pub agents: u32,
    pub site: u32,
    /// Which lanes of `agent` touched the words.
    pub lanes: [u8; 4],
    /// None: the record is empty.
    pub bytes: u16,
    /// Times that the warp `agent` had synchronised its lanes.
    pub sync: u16,
    /// Of the agents the one that came last.
    pub agent: Agent,
    pub kind: Kind,
    pub proxy: Proxy,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            clock: 0,
            agents: 0,
            site: 0,
            lanes: [NO_LANE; 4],
            bytes: 0,
            sync: 0,
            agent: Agent(0),
            kind: Kind::Read,
            proxy: Proxy::Generic,
        }
    }
}

/// The current access as it is checked against records.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub agent: Agent,
    /// Time of the agent.
    pub clock: u32,
    pub kind: Kind,
    pub proxy: Proxy,
    pub site: u32,
    /// What the issuing warp knows.
    pub knowledge: &'a Knowledge,
    /// For each agent group, a time up to which the issuer knows all of its agents.
    pub floors: &'a [u32],
    /// The agent is the issuing warp itself.
    pub plain: bool,
    /// Times that the warp has synchronised its lanes.
    pub sync: u16,
    pub copies: &'a CopyWait,
    /// Agents of this group had their times up to `settled` before the current access, and the
    /// issuer's own lanes, if it is one of them, are not concerned.
    pub settled_group: u16,
    pub settled: u32,
}

/// Writes by this agent up to this time are known to be fine for the current access.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub agent: Agent,
    pub clock: u32,
}

impl Checked {
    pub const NONE: Checked = Checked {
        agent: Agent(u16::MAX),
        clock: 0,
    };
}

/// The last `cp.async` wait of a warp. A lane sees the copies of other lanes only after the warp
/// has synchronised as well.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CopyWait {
    /// Group of agents to which the warp's `cp.async` belong.
    pub group: u16,
    /// Times after this one were acquired by the wait.
    pub after: u32,
    /// Count of synchronisations at the wait.
    pub sync: u16,
}

/// A record in conflict with the current access.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clash {
    pub hazard: Hazard,
    pub earlier: Kind,
    pub party: Agent,
    pub site: u32,
}

impl Context<'_> {
    /// Whether all agents of the record made its access before the current one.
    #[inline]
    pub fn is_after(&self, record: &Record) -> bool {
        let own = self.plain && record.agent.group() == self.agent.group();
        let others = if own {
            record.agents & !self.agent.bit()
        } else {
            record.agents
        };
        others == 0
            || self
                .floors
                .get(usize::from(record.agent.group()))
                .is_some_and(|&time| time >= record.clock)
            || self.all(others, record, |agent| self.knowledge.seen.get(agent))
    }

    /// Whether a record of one agent does not conflict with the current access.
    #[inline]
    pub fn is_fine(&self, record: &Record, piece: &Piece) -> bool {
        let agent = record.agent;
        let after =
            (self.plain && agent == self.agent) || self.knowledge.seen.get(agent) >= record.clock;
        after && self.is_fenced(record) && !self.lanes_unsynchronised(record, piece)
    }

    /// The lanes that read, together with those of an own earlier read that the new one replaces.
    #[inline]
    pub fn read_lanes(&self, earlier: &Record, piece: &Piece) -> [u8; 4] {
        let both = earlier.bytes & piece.bytes != 0
            && earlier.agent.group() == self.agent.group()
            && earlier.sync == self.sync
            && earlier.agents == self.agent.bit();
        if both {
            merge_lanes(piece.lanes, earlier.lanes)
        } else {
            piece.lanes
        }
    }

    /// Whether `time_of` reaches the record's time for each of `agents`.
    #[inline]
    fn all(&self, mut agents: u32, record: &Record, time_of: impl Fn(Agent) -> u32) -> bool {
        while agents != 0 {
            let agent = Agent(record.agent.group() * GROUP as u16 + agents.trailing_zeros() as u16);
            if time_of(agent) < record.clock {
                return false;
            }
            agents &= agents - 1;
        }
        true
    }

    /// Whether a generic write of the record was made visible to the async proxy.
    fn is_fenced(&self, record: &Record) -> bool {
        let matters =
            self.proxy == Proxy::Async && record.proxy == Proxy::Generic && record.kind.writes();
        !matters
            || self.all(record.agents, record, |agent| {
                self.knowledge.fenced.get(agent)
            })
    }

    /// Whether lanes of this warp made the record's access with nothing since that orders lanes.
    fn lanes_unsynchronised(&self, record: &Record, piece: &Piece) -> bool {
        if !self.plain || record.agent.0 % GROUP as u16 != self.agent.0 % GROUP as u16 {
            return false;
        }
        let recent = if record.agent.group() == self.agent.group() {
            record.agents & self.agent.bit() != 0 && record.sync == self.sync
        } else {
            record.agent.group() == self.copies.group
                && record.clock > self.copies.after
                && self.copies.sync == self.sync
        };
        recent
            && record
                .lanes
                .iter()
                .zip(piece.lanes)
                .any(|(&a, b)| self.differ(a, b))
    }

    fn differ(&self, a: u8, b: u8) -> bool {
        if a == NO_LANE || b == NO_LANE || a == UNKNOWN || b == UNKNOWN {
            return false;
        }
        a == SEVERAL || b == SEVERAL || a != b
    }

    #[inline(always)]
    pub fn record(&self, piece: &Piece) -> Record {
        Record {
            clock: self.clock,
            agents: self.agent.bit(),
            site: self.site,
            lanes: piece.lanes,
            bytes: piece.bytes,
            sync: self.sync,
            agent: self.agent,
            kind: self.kind,
            proxy: self.proxy,
        }
    }
}

/// Both lanes of each word.
#[inline]
pub(super) fn merge_lanes(a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
    if a == b {
        return a;
    }
    std::array::from_fn(|word| match (a[word], b[word]) {
        (NO_LANE, lane) | (lane, NO_LANE) => lane,
        (x, y) if x == y => x,
        (UNKNOWN, _) | (_, UNKNOWN) => UNKNOWN,
        _ => SEVERAL,
    })
}

/// How the current access conflicts with a record, given whether it is ordered after it.
pub(super) fn hazard(
    context: &Context<'_>,
    record: &Record,
    piece: &Piece,
    after: bool,
) -> Option<Hazard> {
    if !after {
        Some(Hazard::Unordered)
    } else if !context.is_fenced(record) {
        Some(Hazard::Proxy)
    } else if context.lanes_unsynchronised(record, piece) {
        Some(Hazard::SameWarp)
    } else {
        None
    }
}

/// Adds the current access to a record of the same bytes at the same time, by other agents too, or
/// of other bytes by the same agent.
#[inline]
pub(super) fn join(context: &Context<'_>, record: &mut Record, piece: &Piece) -> bool {
    let bit = context.agent.bit();
    let same = record.bytes != 0
        && record.kind == context.kind
        && record.clock == context.clock
        && record.agent.group() == context.agent.group()
        && record.proxy == context.proxy
        && (record.bytes == piece.bytes || record.agents == bit);
    // Writes of two agents conflict, and are told apart; so are those of asynchronous operations.
    if !same || (record.kind == Kind::Write && (record.agents != bit || !context.plain)) {
        return false;
    }
    if record.agent == context.agent && record.sync == context.sync {
        record.lanes = merge_lanes(record.lanes, piece.lanes);
    } else if record.bytes == piece.bytes {
        record.lanes = piece.lanes;
    } else {
        // The older bytes were before the lanes synchronised, the new ones after.
        return false;
    }
    record.bytes |= piece.bytes;
    record.agents |= bit;
    record.agent = context.agent;
    record.sync = context.sync;
    record.site = context.site;
    true
}

/// Whether any conflict of a later access with a record of kind `earlier` is also one with the
/// current access, so that the record can go. A write goes with an unordered record as well, which
/// was just reported.
#[inline]
pub(super) fn covers(kind: Kind, earlier: Kind, after: bool) -> bool {
    match kind {
        Kind::Write => true,
        Kind::Read => after && earlier == Kind::Read,
        _ => after && earlier == kind,
    }
}
