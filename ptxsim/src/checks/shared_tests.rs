//! Sequences of accesses and synchronisation, correct ones beside the same with a mistake.

mod copies;

use super::access::{Access, Agent, Conflict, Hazard, Kind, Proxy};
use super::shared::SharedRaces;
use super::shared_order::SyncId;

const BAR: SyncId = SyncId::Barrier { rank: 0, id: 0 };

fn warp(number: u32) -> Agent {
    Agent::warp(0, number)
}

fn block(warps: u32) -> SharedRaces {
    SharedRaces::new(1, warps, 16384)
}

fn words(start: u32) -> [u32; 32] {
    std::array::from_fn(|lane| start + 4 * lane as u32)
}

/// All lanes of a warp access consecutive words.
fn all(races: &mut SharedRaces, number: u32, kind: Kind, start: u32) -> Option<Conflict> {
    races.access(&Access::plain(warp(number), kind, 1), &words(start), !0, 4)
}

/// One lane of a warp accesses a word.
fn one(races: &mut SharedRaces, number: u32, lane: u32, kind: Kind, at: u32) -> Option<Conflict> {
    races.access(
        &Access::plain(warp(number), kind, 1),
        &[at; 32],
        1 << lane,
        4,
    )
}

fn barrier(races: &mut SharedRaces, id: SyncId, warps: std::ops::Range<u32>) {
    warps.clone().for_each(|w| races.release(warp(w), id));
    races.complete(id);
    warps.for_each(|w| races.acquire(warp(w), id));
}

/// Warps arrive at an mbarrier, its phase completes.
fn arrive(races: &mut SharedRaces, mbarrier: u32, warps: std::ops::Range<u32>) {
    warps.for_each(|w| races.release(warp(w), SyncId::Mbarrier(mbarrier)));
    races.complete(SyncId::Mbarrier(mbarrier));
}

fn wait(races: &mut SharedRaces, mbarrier: u32, warps: std::ops::Range<u32>) {
    warps.for_each(|w| races.acquire(warp(w), SyncId::Mbarrier(mbarrier)));
}

#[test]
fn barrier_orders_write_and_read() {
    for with_barrier in [true, false] {
        let mut races = block(4);
        assert_eq!(all(&mut races, 0, Kind::Write, 0), None);
        if with_barrier {
            barrier(&mut races, BAR, 0..4);
        }
        let conflict = all(&mut races, 1, Kind::Read, 0);
        assert_eq!(conflict.is_none(), with_barrier);
        if let Some(conflict) = conflict {
            assert_eq!(
                (conflict.hazard, conflict.earlier),
                (Hazard::Unordered, Kind::Write)
            );
            assert_eq!((conflict.party.as_str(), conflict.address), ("warp 0", 0));
        }
    }
}

#[test]
fn write_after_reads_of_all_warps_needs_a_second_barrier() {
    for with_barrier in [true, false] {
        let mut races = block(8);
        for step in 0..5 {
            let writer = step % 8;
            assert_eq!(all(&mut races, writer, Kind::Write, 128), None);
            barrier(&mut races, BAR, 0..8);
            (0..8).for_each(|w| assert_eq!(all(&mut races, w, Kind::Read, 128), None));
            if with_barrier {
                barrier(&mut races, BAR, 0..8);
            } else {
                assert!(all(&mut races, writer, Kind::Write, 128).is_some());
                break;
            }
        }
    }
}

#[test]
fn every_reader_must_be_ordered() {
    let mut races = block(8);
    (0..8).for_each(|w| assert_eq!(all(&mut races, w, Kind::Read, 0), None));
    barrier(&mut races, SyncId::Barrier { rank: 0, id: 1 }, 0..7);
    assert!(all(&mut races, 0, Kind::Write, 0).is_some());
}

#[test]
fn distinct_bytes_of_a_granule_are_independent() {
    let mut races = block(16);
    for w in 0..16 {
        let access = Access::plain(warp(w), Kind::Write, 1);
        assert_eq!(races.access(&access, &[w; 32], 1, 1), None);
    }
    assert!(one(&mut races, 3, 0, Kind::Read, 0).is_some());
}

#[test]
fn reset_forgets() {
    let mut races = block(2);
    all(&mut races, 0, Kind::Write, 0);
    races.reset();
    assert_eq!(all(&mut races, 1, Kind::Write, 0), None);
}

#[test]
fn named_barriers_pass_a_buffer_back_and_forth() {
    let (full, empty) = (
        SyncId::Barrier { rank: 0, id: 1 },
        SyncId::Barrier { rank: 0, id: 2 },
    );
    for waits_for_empty in [true, false] {
        let mut races = block(2);
        let mut found = false;
        for step in 0..6 {
            if step > 0 && waits_for_empty {
                races.release(warp(0), empty);
                races.complete(empty);
                races.acquire(warp(0), empty);
            }
            found |= all(&mut races, 0, Kind::Write, 0).is_some();
            races.release(warp(0), full);
            races.release(warp(1), full);
            races.complete(full);
            races.acquire(warp(1), full);
            assert_eq!(all(&mut races, 1, Kind::Read, 0), None);
            races.release(warp(1), empty);
        }
        assert_eq!(found, !waits_for_empty);
    }
}

