//! Sequences of accesses and synchronisation, correct ones beside the same with a mistake.

use super::access::{Access, Agent, Conflict, Hazard, Kind, Proxy};
use super::shared::{SharedRaces, SyncId};

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

/// Two buffers filled by cp.async, one tile ahead, over ten tiles.
fn copy_pipeline(waits: bool, barrier_after_wait: bool, barrier_after_use: bool) -> bool {
    let mut races = block(4);
    let mut found = false;
    let mut issue = |races: &mut SharedRaces, tile: u32| -> Vec<u32> {
        (0..4)
            .map(|w| {
                let agent = Agent::cp_async(0, w);
                let access = Access::asynchronous(agent, warp(w), Kind::Write, Proxy::Generic, 1);
                let start = tile % 2 * 2048 + 512 * w;
                let lanes: [u32; 32] = std::array::from_fn(|lane| start + 16 * lane as u32);
                found |= races.access(&access, &lanes, !0, 16).is_some();
                races.commit(agent)
            })
            .collect()
    };
    let mut groups = issue(&mut races, 0);
    let mut bad = false;
    for tile in 0..10 {
        let next = issue(&mut races, tile + 1);
        for w in (0..4).filter(|_| waits) {
            races.wait(warp(w), Agent::cp_async(0, w), groups[w as usize]);
        }
        if barrier_after_wait {
            barrier(&mut races, BAR, 0..4);
        }
        for w in 0..4 {
            for row in 0..16 {
                let address = tile % 2 * 2048 + row * 128;
                bad |= all(&mut races, w, Kind::Read, address).is_some();
            }
        }
        if barrier_after_use {
            barrier(&mut races, BAR, 0..4);
        }
        groups = next;
    }
    found || bad
}

#[test]
fn double_buffered_cp_async() {
    assert!(!copy_pipeline(true, true, true));
    assert!(copy_pipeline(false, true, true));
    assert!(copy_pipeline(true, false, true));
    assert!(copy_pipeline(true, true, false));
}

#[test]
fn lanes_of_one_warp_see_their_copies_after_a_warp_sync() {
    for synchronises in [true, false] {
        let mut races = block(1);
        let agent = Agent::cp_async(0, 0);
        let access = Access::asynchronous(agent, warp(0), Kind::Write, Proxy::Generic, 1);
        races.access(&access, &words(0), !0, 4);
        let group = races.commit(agent);
        races.wait(warp(0), agent, group);
        assert_eq!(
            all(&mut races, 0, Kind::Read, 0),
            None,
            "each lane reads its own copy"
        );
        if synchronises {
            races.warp_sync(warp(0));
        }
        let broadcast = races.access(&Access::plain(warp(0), Kind::Read, 2), &[64; 32], !0, 4);
        assert_eq!(
            broadcast.map(|c| c.hazard),
            (!synchronises).then_some(Hazard::SameWarp)
        );
    }
}

/// A producer warp fills stages by tensor copies that two consumer warps read.
fn tensor_pipeline(stages: u32, waits_full: bool, waits_empty: bool) -> bool {
    let mut races = block(3);
    let (full, empty) = (|stage| 8192 + 8 * stage, |stage| 9216 + 8 * stage);
    let mut found = false;
    for tile in 0..20 {
        let stage = tile % stages;
        if tile >= stages && waits_empty {
            wait(&mut races, empty(stage), 2..3);
        }
        let agent = races.copies_to(full(stage));
        let copy = Access::asynchronous(agent, warp(2), Kind::Write, Proxy::Async, 1);
        found |= races.access_range(&copy, stage * 1024, 1024).is_some();
        arrive(&mut races, full(stage), 2..3);
        for w in (0..2).filter(|_| tile + 1 >= stages) {
            // Consumers run `stages - 1` tiles behind.
            let stage = (tile + 1) % stages;
            if waits_full {
                wait(&mut races, full(stage), w..w + 1);
            }
            for row in 0..8 {
                found |= all(&mut races, w, Kind::Read, stage * 1024 + 128 * row).is_some();
            }
            races.release(warp(w), SyncId::Mbarrier(empty(stage)));
        }
        if tile + 1 >= stages {
            races.complete(SyncId::Mbarrier(empty((tile + 1) % stages)));
        }
    }
    found
}

