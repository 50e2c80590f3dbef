//! Access patterns with known traffic.

use crate::harness::Arg::{Int, Pointer};
use crate::harness::Device;
use ptxsim::report::{Counters, SharedTraffic, Traffic};

fn device() -> Device {
    Device::new("counters_sm80")
}

fn traffic(requests: u64, bytes: u64, sectors: u64) -> Traffic {
    Traffic {
        requests,
        bytes,
        sectors,
    }
}

fn shared(requests: u64, bytes: u64, wavefronts: u64, conflicts: u64) -> SharedTraffic {
    SharedTraffic {
        requests,
        bytes,
        wavefronts,
        conflicts,
    }
}

#[test]
fn strided_copies() {
    let device = device();
    for (stride, sectors) in [(1, 4), (2, 8), (4, 16), (8, 32), (16, 32)] {
        let words = 32 * stride as usize;
        let (input, out) = (device.words(&vec![1; words]), device.fresh(words as u64));
        let args = [Pointer(input), Pointer(out), Int(stride)];
        let counters = device.clean("strided_copy", 1, 32, &args).report.counters;
        assert_eq!(
            counters.global_loads,
            traffic(1, 128, sectors),
            "stride {stride}"
        );
        assert_eq!(
            counters.global_stores,
            traffic(1, 128, sectors),
            "stride {stride}"
        );
    }
}

#[test]
fn vector_copies() {
    let device = device();
    let (input, out) = (device.words(&[1; 1024]), device.fresh(1024));
    let ran = device.clean("vector_copy", 2, 128, &[Pointer(input), Pointer(out)]);
    assert_eq!(ran.report.counters.global_loads, traffic(8, 4096, 128));
    assert_eq!(ran.report.counters.global_stores, traffic(8, 4096, 128));
}

#[test]
fn transposes() {
    let device = device();
    let (input, out) = (device.words(&[1; 1024]), device.fresh(1024));
    let args = [Pointer(input), Pointer(out)];
    let conflicting = device
        .clean("transpose_with_conflicts", 1, 256, &args)
        .report
        .counters;
    assert_eq!(conflicting.shared_stores, shared(32, 4096, 32, 0));
    assert_eq!(conflicting.shared_loads, shared(32, 4096, 1024, 992));
    assert_eq!(
        (conflicting.barriers, conflicting.shared_bytes_per_block),
        (1, 4096)
    );
    let padded = device
        .clean("transpose_padded", 1, 256, &args)
        .report
        .counters;
    assert_eq!(padded.shared_loads, shared(32, 4096, 32, 0));
    assert_eq!(padded.shared_stores, shared(32, 4096, 32, 0));
}

#[test]
fn atomics_on_one_word() {
    let device = device();
    let ran = device.clean("count_all", 1, 32, &[Pointer(device.fresh(32))]);
    assert_eq!(ran.report.counters.shared_atomics.requests, 1);
    assert_eq!(ran.report.counters.shared_atomics.wavefronts, 32);
}

#[test]
fn divergence() {
    let device = device();
    let ran = device.clean("diverge", 3, 64, &[Pointer(device.fresh(192))]);
    let counters = ran.report.counters;
    assert!(counters.thread_instructions < 32 * counters.warp_instructions);
    assert_eq!(counters.divergent_branches, 6);
}

#[test]
fn every_run_counts_the_same() {
    let count = || -> Vec<Counters> {
        let device = device();
        let (input, out) = (device.words(&[1; 1024]), device.fresh(1024));
        let args = [Pointer(input), Pointer(out)];
        let kernels = ["transpose_with_conflicts", "transpose_padded"];
        kernels
            .map(|kernel| device.clean(kernel, 1, 256, &args).report.counters)
            .to_vec()
    };
    let first = count();
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(count)).collect();
    for thread in threads {
        assert_eq!(thread.join().expect("no panic"), first);
    }
}
