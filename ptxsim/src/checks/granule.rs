//! The accesses remembered for 16 bytes of shared memory, and how a new one meets them.

use super::access::Kind;
use super::piece::Piece;
use super::record::{Checked, Clash, Context, Record, covers, hazard, join, merge_lanes};

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
            self.meet_all(context, piece)
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
