//! The accesses remembered for 16 bytes of shared memory, and how a new one meets them.

use super::access::{Agent, GROUP, Hazard, Kind, NO_LANE, Piece, Proxy, SEVERAL, UNKNOWN};
use super::clock::Knowledge;

/// Accesses of one kind to the same bytes by agents of one group at the same time of theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// The agents' time.
    clock: u32,
    /// One bit for each agent of the group.
    agents: u32,
    site: u32,
    /// Which lanes of `agent` touched the words.
    lanes: [u8; 4],
    /// None: the record is empty.
    bytes: u16,
    /// Times that the warp `agent` had synchronised its lanes.
    sync: u16,
    /// Of the agents the one that came last.
    agent: Agent,
    kind: Kind,
    proxy: Proxy,
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
    fn is_after(&self, record: &Record) -> bool {
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

    /// [`Context::is_after`] where no search is needed to say so.
    #[inline]
    fn is_after_quick(&self, record: &Record) -> bool {
        let own = self.plain && record.agent.group() == self.agent.group();
        (own && record.agents == self.agent.bit())
            || (record.clock < self.clock_of_own_group(own)
                && self
                    .floors
                    .get(usize::from(record.agent.group()))
                    .is_some_and(|&t| t >= record.clock))
    }

    /// Time before which the own part of a record is in the past.
    #[inline]
    fn clock_of_own_group(&self, own: bool) -> u32 {
        if own { self.clock } else { u32::MAX }
    }

    /// Whether a record of one agent does not conflict with the current access.
    #[inline]
    fn is_fine(&self, record: &Record, piece: &Piece) -> bool {
        let agent = record.agent;
        let after =
            (self.plain && agent == self.agent) || self.knowledge.seen.get(agent) >= record.clock;
        after && self.is_fenced(record) && !self.lanes_unsynchronised(record, piece)
    }

    /// The lanes that read, together with those of an own earlier read that the new one replaces.
    #[inline]
    fn read_lanes(&self, earlier: &Record, piece: &Piece) -> [u8; 4] {
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
    fn record(&self, piece: &Piece) -> Record {
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
fn merge_lanes(a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
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

/// The accesses to a granule that a later one may conflict with.
///
/// Nearly all granules have one write of all bytes, by one agent, and reads of all bytes at one
/// time; those two records are in place, and others in a list.
#[derive(Debug, Default)]
pub(super) struct Granule {
    /// A record of kind [`Kind::Write`], or empty.
    write: Record,
    /// A record of kind [`Kind::Read`], or empty.
    read: Record,
    others: Vec<Record>,
}

impl Granule {
    pub fn clear(&mut self) {
        self.write.bytes = 0;
        self.read.bytes = 0;
        self.others.clear();
    }

    /// Checks the current access against those remembered, and remembers it. Returns the first
    /// conflict; each pair is reported once.
    #[inline(always)]
    pub fn meet(
        &mut self,
        context: &Context<'_>,
        piece: &Piece,
        checked: &mut Checked,
    ) -> Option<Clash> {
        let quick = match context.kind {
            Kind::Read => self.read_quickly(context, piece, checked),
            Kind::Write => self.write_quickly(context, piece, checked),
            _ => false,
        };
        if quick {
            None
        } else {
            self.meet_slowly(context, piece)
        }
    }

    /// Whether a plain write, if it matters, needs no look at lanes or at more than one time.
    #[inline(always)]
    fn write_is_fine(&self, context: &Context<'_>, piece: &Piece, checked: &mut Checked) -> bool {
        let write = &self.write;
        if write.bytes & piece.bytes == 0
            || write.agent == checked.agent && write.clock <= checked.clock
        {
            return true;
        }
        if write.agent == context.agent {
            return context.plain && write.sync != context.sync;
        }
        let fine = context.is_fine(write, piece);
        if fine && write.agent.group() != context.copies.group {
            *checked = Checked {
                agent: write.agent,
                clock: write.clock,
            };
        }
        fine
    }

    /// Whether reads, if there are any, are settled, and not by the same lanes just before.
    #[inline(always)]
    fn reads_are_settled(&self, context: &Context<'_>) -> bool {
        let read = &self.read;
        read.bytes == 0
            || read.agent.group() == context.settled_group
                && read.clock <= context.settled
                && (read.agent != context.agent || read.sync != context.sync)
    }

    /// The usual read: of bytes whose write is ordered, next to reads at the same time or settled.
    #[inline(always)]
    fn read_quickly(
        &mut self,
        context: &Context<'_>,
        piece: &Piece,
        checked: &mut Checked,
    ) -> bool {
        if !self.others.is_empty() || !self.write_is_fine(context, piece, checked) {
            return false;
        }
        let settled = self.reads_are_settled(context);
        let read = &mut self.read;
        if read.clock == context.clock
            && read.bytes == piece.bytes
            && read.agent.group() == context.agent.group()
            && read.proxy == context.proxy
        {
            let again = read.agent == context.agent && read.sync == context.sync;
            read.lanes = if again {
                merge_lanes(read.lanes, piece.lanes)
            } else {
                piece.lanes
            };
            read.agents |= context.agent.bit();
            read.agent = context.agent;
            read.sync = context.sync;
            read.site = context.site;
            return true;
        }
        if settled && read.bytes & !piece.bytes == 0 {
            *read = context.record(piece);
            return true;
        }
        false
    }

    /// The usual write: over all bytes written and read, all of which is settled.
    #[inline(always)]
    fn write_quickly(
        &mut self,
        context: &Context<'_>,
        piece: &Piece,
        checked: &mut Checked,
    ) -> bool {
        let fine = self.others.is_empty()
            && (self.write.bytes | self.read.bytes) & !piece.bytes == 0
            && self.reads_are_settled(context)
            && self.write_is_fine(context, piece, checked);
        if fine {
            self.write = context.record(piece);
            self.read.bytes = 0;
        }
        fine
    }

    /// [`Granule::meet`] where it is less simple.
    #[inline(never)]
    fn meet_slowly(&mut self, context: &Context<'_>, piece: &Piece) -> Option<Clash> {
        if self.others.is_empty()
            && match context.kind {
                Kind::Read => self.try_read(context, piece),
                Kind::Write => self.try_write(context, piece),
                _ => false,
            }
        {
            return None;
        }
        self.meet_all(context, piece)
    }

    /// A read that needs no change but to the read record.
    #[inline]
    fn try_read(&mut self, context: &Context<'_>, piece: &Piece) -> bool {
        let write = &self.write;
        if write.bytes & piece.bytes != 0 && !context.is_fine(write, piece) {
            return false;
        }
        let read = &mut self.read;
        if read.bytes & !piece.bytes == 0 && (read.bytes == 0 || context.is_after_quick(read)) {
            let lanes = context.read_lanes(read, piece);
            *read = context.record(piece);
            read.lanes = lanes;
            return true;
        }
        join(context, read, piece)
    }

    /// A write that replaces everything.
    #[inline]
    fn try_write(&mut self, context: &Context<'_>, piece: &Piece) -> bool {
        let (write, read) = (&self.write, &self.read);
        let replaces = (write.bytes | read.bytes) & !piece.bytes == 0;
        let fine = replaces
            && (write.bytes == 0 || context.is_fine(write, piece))
            && (read.bytes == 0
                || context.is_after_quick(read) && !context.lanes_unsynchronised(read, piece));
        if fine {
            self.write = context.record(piece);
            self.read.bytes = 0;
        }
        fine
    }

    /// [`Granule::meet`] for all states.
    fn meet_all(&mut self, context: &Context<'_>, piece: &Piece) -> Option<Clash> {
        let mut meeting = Meeting {
            context,
            piece: *piece,
            clash: None,
            merged: false,
        };
        for record in [&mut self.write, &mut self.read] {
            meeting.visit(record);
        }
        self.others.retain_mut(|record| {
            meeting.visit(record);
            record.bytes != 0
        });
        if !meeting.merged {
            let record = context.record(&meeting.piece);
            match context.kind {
                Kind::Write if self.write.bytes == 0 => self.write = record,
                Kind::Read if self.read.bytes == 0 => self.read = record,
                _ => self.others.push(record),
            }
        }
        meeting.clash
    }
}

/// The current access on its way through the records of a granule.
struct Meeting<'a> {
    context: &'a Context<'a>,
    piece: Piece,
    clash: Option<Clash>,
    /// It was added to a record.
    merged: bool,
}

impl Meeting<'_> {
    fn visit(&mut self, record: &mut Record) {
        let (context, piece) = (self.context, &self.piece);
        if record.bytes & piece.bytes == 0 {
            self.merged = self.merged || join(context, record, piece);
            return;
        }
        let after = context.is_after(record);
        if record.kind.conflicts(context.kind) && self.clash.is_none() {
            self.clash = hazard(context, record, piece, after).map(|hazard| Clash {
                hazard,
                earlier: record.kind,
                party: record.agent,
                site: record.site,
            });
        }
        if !self.merged && join(context, record, piece) {
            self.merged = true;
        } else if covers(context.kind, record.kind, after) {
            if record.kind == Kind::Read && context.kind == Kind::Read {
                self.piece.lanes = context.read_lanes(record, piece);
            }
            record.bytes &= !self.piece.bytes;
        }
    }
}

/// How the current access conflicts with a record, given whether it is ordered after it.
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

/// Adds the current access to a record of the same bytes at the same time, by other agents too, or
/// of other bytes by the same agent.
#[inline]
fn join(context: &Context<'_>, record: &mut Record, piece: &Piece) -> bool {
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
fn covers(kind: Kind, earlier: Kind, after: bool) -> bool {
    match kind {
        Kind::Write => true,
        Kind::Read => after && earlier == Kind::Read,
        _ => after && earlier == kind,
    }
}