#[test]
fn lanes_of_a_warp_need_a_warp_sync() {
    for synchronises in [true, false] {
        let mut races = block(1);
        assert_eq!(all(&mut races, 0, Kind::Write, 0), None);
        assert_eq!(all(&mut races, 0, Kind::Read, 0), None, "its own word");
        if synchronises {
            races.warp_sync(warp(0));
        }
        let swapped: [u32; 32] = std::array::from_fn(|lane| 4 * (lane as u32 ^ 1));
        let conflict = races.access(&Access::plain(warp(0), Kind::Read, 2), &swapped, !0, 4);
        assert_eq!(
            conflict.map(|c| c.hazard),
            (!synchronises).then_some(Hazard::SameWarp)
        );
    }
}

#[test]
fn write_after_read_of_another_lane() {
    let mut races = block(1);
    assert_eq!(one(&mut races, 0, 5, Kind::Read, 0), None);
    assert_eq!(one(&mut races, 0, 5, Kind::Write, 4), None);
    assert_eq!(one(&mut races, 0, 5, Kind::Write, 0), None);
    races.warp_sync(warp(0));
    assert_eq!(one(&mut races, 0, 6, Kind::Read, 0), None);
    let conflict = one(&mut races, 0, 7, Kind::Write, 0).unwrap();
    assert_eq!((conflict.hazard, conflict.lane), (Hazard::SameWarp, 7));
}

#[test]
fn matrix_loads_need_all_lanes_synchronised() {
    let mut races = block(1);
    let rows: [u32; 32] = std::array::from_fn(|lane| 16 * lane as u32);
    races.access(&Access::plain(warp(0), Kind::Write, 1), &rows, !0, 16);
    let load = Access::matrix(warp(0), Kind::Read, 2);
    assert_eq!(
        races.access(&load, &rows, !0, 16).unwrap().hazard,
        Hazard::SameWarp
    );
    races.warp_sync(warp(0));
    assert_eq!(races.access(&load, &rows, !0, 16), None);
}

#[test]
fn same_value_flags_and_subword_neighbours_are_no_alarm() {
    let mut races = block(1);
    let flag = Access::plain(warp(0), Kind::Write, 1);
    for _ in 0..2 {
        assert_eq!(races.access(&flag, &[0; 32], !0, 4), None);
    }
    let halves: [u32; 32] = std::array::from_fn(|lane| 64 + 2 * lane as u32);
    for kind in [Kind::Write, Kind::Read, Kind::Write] {
        assert_eq!(
            races.access(&Access::plain(warp(0), kind, 1), &halves, !0, 2),
            None
        );
    }
}

#[test]
fn atomics_conflict_with_plain_accesses_only() {
    let mut races = block(4);
    for w in 0..4 {
        assert_eq!(all(&mut races, w, Kind::AtomicUpdate, 0), None);
    }
    assert!(all(&mut races, 0, Kind::Read, 0).is_some());
    barrier(&mut races, BAR, 0..4);
    assert_eq!(all(&mut races, 3, Kind::Read, 0), None);
    assert!(all(&mut races, 1, Kind::AtomicUpdate, 0).is_some());
}

#[test]
fn atomics_do_not_hide_an_unordered_initialisation() {
    let mut races = block(2);
    one(&mut races, 0, 0, Kind::Write, 0);
    assert_eq!(one(&mut races, 0, 0, Kind::AtomicUpdate, 0), None);
    assert!(one(&mut races, 1, 0, Kind::AtomicUpdate, 0).is_some());
}

/// Critical sections under a lock in shared memory.
fn spin_lock(fences: bool) -> bool {
    let mut races = block(4);
    let mut found = false;
    for w in 0..4 {
        one(&mut races, w, 0, Kind::AtomicUpdate, 0);
        if fences {
            races.fence(warp(w));
        }
        found |= one(&mut races, w, 0, Kind::Read, 64).is_some();
        found |= one(&mut races, w, 0, Kind::Write, 64).is_some();
        if fences {
            races.fence(warp(w));
        }
        one(&mut races, w, 0, Kind::AtomicUpdate, 0);
    }
    found
}

#[test]
fn fences_and_atomics_make_a_lock() {
    assert!(!spin_lock(true));
    assert!(spin_lock(false));
}

#[test]
fn release_and_acquire_order_without_fences() {
    for release in [true, false] {
        let mut races = block(2);
        one(&mut races, 0, 0, Kind::Write, 64);
        let mut store = Access::plain(warp(0), Kind::AtomicWrite, 1);
        store.release = release;
        races.access(&store, &[0; 32], 1, 4);
        let mut load = Access::plain(warp(1), Kind::AtomicRead, 1);
        load.acquire = true;
        races.access(&load, &[0; 32], 1, 4);
        assert_eq!(one(&mut races, 1, 0, Kind::Read, 64).is_none(), release);
    }
}

#[test]
fn cluster_barrier_orders_distributed_shared_memory() {
    for with_barrier in [true, false] {
        let mut races = SharedRaces::new(2, 2, 1024);
        let remote = 1 << 24;
        let write = Access::plain(Agent::warp(0, 1), Kind::Write, 1);
        assert_eq!(races.access(&write, &words(remote), !0, 4), None);
        if with_barrier {
            let warps = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(r, w)| Agent::warp(r, w));
            warps
                .iter()
                .for_each(|&w| races.release(w, SyncId::Cluster));
            races.complete(SyncId::Cluster);
            warps
                .iter()
                .for_each(|&w| races.acquire(w, SyncId::Cluster));
        }
        let read = Access::plain(Agent::warp(1, 0), Kind::Read, 2);
        let conflict = races.access(&read, &words(remote), !0, 4);
        assert_eq!(conflict.is_none(), with_barrier);
        if let Some(conflict) = conflict {
            assert_eq!(conflict.party, "warp 1 of block rank 0");
        }
    }
}
