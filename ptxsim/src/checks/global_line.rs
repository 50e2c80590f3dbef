//! What is remembered of 128 bytes of global memory, and how a new access meets it.

use super::access::{Kind, LANES};
use super::global_order::BlockOrder;

/// Bytes of a line: what a warp accesses at once when each lane takes a word.
pub(super) const LINE: u64 = 128;

/// What an access does to one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Address / 128.
    pub line: u64,
    /// One bit a byte.
    pub bytes: u128,
    /// The first lane that touches it.
    pub first_lane: u32,
}

impl Piece {
    /// Address of the first byte.
    pub fn first_byte(&self) -> u64 {
        self.line * LINE + u64::from(self.bytes.trailing_zeros())
    }
}

/// Calls `each` with what the lanes of `mask` touch with `size` bytes (1 to 16, a power of two,
/// addresses aligned to it). A line that lanes come back to later makes another piece.
#[inline]
pub(super) fn pieces(
    addresses: &[u64; LANES],
    mask: u32,
    size: usize,
    mut each: impl FnMut(Piece),
) {
    let first = addresses[0];
    let steps = addresses.iter().enumerate();
    let skew = steps.fold(0, |d, (i, &a)| {
        d | a.wrapping_sub(first.wrapping_add((i * size) as u64))
    });
    if mask == u32::MAX && skew == 0 {
        return range_pieces(first, (LANES * size) as u64, size as u64, each);
    }
    let lane_bytes = (1u128 << size) - 1;
    let mut piece = Piece {
        line: u64::MAX,
        bytes: 0,
        first_lane: 0,
    };
    for lane in crate::memory::lanes(mask) {
        let line = addresses[lane] / LINE;
        if line != piece.line {
            if piece.bytes != 0 {
                each(piece);
            }
            piece = Piece {
                line,
                bytes: 0,
                first_lane: lane as u32,
            };
        }
        piece.bytes |= lane_bytes << (addresses[lane] % LINE);
    }
    if piece.bytes != 0 {
        each(piece);
    }
}

/// Calls `each` with the lines of the `len` bytes at `start`, of which each lane has `size`.
#[inline]
pub(super) fn range_pieces(start: u64, len: u64, size: u64, mut each: impl FnMut(Piece)) {
    let end = start + len;
    let mut at = start;
    while at < end {
        let line = at / LINE;
        let stop = end.min((line + 1) * LINE);
        let bytes = (u128::MAX >> (LINE - (stop - at))) << (at % LINE);
        each(Piece {
            line,
            bytes,
            first_lane: ((at - start) / size) as u32,
        });
        at = stop;
    }
}

/// Accesses of one kind: of one block at one time of its, or of several blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// None: the slot is free.
    bytes: u128,
    /// The block, or the last of several.
    pub block: u32,
    /// The block's time.
    time: u32,
    pub site: u32,
    pub kind: Kind,
    /// More than one block made the access.
    pub several: bool,
}

/// The current access.
pub(super) struct Current {
    pub block: u32,
    pub time: u32,
    pub kind: Kind,
    pub site: u32,
}

/// The accesses to a line that a later one may conflict with. A byte is in at most one slot of
/// each kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    slots: [Slot; 3],
    /// There are more slots elsewhere.
    pub overflows: bool,
}

impl Slot {
    const FREE: Slot = Slot {
        bytes: 0,
        block: 0,
        time: 0,
        site: 0,
        kind: Kind::Read,
        several: false,
    };

    fn new(current: &Current, several: bool) -> Slot {
        Slot {
            bytes: 0,
            block: current.block,
            time: current.time,
            site: current.site,
            kind: current.kind,
            several,
        }
    }

    #[inline]
    fn is_own(&self, current: &Current) -> bool {
        self.block == current.block && !self.several
    }

    /// Whether the slot's accesses happened before the current one.
    fn is_before(&self, current: &Current, order: &BlockOrder) -> bool {
        self.is_own(current)
            || order.has_acquired(current.block)
                && (self.several || order.is_before(self.block, self.time, current.block))
    }
}

