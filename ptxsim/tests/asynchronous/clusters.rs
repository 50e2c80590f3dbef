//! Clusters: distributed shared memory, multicast, remote mbarriers, registers.

use crate::harness::{Device, assert_clean, assert_finds, pointer, ramp, shape};
use ptxsim::report::FindingKind::{SharedRace, Uninitialized, UseAfterFree};
use ptxsim::sim::{LaunchError, Outcome};

const THREADS: usize = 128;

fn cluster_sum(kernel: &str, blocks: usize) -> (Outcome, Vec<f32>) {
    let device = Device::with_fixture("bulk_sm90a");
    let to = device.alloc(blocks * THREADS * 4);
    let outcome = device.launch(
        kernel,
        shape(blocks as u32, THREADS as u32, 2),
        &[pointer(to)],
    );
    let got = if outcome.result.is_ok() {
        device.download_f32(to, blocks * THREADS)
    } else {
        vec![]
    };
    (outcome, got)
}

#[test]
fn blocks_read_the_shared_memory_of_their_peer() {
    let (outcome, got) = cluster_sum("cluster_sum_clean", 6);
    assert_clean(&outcome);
    for (i, value) in got.into_iter().enumerate() {
        let (block, thread) = (i / THREADS, i % THREADS);
        let of = |block: usize| block * THREADS + thread;
        assert_eq!(value, (of(block) + of(block ^ 1)) as f32);
    }
}

#[test]
fn cluster_bugs_are_found() {
    let (outcome, _) = cluster_sum("cluster_sum_no_cluster_sync", 2);
    assert_finds(&outcome, SharedRace, &[Uninitialized]);
    let (outcome, _) = cluster_sum("cluster_sum_early_exit", 2);
    assert_eq!(outcome.result, Err(LaunchError::IllegalAddress));
    assert_finds(&outcome, UseAfterFree, &[]);
}

#[test]
fn multicast_reaches_both_blocks() {
    let device = Device::with_fixture("bulk_sm90a");
    let input = ramp(2 * THREADS);
    let to = device.alloc(4 * THREADS * 4);
    let arguments = [pointer(device.upload_f32(&input)), pointer(to)];
    let outcome = device.launch("multicast", shape(2, THREADS as u32, 2), &arguments);
    assert_clean(&outcome);
    assert_eq!(
        device.download_f32(to, 4 * THREADS),
        [input.clone(), input].concat()
    );
    // Each half is read once for both blocks.
    assert_eq!(
        outcome.report.counters.bulk_loads.bytes,
        2 * THREADS as u64 * 4
    );
}

#[test]
fn asynchronous_stores_and_reductions_reach_the_peer() {
    let device = Device::with_fixture("bulk_sm90a");
    let to = device.alloc(2 * THREADS * 4);
    let outcome = device.launch("send_to_peer", shape(2, THREADS as u32, 2), &[pointer(to)]);
    assert_clean(&outcome);
    for (i, value) in device.download_u32(to, 2 * THREADS).into_iter().enumerate() {
        let peer = (i / THREADS) ^ 1;
        let mine = peer * THREADS + i % THREADS;
        assert_eq!(value as usize, mine + 2 * (1000 + mine) + 77 + peer);
    }
}

#[test]
fn remote_arrivals_release_remote_stores() {
    let device = Device::with_fixture("bulk_sm90a");
    let to = device.alloc(THREADS * 4);
    let outcome = device.launch("remote_arrive", shape(2, THREADS as u32, 2), &[pointer(to)]);
    assert_clean(&outcome);
    for (thread, value) in device.download_u32(to, THREADS).into_iter().enumerate() {
        assert_eq!(value as usize, thread + 1 + (thread + 1) % THREADS + 1);
    }
}

#[test]
fn registers_describe_the_cluster() {
    let device = Device::with_fixture("bulk_sm90a");
    let blocks = 6;
    let to = device.upload(&vec![0; blocks * 64]);
    assert_clean(&device.launch("registers", shape(blocks as u32, 32, 2), &[pointer(to)]));
    for (block, got) in device.download_u32(to, blocks * 16).chunks(16).enumerate() {
        let (cluster, rank) = (block as u32 / 2, block as u32 % 2);
        // clusterid, nclusterid, cluster_ctaid, cluster_nctaid, rank, ranks, explicit, peer's rank,
        // elected lane, leader
        assert_eq!(got[..10], [cluster, 3, rank, 2, rank, 2, 1, rank ^ 1, 0, 1]);
    }
}
