//! What asynchronous operations and fences tell the race detectors, and what these find.
//!
//! An operation is executed when it is issued and recorded under an agent of its own, whose accesses
//! no warp knows to be done before it waits for them. Without race checks nothing here does anything.

use super::async_access::generic;
use super::async_state::Groups;
use super::warp::Warp;
use crate::checks::{Access, Agent, Conflict, Kind, Proxy, SharedRaces, SyncId};
use crate::memory::LANES;

/// The detector for shared memory, the agent of the executing warp, and the PTX line.
fn shared<'r>(warp: &'r mut Warp<'_>) -> Option<(&'r mut SharedRaces, Agent, u32)> {
    let site = warp.program.site(warp.state.pc).line;
    let agent = Agent::warp(warp.rank as u32, warp.state.index);
    warp.cluster
        .races
        .as_mut()
        .map(|races| (races, agent, site))
}

fn copies_of(warp: &Warp<'_>) -> Agent {
    Agent::cp_async(warp.rank as u32, warp.state.index)
}

fn stores_of(warp: &Warp<'_>) -> Agent {
    Agent::bulk_store(warp.rank as u32, warp.state.index)
}

fn report_shared(warp: &mut Warp<'_>, lane: u32, conflict: Option<Conflict>) {
    if let Some(conflict) = conflict {
        let address = Some(generic(conflict.address as u32));
        warp.find_conflict(&conflict, lane, address);
    }
}

/// `fence` and `membar`.
pub fn fence(warp: &mut Warp<'_>) {
    if let Some((races, agent, _)) = shared(warp) {
        races.fence(agent);
    }
    let block = warp.linear_block();
    if let Some(races) = &mut warp.launch.global_races {
        races.fence(block);
    }
}

/// `fence.proxy.async`.
pub fn proxy_fence(warp: &mut Warp<'_>) {
    if let Some((races, agent, _)) = shared(warp) {
        races.proxy_fence(agent);
    }
}

/// `mbarrier.init` and `mbarrier.inval` write their object; what follows must be ordered after it.
pub fn plain_write(warp: &mut Warp<'_>, lane: u32, address: u32, len: u32) {
    let conflict = shared(warp).and_then(|(races, agent, site)| {
        races.access_range(&Access::plain(agent, Kind::Write, site), address, len)
    });
    report_shared(warp, lane, conflict);
}

/// An instruction that reads `len` bytes of shared memory at once.
pub fn plain_read(warp: &mut Warp<'_>, lane: u32, address: u32, len: u32) {
    let conflict = shared(warp).and_then(|(races, agent, site)| {
        races.access_range(&Access::plain(agent, Kind::Read, site), address, len)
    });
    report_shared(warp, lane, conflict);
}

/// Other operations on an mbarrier are atomic.
pub fn mbarrier_access(warp: &mut Warp<'_>, lane: u32, address: u32) {
    let conflict = shared(warp).and_then(|(races, agent, site)| {
        let access = Access::plain(agent, Kind::AtomicUpdate, site);
        races.access_range(&access, address, 8)
    });
    report_shared(warp, lane, conflict);
}

/// An arrival at an mbarrier, or `barrier.cluster.arrive`, with release semantics or relaxed.
pub fn arrive(warp: &mut Warp<'_>, id: SyncId, release: bool) {
    if let Some((races, agent, _)) = shared(warp) {
        if release {
            races.release(agent, id);
        } else {
            races.release_relaxed(agent, id);
        }
    }
}

/// The phase of the mbarrier completed: with it the copies that report to it.
pub fn phase_completed(warp: &mut Warp<'_>, address: u32) {
    if let Some((races, ..)) = shared(warp) {
        races.complete(SyncId::Mbarrier(address));
    }
}

/// A wait, with acquire semantics or relaxed, saw the phase complete.
pub fn phase_observed(warp: &mut Warp<'_>, address: u32, acquire: bool) {
    if let Some((races, agent, _)) = shared(warp) {
        if acquire {
            races.acquire(agent, SyncId::Mbarrier(address));
        } else {
            races.acquire_relaxed(agent, SyncId::Mbarrier(address));
        }
    }
}

/// `cp.async.mbarrier.arrive`.
pub fn arrive_copies(warp: &mut Warp<'_>, address: u32) {
    let copies = copies_of(warp);
    if let Some((races, agent, _)) = shared(warp) {
        races.release_copies(agent, copies, SyncId::Mbarrier(address));
    }
}

/// The shared side of `cp.async`.
pub fn copy(warp: &mut Warp<'_>, mask: u32, addresses: &[u32; LANES], size: usize) {
    let copies = copies_of(warp);
    let conflict = shared(warp).and_then(|(races, agent, site)| {
        let access = Access::asynchronous(copies, agent, Kind::Write, Proxy::Generic, site);
        races.access(&access, addresses, mask, size)
    });
    let lane = conflict.as_ref().map_or(0, |conflict| conflict.lane);
    report_shared(warp, lane, conflict);
}

/// `cp.async.commit_group`.
pub fn commit_copies(warp: &mut Warp<'_>, mask: u32) {
    let agent = copies_of(warp);
    commit(warp, mask, agent, |warp| {
        &mut warp.state.asynchronous.copies
    });
}

