//! Bulk copies and warp specialisation on sm_90a.

use crate::harness::{
    Device, assert_clean, assert_deadlock, assert_finds, int, pointer, ramp, shape,
};
use ptxsim::report::FindingKind::{Deadlock, Mbarrier, ProxyFence, SharedRace, Uninitialized};
use ptxsim::sim::Outcome;

const THREADS: usize = 128;

fn round_trip(kernel: &str, count: usize) -> (Outcome, Vec<f32>, Vec<f32>) {
    let device = Device::with_fixture("bulk_sm90a");
    let input = ramp(count);
    let to = device.alloc(count * 4);
    let arguments = [
        pointer(device.upload_f32(&input)),
        pointer(to),
        int(count as i32),
    ];
    let outcome = device.launch(kernel, shape(1, THREADS as u32, 1), &arguments);
    (
        outcome,
        device.download_f32(to, count),
        input.iter().map(|x| x + 1.0).collect(),
    )
}

#[test]
fn bulk_copies_go_there_and_back() {
    for pieces in [1, 2, 5] {
        let (outcome, got, expected) = round_trip("round_trip_clean", pieces * THREADS);
        assert_clean(&outcome);
        assert_eq!(got, expected);
        let counters = outcome.report.counters;
        for traffic in [counters.bulk_loads, counters.bulk_stores] {
            assert_eq!(traffic.requests, pieces as u64);
            assert_eq!(traffic.bytes, (pieces * THREADS * 4) as u64);
            assert_eq!(traffic.sectors * 32, traffic.bytes);
        }
    }
}

#[test]
fn bulk_copy_bugs_are_found() {
    let run = |bug: &str| round_trip(&format!("round_trip_{bug}"), 3 * THREADS).0;
    assert_finds(&run("no_wait"), SharedRace, &[Mbarrier]);
    assert_finds(&run("no_proxy_fence"), ProxyFence, &[]);
    assert_finds(&run("no_read_wait"), SharedRace, &[]);
    assert_deadlock(&run("wrong_bytes"), "phase 0 of the mbarrier");
}

#[test]
fn blocks_add_through_bulk_reductions() {
    let device = Device::with_fixture("bulk_sm90a");
    let to = device.upload_f32(&vec![0.5; THREADS]);
    let outcome = device.launch("bulk_add", shape(7, THREADS as u32, 1), &[pointer(to)]);
    assert_clean(&outcome);
    let expected: Vec<f32> = (0..THREADS).map(|t| 0.5 + 7.0 * (t + 1) as f32).collect();
    assert_eq!(device.download_f32(to, THREADS), expected);
}

const WIDTH: usize = 96;

fn ring(kernel: &str, pieces: usize) -> (Outcome, Vec<f32>, Vec<f32>) {
    let device = Device::with_fixture("bulk_sm90a");
    let input = ramp(pieces * WIDTH);
    let to = device.alloc(WIDTH * 4);
    let arguments = [
        pointer(device.upload_f32(&input)),
        pointer(to),
        int(pieces as i32),
    ];
    let outcome = device.launch(kernel, shape(1, THREADS as u32, 1), &arguments);
    let sum = |place: usize| (0..pieces).map(|i| input[i * WIDTH + place]).sum();
    (
        outcome,
        device.download_f32(to, WIDTH),
        (0..WIDTH).map(sum).collect(),
    )
}

#[test]
fn producer_and_consumers_share_a_ring() {
    for pieces in [1, 3, 4, 11] {
        let (outcome, got, expected) = ring("ring_clean", pieces);
        assert_clean(&outcome);
        assert_eq!(got, expected);
    }
}

#[test]
fn ring_bugs_are_found() {
    // One side then runs ahead of the other, and the other waits for a phase that has passed.
    assert_finds(
        &ring("ring_no_wait", 4).0,
        SharedRace,
        // What was not waited for is read before anything wrote it.
        &[Mbarrier, Deadlock, Uninitialized],
    );
    assert_finds(
        &ring("ring_no_release", 9).0,
        SharedRace,
        &[Mbarrier, Deadlock],
    );
}
