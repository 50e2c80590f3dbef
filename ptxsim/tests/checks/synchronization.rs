//! Barriers and warp-wide instructions used wrongly.

use crate::harness::Arg::{Int, Pointer};
use crate::harness::Device;
use ptxsim::sim::LaunchError::{LaunchFailed, Timeout};

fn device() -> Device {
    Device::new("synchronization_sm80")
}

#[test]
fn barriers() {
    let device = device();
    let out = device.fresh(64);
    for (kernel, threads) in [
        ("barrier_in_divergent_code", 32),
        ("barrier_of_part_of_a_warp", 64),
        ("barrier_counts_differ", 64),
    ] {
        device.caught(kernel, 1, threads, &[Pointer(out)]);
    }
    for kernel in ["barrier_in_uniform_code", "barrier_of_whole_warps"] {
        device.clean(kernel, 1, 64, &[Pointer(out)]);
    }
}

#[test]
fn deadlocks() {
    let device = device();
    let (flag, out) = (device.words(&[0]), device.fresh(64));
    let ran = device.caught("barrier_without_others", 1, 64, &[Pointer(out)]);
    assert_eq!(ran.result, Err(Timeout));
    assert!(
        ran.finding().message.contains("barrier 1"),
        "{}",
        ran.finding().message
    );
    let ran = device.caught("wait_for_ever", 1, 32, &[Pointer(flag), Pointer(out)]);
    assert_eq!(ran.result, Err(Timeout));
    device.clean("wait_for_next_block", 2, 1, &[Pointer(flag), Pointer(out)]);
}

#[test]
fn lanes_missing_from_collectives() {
    let device = device();
    let (input, out) = (device.words(&[1; 32]), device.fresh(32));
    let args = [Pointer(input), Pointer(out)];
    device.caught("shuffle_without_some_lanes", 1, 32, &args);
    device.caught("vote_by_lanes_not_named", 1, 32, &args);
    device.clean("shuffle_with_its_lanes", 1, 32, &args);
    device.clean("vote_by_all", 1, 32, &args);
}

#[test]
fn traps() {
    let device = device();
    let out = device.fresh(32);
    let ran = device.caught("fail", 1, 32, &[Pointer(out), Int(7)]);
    assert_eq!(
        (ran.result, ran.finding().thread),
        (Err(LaunchFailed), [7, 0, 0])
    );
}
