//! The race detector for global memory between the blocks of a launch.

use super::access::{Conflict, Hazard, Kind, LANES};
use super::global_line::{Current, Line, Piece, Slot, pieces, range_pieces};
use super::global_order::BlockOrder;
use std::collections::HashMap;

/// Lines of a page: shadow memory is made page by page as it is touched.
const PAGE: u64 = 64;
/// Pseudo-addresses of cluster barriers, above all memory.
const CLUSTER_BARRIERS: u64 = 1 << 63;

/// Race detector between the blocks of one launch.
///
/// Of a byte that several blocks read, or several access atomically, it is not remembered which:
/// a later conflicting access counts as ordered when its block has acquired anything in this
/// launch. Blocks are numbered linearly; `site`s are PTX lines.
#[derive(Debug, Default)]
pub struct GlobalRaces {
    pages: HashMap<u64, u32>,
    lines: Vec<Box<[Line]>>,
    /// The page used last.
    last_page: Option<(u64, u32)>,
    /// Slots of lines that need more than they have.
    overflow: HashMap<u64, Vec<Slot>>,
    order: BlockOrder,
}

impl GlobalRaces {
    /// A detector for one launch.
    pub fn new() -> GlobalRaces {
        GlobalRaces::default()
    }

    /// Records an access of `size` bytes (1 to 16, a power of two) by each lane of `mask`, and
    /// returns the first conflict.
    pub fn access(
        &mut self,
        block: u32,
        kind: Kind,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
        site: u32,
    ) -> Option<Conflict> {
        if kind.is_atomic() {
            for lane in crate::memory::lanes(mask) {
                self.synchronise(block, kind, addresses[lane] & !3);
            }
        }
        let current = self.current(block, kind, site);
        let mut first = None;
        pieces(addresses, mask, size, |piece| {
            let slot = self.meet(&current, &piece);
            first = first.take().or(slot.map(|slot| (piece, slot)));
        });
        first.map(|(piece, slot)| conflict(kind, &piece, &slot))
    }

    /// Records an access to the `len` bytes at `start`.
    pub fn access_range(
        &mut self,
        block: u32,
        kind: Kind,
        start: u64,
        len: u64,
        site: u32,
    ) -> Option<Conflict> {
        let current = self.current(block, kind, site);
        let mut first = None;
        range_pieces(start, len, u64::MAX, |piece| {
            let slot = self.meet(&current, &piece);
            first = first.take().or(slot.map(|slot| (piece, slot)));
        });
        first.map(|(piece, slot)| conflict(kind, &piece, &slot))
    }

    fn current(&self, block: u32, kind: Kind, site: u32) -> Current {
        Current {
            block,
            time: self.order.time(block),
            kind,
            site,
        }
    }

    fn synchronise(&mut self, block: u32, kind: Kind, word: u64) {
        if kind != Kind::AtomicWrite {
            self.order.acquire(block, word);
        }
        if kind != Kind::AtomicRead {
            self.order.release(block, word);
        }
    }

    /// `fence.acq_rel`, `fence.sc` or `membar`, at gpu scope or wider, and before an atomic with
    /// release semantics.
    pub fn fence(&mut self, block: u32) {
        self.order.fence(block);
    }

    /// All blocks of a cluster met at its barrier.
    pub fn cluster_barrier(&mut self, blocks: &[u32]) {
        let Some(&first) = blocks.first() else { return };
        let barrier = CLUSTER_BARRIERS + u64::from(first);
        for &block in blocks {
            self.order.fence(block);
            self.order.release(block, barrier);
        }
        blocks
            .iter()
            .for_each(|&block| self.order.acquire(block, barrier));
    }

    /// Index of the lines of a page.
    #[inline]
    fn page(&mut self, page: u64) -> usize {
        if let Some((number, index)) = self.last_page
            && number == page
        {
            return index as usize;
        }
        let next = self.lines.len() as u32;
        let index = *self.pages.entry(page).or_insert(next);
        if index == next {
            self.lines.push(vec![Line::EMPTY; PAGE as usize].into());
        }
        self.last_page = Some((page, index));
        index as usize
    }

