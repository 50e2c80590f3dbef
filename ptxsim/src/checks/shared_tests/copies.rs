//! Asynchronous copies: pipelines, and what completes them.

use super::*;

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