#[test]
fn tensor_copies_through_full_and_empty_mbarriers() {
    for stages in [2, 3, 4] {
        assert!(!tensor_pipeline(stages, true, true), "{stages} stages");
        assert!(tensor_pipeline(stages, false, true));
        assert!(tensor_pipeline(stages, true, false));
    }
}

#[test]
fn copies_of_another_mbarrier_are_not_complete() {
    let mut races = block(2);
    for (mbarrier, start) in [(8192, 0), (8200, 1024)] {
        let agent = races.copies_to(mbarrier);
        let copy = Access::asynchronous(agent, warp(0), Kind::Write, Proxy::Async, 1);
        assert_eq!(races.access_range(&copy, start, 1024), None);
    }
    arrive(&mut races, 8200, 0..1);
    wait(&mut races, 8200, 1..2);
    assert_eq!(all(&mut races, 1, Kind::Read, 1024), None);
    assert!(all(&mut races, 1, Kind::Read, 0).is_some());
}

/// Warps write a tile, then one warp stores it by a bulk copy and the tile is reused.
fn bulk_store(fence: bool, waits_read: bool) -> Option<Hazard> {
    let mut races = block(2);
    for w in 0..2 {
        assert_eq!(all(&mut races, w, Kind::Write, 128 * w), None);
        if fence {
            races.proxy_fence(warp(w));
        }
    }
    barrier(&mut races, BAR, 0..2);
    let agent = Agent::bulk_store(0, 0);
    let copy = Access::asynchronous(agent, warp(0), Kind::Read, Proxy::Async, 1);
    if let Some(conflict) = races.access_range(&copy, 0, 256) {
        return Some(conflict.hazard);
    }
    let group = races.commit(agent);
    if waits_read {
        races.wait(warp(0), agent, group);
    }
    barrier(&mut races, BAR, 0..2);
    all(&mut races, 1, Kind::Write, 0).map(|conflict| conflict.hazard)
}

#[test]
fn bulk_stores_need_a_proxy_fence_and_a_wait_before_reuse() {
    assert_eq!(bulk_store(true, true), None);
    assert_eq!(bulk_store(false, true), Some(Hazard::Proxy));
    assert_eq!(bulk_store(true, false), Some(Hazard::Unordered));
}

#[test]
fn proxy_fence_covers_only_what_came_before() {
    let mut races = block(1);
    races.proxy_fence(warp(0));
    all(&mut races, 0, Kind::Write, 0);
    let read = Access::asynchronous(Agent::wgmma(0, 0), warp(0), Kind::Read, Proxy::Async, 1);
    let conflict = races.access_range(&read, 0, 16).unwrap();
    assert_eq!(conflict.hazard, Hazard::Proxy);
    races.proxy_fence(warp(0));
    assert_eq!(races.access_range(&read, 16, 112), None);
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

#[test]
fn copies_that_arrive_on_an_mbarrier() {
    for arrives in [true, false] {
        let mut races = block(2);
        let agent = Agent::cp_async(0, 0);
        let copy = Access::asynchronous(agent, warp(0), Kind::Write, Proxy::Generic, 1);
        races.access(&copy, &words(0), !0, 4);
        if arrives {
            races.release_copies(warp(0), agent, SyncId::Mbarrier(8192));
        }
        arrive(&mut races, 8192, 0..1);
        wait(&mut races, 8192, 1..2);
        assert_eq!(all(&mut races, 1, Kind::Read, 0).is_none(), arrives);
    }
}
