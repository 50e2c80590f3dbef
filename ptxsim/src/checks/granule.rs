//! The accesses remembered for 16 bytes of shared memory, and how a new one meets them.

use super::access::{Agent, GROUP, Hazard, Kind, NO_LANE, Piece, Proxy, SEVERAL, UNKNOWN};
use super::clock::Knowledge;

/// Accesses of one kind to the same bytes by agents of one group at the same time of theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// The agents' time.
    pub clock: u32,
    /// One bit for each agent of the group.
    pub agents: u32,
    pub site: u32,
    /// Which lanes of the agent `last` touched the words.
    lanes: [u8; 4],
    pub bytes: u16,
    /// Times that the warp `last` had synchronised its lanes.
    sync: u16,
    pub group: u16,
    /// Agent of the group that came last.
    last: u8,
    pub kind: Kind,
    pub proxy: Proxy,
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
    pub collective: bool,
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
    fn is_after(&self, record: &Record) -> bool {
        let own = self.plain && record.group == self.agent.group();
        let others = if own {
            record.agents & !self.agent.bit()
        } else {
            record.agents
        };
        others == 0
            || self
                .floors
                .get(record.group as usize)
                .is_some_and(|&time| time >= record.clock)
            || self.all(others, record, |agent| self.knowledge.seen.get(agent))
    }

    /// Whether `time_of` reaches the record's time for each of `agents`.
    #[inline]
    fn all(&self, mut agents: u32, record: &Record, time_of: impl Fn(Agent) -> u32) -> bool {
        while agents != 0 {
            let agent = Agent(record.group * GROUP as u16 + agents.trailing_zeros() as u16);
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
        if !self.plain || record.last != (self.agent.0 % GROUP as u16) as u8 {
            return false;
        }
        let recent = if record.group == self.agent.group() {
            record.agents & self.agent.bit() != 0 && record.sync == self.sync
        } else {
            record.group == self.copies.group
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

    fn record(&self, piece: &Piece) -> Record {
        Record {
            clock: self.clock,
            agents: self.agent.bit(),
            site: self.site,
            lanes: piece.lanes,
            bytes: piece.bytes,
            sync: self.sync,
            group: self.agent.group(),
            last: (self.agent.0 % GROUP as u16) as u8,
            kind: self.kind,
            proxy: self.proxy,
        }
    }
}

/// Both lanes of each word.
fn merge_lanes(a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
    std::array::from_fn(|word| match (a[word], b[word]) {
        (NO_LANE, lane) | (lane, NO_LANE) => lane,
        (x, y) if x == y => x,
        (UNKNOWN, _) | (_, UNKNOWN) => UNKNOWN,
        _ => SEVERAL,
    })
}

/// The accesses to a granule that a later one may conflict with.
#[derive(Debug, Default)]
pub(super) struct Granule(Vec<Record>);

impl Granule {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Checks the current access against those remembered, and remembers it. Returns the worst
    /// conflict; each pair is reported once.
    #[inline]
    pub fn meet(&mut self, context: &Context<'_>, piece: &Piece) -> Option<Clash> {
        let mut piece = *piece;
        if context.collective {
            let several = |lane| if lane == NO_LANE { NO_LANE } else { SEVERAL };
            piece.lanes = piece.lanes.map(several);
        }
        let mut clash: Option<Clash> = None;
        let mut merged = false;
        let mut at = 0;
        while at < self.0.len() {
            let record = &mut self.0[at];
            if record.bytes & piece.bytes == 0 {
                at += 1;
                continue;
            }
            let after = context.is_after(record);
            if record.kind.conflicts(context.kind) {
                let hazard = hazard(context, record, &piece, after);
                clash = clash.or(hazard.map(|hazard| Clash {
                    hazard,
                    earlier: record.kind,
                    party: Agent(record.group * GROUP as u16 + u16::from(record.last)),
                    site: record.site,
                }));
            }
            if !merged && join(context, record, &piece) {
                merged = true;
            } else if covers(context.kind, record.kind, after) {
                if record.kind == context.kind
                    && record.group == context.agent.group()
                    && record.sync == context.sync
                    && record.agents == context.agent.bit()
                {
                    piece.lanes = merge_lanes(piece.lanes, record.lanes);
                }
                record.bytes &= !piece.bytes;
                if record.bytes == 0 {
                    self.0.swap_remove(at);
                    continue;
                }
            }
            at += 1;
        }
        if !merged {
            self.0.push(context.record(&piece));
        }
        clash
    }
}

fn hazard(context: &Context<'_>, record: &Record, piece: &Piece, after: bool) -> Option<Hazard> {
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

/// Adds the current access to a record of accesses that differ from it in the agent at most.
#[inline]
fn join(context: &Context<'_>, record: &mut Record, piece: &Piece) -> bool {
    let same = record.kind == context.kind
        && record.clock == context.clock
        && record.bytes == piece.bytes
        && record.group == context.agent.group()
        && record.proxy == context.proxy;
    let bit = context.agent.bit();
    // Writes of two agents conflict, and are told apart; so are those of asynchronous operations.
    if !same || (record.kind == Kind::Write && (record.agents != bit || !context.plain)) {
        return false;
    }
    let last = (context.agent.0 % GROUP as u16) as u8;
    record.lanes = if record.last == last && record.sync == context.sync {
        merge_lanes(record.lanes, piece.lanes)
    } else {
        piece.lanes
    };
    record.agents |= bit;
    record.last = last;
    record.sync = context.sync;
    record.site = context.site;
    true
}

/// Whether any conflict of a later access with a record of kind `earlier` is also one with the
/// current access, so that the record can go. A write goes with an unordered record as well, which
/// was just reported.
#[inline]
fn covers(kind: Kind, earlier: Kind, after: bool) -> bool {
    match kind {
        Kind::Write => true,
        Kind::Read => after && earlier == Kind::Read,
        _ => after && earlier == kind,
    }
}
