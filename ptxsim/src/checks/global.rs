//! The race detector for global memory between the blocks of a launch.

use super::access::{Conflict, GRANULE, Hazard, Kind, LANES, Piece, granules, range_granules};
use super::global_order::BlockOrder;
use std::collections::HashMap;

/// Granules of a page: shadow memory is made page by page as it is touched.
const PAGE: u64 = 256;
/// Pseudo-addresses of cluster barriers, above all memory.
const CLUSTER_BARRIERS: u64 = 1 << 63;

/// The latest accesses of one kind to bytes of a granule.
#[derive(Debug, Clone, Copy)]
struct Slot {
    block: u32,
    /// The block's time; for several blocks, the step of the whole launch.
    time: u32,
    site: u32,
    /// None: the slot is free.
    bytes: u16,
    kind: Kind,
    /// Other blocks made the same access, too.
    several: bool,
}

const FREE: Slot = Slot {
    block: 0,
    time: 0,
    site: 0,
    bytes: 0,
    kind: Kind::Read,
    several: false,
};

#[derive(Debug, Clone, Copy)]
struct Cell {
    slots: [Slot; 2],
    /// There are more slots, in [`GlobalRaces::overflow`].
    more: bool,
}

const EMPTY: Cell = Cell {
    slots: [FREE; 2],
    more: false,
};

/// Race detector between the blocks of one launch.
///
/// A byte that several blocks read keeps only the last of them: a later write counts as ordered
/// when the writing block has acquired anything since. Blocks are numbered linearly; `site`s are
/// PTX lines.
#[derive(Debug, Default)]
pub struct GlobalRaces {
    pages: HashMap<u64, u32>,
    cells: Vec<Box<[Cell; PAGE as usize]>>,
    /// The page used last.
    last_page: Option<(u64, u32)>,
    overflow: HashMap<u64, Vec<Slot>>,
    order: BlockOrder,
}

/// The current access.
struct Current {
    block: u32,
    time: u32,
    kind: Kind,
    site: u32,
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
        granules(addresses, mask, size, !kind.writes(), |piece| {
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
        range_granules(start, len, |piece| {
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

    /// Index of the cells of a page.
    #[inline]
    fn page(&mut self, page: u64) -> usize {
        if let Some((number, index)) = self.last_page
            && number == page
        {
            return index as usize;
        }
        let next = self.cells.len() as u32;
        let index = *self.pages.entry(page).or_insert(next);
        if index == next {
            self.cells.push(Box::new([EMPTY; PAGE as usize]));
        }
        self.last_page = Some((page, index));
        index as usize
    }

    /// Checks and remembers what the current access does to one granule.
    #[inline]
    fn meet(&mut self, current: &Current, piece: &Piece) -> Option<Slot> {
        let page = self.page(piece.granule / PAGE);
        let cell = &mut self.cells[page][(piece.granule % PAGE) as usize];
        let step = self.order.step() as u32;
        let known = cell.slots.iter().any(|slot| {
            let same = slot.kind == current.kind && piece.bytes & !slot.bytes == 0;
            let own = slot.block == current.block && slot.time == current.time;
            let shared = slot.time == step && slot.bytes == piece.bytes;
            same && if slot.several { shared } else { own }
        });
        if known {
            return None;
        }
        if cell.more {
            return self.meet_overflow(current, piece, page);
        }
        let clash = check(&mut cell.slots, current, piece.bytes, &self.order);
        if remember(&mut cell.slots, current, piece.bytes, &self.order) {
            return clash;
        }
        cell.more = true;
        self.overflow
            .insert(piece.granule, vec![new_slot(current, piece.bytes)]);
        clash
    }

    /// The same for a granule with more than two slots.
    #[cold]
    fn meet_overflow(&mut self, current: &Current, piece: &Piece, page: usize) -> Option<Slot> {
        let cell = &mut self.cells[page][(piece.granule % PAGE) as usize];
        let extra = self.overflow.entry(piece.granule).or_default();
        let clash = check(&mut cell.slots, current, piece.bytes, &self.order);
        let clash = clash.or(check(extra, current, piece.bytes, &self.order));
        if !remember(&mut cell.slots, current, piece.bytes, &self.order)
            && !remember(extra, current, piece.bytes, &self.order)
        {
            extra.push(new_slot(current, piece.bytes));
        }
        clash
    }
}

fn new_slot(current: &Current, bytes: u16) -> Slot {
    Slot {
        block: current.block,
        time: current.time,
        site: current.site,
        bytes,
        kind: current.kind,
        several: false,
    }
}

/// Whether the slot's accesses happened before the current one.
fn is_before(slot: &Slot, current: &Current, order: &BlockOrder) -> bool {
    if slot.several {
        order.acquired_since(current.block, slot.time.into())
    } else {
        slot.block == current.block || order.is_before(slot.block, slot.time, current.block)
    }
}

/// The first conflict with the slots; frees the bytes that the current access supersedes.
#[inline]
fn check(slots: &mut [Slot], current: &Current, bytes: u16, order: &BlockOrder) -> Option<Slot> {
    let mut clash = None;
    for slot in slots.iter_mut().filter(|slot| slot.bytes & bytes != 0) {
        if slot.kind.conflicts(current.kind) && !is_before(slot, current, order) {
            clash = clash.or(Some(*slot));
        }
        // A plain write conflicts with whatever would conflict with the superseded access.
        if current.kind == Kind::Write {
            slot.bytes &= !bytes;
        }
    }
    clash
}

/// Puts the current access into a slot with the same accesses or a free one.
#[inline]
fn remember(slots: &mut [Slot], current: &Current, bytes: u16, order: &BlockOrder) -> bool {
    for slot in slots
        .iter_mut()
        .filter(|slot| slot.bytes != 0 && slot.kind == current.kind)
    {
        let own = slot.block == current.block && !slot.several;
        if own && slot.time == current.time {
            slot.bytes |= bytes;
            return true;
        }
        // What conflicts with an access that happened before conflicts with the current one.
        if slot.bytes & !bytes == 0 && (own || is_before(slot, current, order)) {
            *slot = new_slot(current, bytes);
            return true;
        }
        if !own && slot.bytes == bytes && current.kind != Kind::Write {
            slot.several = true;
            slot.time = order.step() as u32;
            (slot.block, slot.site) = (current.block, current.site);
            return true;
        }
    }
    match slots.iter_mut().find(|slot| slot.bytes == 0) {
        Some(free) => {
            *free = new_slot(current, bytes);
            true
        }
        None => false,
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
        lane: piece.first_lane.into(),
        address: piece.granule * GRANULE as u64 + u64::from(piece.bytes.trailing_zeros()),
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