/// `cp.async.wait_group`.
pub fn wait_copies(warp: &mut Warp<'_>, mask: u32, pending: usize) {
    let agent = copies_of(warp);
    wait(warp, mask, pending, agent, |warp| {
        &mut warp.state.asynchronous.copies
    });
}

/// `cp.async.bulk.commit_group`.
pub fn commit_bulk(warp: &mut Warp<'_>, mask: u32) {
    let agent = stores_of(warp);
    commit(warp, mask, agent, |warp| &mut warp.state.asynchronous.bulk);
}

/// `cp.async.bulk.wait_group`, with `.read` or without: only the reading of shared memory is tracked.
pub fn wait_bulk(warp: &mut Warp<'_>, mask: u32, pending: usize) {
    let agent = stores_of(warp);
    wait(warp, mask, pending, agent, |warp| {
        &mut warp.state.asynchronous.bulk
    });
}

fn commit(
    warp: &mut Warp<'_>,
    mask: u32,
    agent: Agent,
    groups: impl for<'w> Fn(&'w mut Warp<'_>) -> &'w mut Groups,
) {
    let Some((races, ..)) = shared(warp) else {
        return;
    };
    let group = races.commit(agent);
    groups(warp).commit(mask, group);
}

fn wait(
    warp: &mut Warp<'_>,
    mask: u32,
    pending: usize,
    agent: Agent,
    groups: impl for<'w> Fn(&'w mut Warp<'_>) -> &'w mut Groups,
) {
    let Some(group) = groups(warp).wait(mask, pending) else {
        return;
    };
    if let Some((races, issuer, _)) = shared(warp) {
        races.wait(issuer, agent, group);
    }
}

/// A bulk copy reads `len` bytes of shared memory; a group completes it.
pub fn bulk_read(warp: &mut Warp<'_>, lane: u32, address: u32, len: u32) {
    let agent = stores_of(warp);
    bulk(warp, lane, agent, Kind::Read, address, len);
}

/// A bulk copy that completes on the mbarrier at `mbarrier` accesses `len` bytes of shared memory.
pub fn bulk_tracked(
    warp: &mut Warp<'_>,
    lane: u32,
    mbarrier: u32,
    kind: Kind,
    address: u32,
    len: u32,
) {
    let Some((races, ..)) = shared(warp) else {
        return;
    };
    let agent = races.copies_to(mbarrier);
    bulk(warp, lane, agent, kind, address, len);
}

fn bulk(warp: &mut Warp<'_>, lane: u32, agent: Agent, kind: Kind, address: u32, len: u32) {
    let conflict = shared(warp).and_then(|(races, issuer, site)| {
        let access = Access::asynchronous(agent, issuer, kind, Proxy::Async, site);
        races.access_range(&access, address, len)
    });
    report_shared(warp, lane, conflict);
}

/// `st.async` and `red.async`: through the generic proxy, complete with the phase of `mbarrier`.
pub fn remote_write(
    warp: &mut Warp<'_>,
    lane: u32,
    mbarrier: u32,
    kind: Kind,
    address: u32,
    len: u32,
) {
    let conflict = shared(warp).and_then(|(races, issuer, site)| {
        let agent = races.copies_to(mbarrier);
        let access = Access::asynchronous(agent, issuer, kind, Proxy::Generic, site);
        races.access_range(&access, address, len)
    });
    report_shared(warp, lane, conflict);
}

/// Loads from global memory by `size` bytes for each lane of `mask`.
pub fn global_reads(warp: &mut Warp<'_>, mask: u32, addresses: &[u64; LANES], size: usize) {
    let (block, site) = (warp.linear_block(), warp.program.site(warp.state.pc).line);
    let Some(races) = &mut warp.launch.global_races else {
        return;
    };
    let conflict = races.access(block, Kind::Read, addresses, mask, size, site);
    if let Some(conflict) = conflict {
        warp.find_conflict(&conflict, conflict.lane, Some(conflict.address));
    }
}

/// An access to `len` bytes of global memory.
pub fn global_range(warp: &mut Warp<'_>, lane: u32, kind: Kind, address: u64, len: u32) {
    let (block, site) = (warp.linear_block(), warp.program.site(warp.state.pc).line);
    let Some(races) = &mut warp.launch.global_races else {
        return;
    };
    if let Some(conflict) = races.access_range(block, kind, address, len.into(), site) {
        warp.find_conflict(&conflict, lane, Some(conflict.address));
    }
}

/// The cluster barrier completed.
pub fn cluster_completed(warp: &mut Warp<'_>) {
    if let Some((races, ..)) = shared(warp) {
        races.complete(SyncId::Cluster);
    }
    let blocks: Vec<u32> = (0..warp.cluster.blocks.len())
        .map(|rank| warp.linear_block_of(rank))
        .collect();
    if let Some(races) = &mut warp.launch.global_races {
        races.cluster_barrier(&blocks);
    }
}

/// `barrier.cluster.wait` returned.
pub fn cluster_wait(warp: &mut Warp<'_>) {
    if let Some((races, agent, _)) = shared(warp) {
        races.acquire(agent, SyncId::Cluster);
    }
}