    /// Checks and remembers what the current access does to one line.
    #[inline]
    fn meet(&mut self, current: &Current, piece: &Piece) -> Option<Slot> {
        let page = self.page(piece.line / PAGE);
        let line = &mut self.lines[page][(piece.line % PAGE) as usize];
        if line.knows(current, piece) {
            return None;
        }
        let mut none = Vec::new();
        let extra = match line.overflows {
            true => self.overflow.entry(piece.line).or_default(),
            false => &mut none,
        };
        let clash = line.meet(current, piece, extra, &self.order);
        if !none.is_empty() {
            line.overflows = true;
            self.overflow.insert(piece.line, none);
        }
        clash
    }
}

#[cold]
fn conflict(kind: Kind, piece: &Piece, slot: &Slot) -> Conflict {
    let several = if slot.several {
        "several blocks, the last of them "
    } else {
        ""
    };
    Conflict {
        hazard: Hazard::Blocks,
        lane: piece.first_lane,
        address: piece.first_byte(),
        kind,
        earlier: slot.kind,
        party: format!("{several}block {}", slot.block),
        earlier_site: slot.site,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x100_0000_0000;

    fn words(start: u64) -> [u64; 32] {
        std::array::from_fn(|lane| start + 4 * lane as u64)
    }

    fn all(races: &mut GlobalRaces, block: u32, kind: Kind, start: u64) -> Option<Conflict> {
        races.access(block, kind, &words(start), !0, 4, 1)
    }

    fn one(races: &mut GlobalRaces, block: u32, kind: Kind, address: u64) -> Option<Conflict> {
        races.access(block, kind, &[address; 32], 1, 4, 2)
    }

    #[test]
    fn blocks_that_share_only_reads_are_fine() {
        let mut races = GlobalRaces::new();
        for block in 0..100 {
            assert_eq!(all(&mut races, block, Kind::Read, BASE), None);
            assert_eq!(
                all(
                    &mut races,
                    block,
                    Kind::Write,
                    BASE + 4096 + 128 * block as u64
                ),
                None
            );
        }
    }

    #[test]
    fn write_then_read_by_another_block() {
        let mut races = GlobalRaces::new();
        all(&mut races, 0, Kind::Write, BASE);
        assert_eq!(all(&mut races, 0, Kind::Read, BASE), None);
        let conflict = one(&mut races, 3, Kind::Read, BASE + 8).unwrap();
        assert_eq!(
            (conflict.hazard, conflict.earlier),
            (Hazard::Blocks, Kind::Write)
        );
        assert_eq!(
            (conflict.address, conflict.party.as_str()),
            (BASE + 8, "block 0")
        );
    }

    #[test]
    fn read_then_write_and_write_then_write() {
        let mut races = GlobalRaces::new();
        all(&mut races, 0, Kind::Read, BASE);
        assert!(one(&mut races, 1, Kind::Write, BASE).is_some());
        assert!(one(&mut races, 2, Kind::Write, BASE).is_some());
        all(&mut races, 0, Kind::Read, BASE + 256);
        all(&mut races, 1, Kind::Read, BASE + 256);
        assert!(one(&mut races, 1, Kind::Write, BASE + 256).is_some());
    }

    #[test]
    fn neighbours_in_a_granule_do_not_conflict() {
        let mut races = GlobalRaces::new();
        for block in 0..16 {
            let address = BASE + u64::from(block);
            assert_eq!(
                races.access(block, Kind::Write, &[address; 32], 1, 1, 1),
                None
            );
            assert_eq!(
                races.access(block, Kind::Read, &[address; 32], 1, 1, 1),
                None
            );
        }
        assert!(
            races
                .access(3, Kind::Read, &[BASE + 4; 32], 1, 1, 1)
                .is_some()
        );
    }

    #[test]
    fn reads_of_parts_are_told_apart() {
        let mut races = GlobalRaces::new();
        races.access_range(0, Kind::Read, BASE, 16, 1);
        one(&mut races, 1, Kind::Read, BASE + 12);
        assert_eq!(one(&mut races, 0, Kind::Write, BASE), None);
        assert!(one(&mut races, 0, Kind::Write, BASE + 12).is_some());
    }

    #[test]
    fn atomics_do_not_conflict_with_each_other() {
        let mut races = GlobalRaces::new();
        for block in 0..4 {
            assert_eq!(one(&mut races, block, Kind::AtomicUpdate, BASE), None);
        }
        assert!(one(&mut races, 4, Kind::Read, BASE).is_some());
    }

    /// Each block writes its part, fences, counts itself; the last one reads all parts.
    fn last_block_sums(fence: bool) -> Option<Conflict> {
        let mut races = GlobalRaces::new();
        let (parts, counter) = (BASE, BASE + 65536);
        for block in 0..200 {
            assert_eq!(
                one(&mut races, block, Kind::Write, parts + 4 * u64::from(block)),
                None
            );
            if fence {
                races.fence(block);
            }
            assert_eq!(one(&mut races, block, Kind::AtomicUpdate, counter), None);
        }
        (0..200).find_map(|i| one(&mut races, 199, Kind::Read, parts + 4 * i))
    }

    #[test]
    fn last_block_reduction() {
        assert_eq!(last_block_sums(true), None);
        assert!(last_block_sums(false).is_some());
    }

    #[test]
    fn decoupled_look_back_is_transitive() {
        let mut races = GlobalRaces::new();
        let flag = |block: u32| BASE + 65536 + 64 * u64::from(block);
        for block in 0..50 {
            if block > 0 {
                assert_eq!(
                    one(&mut races, block, Kind::AtomicRead, flag(block - 1)),
                    None
                );
            }
            // What block 0 wrote reaches everyone through the chain of flags.
            let kind = if block == 0 { Kind::Write } else { Kind::Read };
            assert_eq!(one(&mut races, block, kind, BASE), None, "block {block}");
            races.fence(block);
            assert_eq!(one(&mut races, block, Kind::AtomicWrite, flag(block)), None);
        }
        assert!(one(&mut races, 60, Kind::Read, BASE).is_some());
    }

    #[test]
    fn spin_lock_orders_critical_sections() {
        let mut races = GlobalRaces::new();
        let (lock, data) = (BASE, BASE + 4096);
        for block in 0..20 {
            assert_eq!(one(&mut races, block, Kind::AtomicUpdate, lock), None);
            assert_eq!(one(&mut races, block, Kind::Read, data), None);
            assert_eq!(one(&mut races, block, Kind::Write, data), None);
            races.fence(block);
            assert_eq!(one(&mut races, block, Kind::AtomicUpdate, lock), None);
        }
        assert!(one(&mut races, 21, Kind::Write, data).is_some());
    }

    #[test]
    fn grid_barrier_orders_phases() {
        let mut races = GlobalRaces::new();
        let counter = BASE + 65536;
        for phase in 0..3 {
            for block in 0..8u32 {
                assert_eq!(all(&mut races, block, Kind::Read, BASE), None);
                let own = BASE + 4096 + 128 * u64::from((block + phase) % 8);
                assert_eq!(all(&mut races, block, Kind::Write, own), None);
                races.fence(block);
                one(&mut races, block, Kind::AtomicUpdate, counter);
            }
            (0..8).for_each(|block| {
                assert!(one(&mut races, block, Kind::AtomicRead, counter).is_none())
            });
        }
        assert_eq!(all(&mut races, 2, Kind::Read, BASE), None);
        assert_eq!(all(&mut races, 2, Kind::Write, BASE), None);
        assert!(all(&mut races, 3, Kind::Read, BASE).is_some());
    }

    #[test]
    fn cluster_barrier_orders_its_blocks_only() {
        let mut races = GlobalRaces::new();
        all(&mut races, 0, Kind::Write, BASE);
        races.cluster_barrier(&[0, 1]);
        assert_eq!(all(&mut races, 1, Kind::Read, BASE), None);
        assert!(all(&mut races, 2, Kind::Read, BASE).is_some());
    }
}
