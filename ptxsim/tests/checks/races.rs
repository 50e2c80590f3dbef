//! Races in shared memory and between blocks.

use crate::harness::Arg::{Int, Pointer};
use crate::harness::Device;

fn device() -> Device {
    Device::new("races_sm80")
}

fn ascending(count: i32) -> Vec<i32> {
    (0..count).collect()
}

#[test]
fn missing_barrier() {
    let device = device();
    let (input, out) = (device.words(&ascending(64)), device.fresh(64));
    let args = [Pointer(input), Pointer(out)];
    let ran = device.caught("reverse_without_barrier", 1, 64, &args);
    assert_eq!(ran.result, Ok(()));
    let finding = ran.finding();
    assert!(
        finding.message.contains("races_sm80.cu:"),
        "{}",
        finding.message
    );
    assert!(finding.message.contains("by warp"), "{}", finding.message);
    device.clean("reverse", 1, 64, &args);
    assert_eq!(device.read(out, 2), [63, 62]);
}

#[test]
fn missing_barrier_before_reuse() {
    let device = device();
    let (input, out) = (device.words(&ascending(320)), device.fresh(320));
    let args = [Pointer(input), Pointer(out), Int(5)];
    device.caught("reverse_rows_with_one_barrier", 1, 64, &args);
    device.clean("reverse_rows", 1, 64, &args);
}

#[test]
fn named_barriers() {
    let device = device();
    let (input, out) = (device.words(&ascending(160)), device.fresh(160));
    let args = [Pointer(input), Pointer(out), Int(5)];
    device.caught("pass_rows_without_empty", 1, 64, &args);
    device.clean("pass_rows_with_both", 1, 64, &args);
    assert_eq!(device.read(out, 2), [31, 30]);
}

#[test]
fn lanes_of_a_warp() {
    let device = device();
    let (input, out) = (device.words(&ascending(32)), device.fresh(32));
    let args = [Pointer(input), Pointer(out)];
    let ran = device.caught("exchange_without_warp_sync", 1, 32, &args);
    assert!(
        ran.finding()
            .message
            .contains("another lane of the same warp")
    );
    device.clean("exchange", 1, 32, &args);
    assert_eq!(device.read(out, 4), [1, 0, 3, 2]);
}

#[test]
fn counting() {
    let device = device();
    let (input, out) = (device.words(&[1; 128]), device.fresh(4));
    let args = [Pointer(input), Pointer(out)];
    device.caught("count_without_atomics", 1, 128, &args);
    device.clean("count_with_atomics", 1, 128, &args);
    assert_eq!(device.read(out, 4), [0, 128, 0, 0]);
}

#[test]
fn locks() {
    let device = device();
    let (input, out) = (device.words(&[2; 128]), device.fresh(1));
    let args = [Pointer(input), Pointer(out)];
    device.caught("lock_without_fences", 1, 128, &args);
    device.clean("lock_with_fences", 1, 128, &args);
    assert_eq!(device.read(out, 1), [8]);
}

#[test]
fn blocks_that_overlap() {
    let device = device();
    let out = device.fresh(256);
    let ran = device.caught("blocks_overlap", 4, 32, &[Pointer(out)]);
    let finding = ran.finding();
    assert_eq!((finding.block, finding.thread), ([1, 0, 0], [0, 0, 0]));
    assert_eq!(finding.address, Some(out + 4));
    assert!(
        finding.message.contains("by block 0"),
        "{}",
        finding.message
    );
    device.clean("blocks_apart", 4, 32, &[Pointer(out)]);
}

#[test]
fn blocks_that_add() {
    let device = device();
    let out = device.words(&[0]);
    let ran = device.launch("blocks_add", 4, 1, &[Pointer(out)]);
    assert!(!ran.report.findings.is_empty());
    device.clean("blocks_add_atomically", 4, 32, &[Pointer(out)]);
}

#[test]
fn last_block() {
    let device = device();
    let (parts, out) = (device.fresh(20), device.fresh(1));
    let args = |done| [Pointer(parts), Pointer(done), Pointer(out)];
    device.caught("last_block_without_fence", 20, 1, &args(device.words(&[0])));
    device.clean("last_block_with_fence", 20, 1, &args(device.words(&[0])));
    assert_eq!(device.read(out, 1), [210]);
}