impl Line {
    pub const EMPTY: Line = Line {
        slots: [Slot::FREE; 3],
        overflows: false,
    };

    /// Whether the current access was made before: by the same block at the same time, or by
    /// several.
    #[inline]
    pub fn knows(&self, current: &Current, piece: &Piece) -> bool {
        self.slots.iter().any(|slot| {
            slot.kind == current.kind
                && piece.bytes & !slot.bytes == 0
                && (slot.several || slot.block == current.block && slot.time == current.time)
        })
    }

    /// Checks the current access against those remembered, in the line and in `extra`, and
    /// remembers it. Returns the first conflict.
    pub fn meet(
        &mut self,
        current: &Current,
        piece: &Piece,
        extra: &mut Vec<Slot>,
        order: &BlockOrder,
    ) -> Option<Slot> {
        let mut clash = None;
        let (mut own, mut shared) = (piece.bytes, 0);
        for slot in self.slots.iter_mut().chain(extra.iter_mut()) {
            let overlap = slot.bytes & piece.bytes;
            if overlap == 0 {
                continue;
            }
            if slot.kind.conflicts(current.kind) && !slot.is_before(current, order) {
                clash = clash.or(Some(*slot));
            }
            if current.kind == Kind::Write {
                // Whatever conflicts with an access before conflicts with the write, too.
                slot.bytes &= !overlap;
            } else if slot.kind == current.kind && slot.several {
                own &= !overlap;
            } else if slot.kind == current.kind {
                slot.bytes &= !overlap;
                if !slot.is_before(current, order) {
                    shared |= overlap;
                }
            }
        }
        self.add(current, own & !shared, false, extra);
        self.add(current, shared, true, extra);
        clash
    }

    /// Adds bytes to the slot of the current access, which is made if there is none.
    fn add(&mut self, current: &Current, bytes: u128, several: bool, extra: &mut Vec<Slot>) {
        if bytes == 0 {
            return;
        }
        let same = |slot: &&mut Slot| {
            let mine = several || slot.block == current.block && slot.time == current.time;
            slot.bytes != 0 && slot.kind == current.kind && slot.several == several && mine
        };
        let found = self.slots.iter_mut().chain(extra.iter_mut()).find(same);
        if let Some(slot) = found {
            slot.bytes |= bytes;
            (slot.block, slot.site) = (current.block, current.site);
            return;
        }
        let slot = Slot {
            bytes,
            ..Slot::new(current, several)
        };
        match self
            .slots
            .iter_mut()
            .chain(extra.iter_mut())
            .find(|slot| slot.bytes == 0)
        {
            Some(free) => *free = slot,
            None => extra.push(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: [u64; 32], mask: u32, size: usize) -> Vec<(u64, u128, u32)> {
        let mut all = Vec::new();
        pieces(&addresses, mask, size, |p| {
            all.push((p.line, p.bytes, p.first_lane))
        });
        all
    }

    #[test]
    fn contiguous_lanes() {
        let words = std::array::from_fn(|lane| 256 + 4 * lane as u64);
        assert_eq!(all(words, !0, 4), [(2, u128::MAX, 0)]);
        let shifted = words.map(|a| a + 8);
        assert_eq!(all(shifted, !0, 4), [(2, u128::MAX << 8, 0), (3, 0xff, 30)]);
        let wide = std::array::from_fn(|lane| 16 * lane as u64);
        let lines: Vec<_> = (0..4).map(|i| (i, u128::MAX, 8 * i as u32)).collect();
        assert_eq!(all(wide, !0, 16), lines);
    }

    #[test]
    fn other_lanes() {
        assert_eq!(all([132; 32], 0b1100, 4), [(1, 0xf0, 2)]);
        assert_eq!(all([0; 32], 0, 4), []);
        let strided = std::array::from_fn(|lane| 128 * lane as u64);
        assert_eq!(all(strided, 0b101, 4), [(0, 0xf, 0), (2, 0xf, 2)]);
    }
}
