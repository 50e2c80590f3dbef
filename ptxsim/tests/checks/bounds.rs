//! Accesses where there is no memory.

use crate::harness::Arg::{Bytes, Int, Pointer};
use crate::harness::Device;
use ptxsim::sim::LaunchError::{IllegalAddress, MisalignedAddress};

fn device() -> Device {
    Device::new("bounds_sm80")
}

#[test]
fn global_past_the_end() {
    let device = device();
    let out = device.fresh(100);
    let args = [Pointer(out), Int(100)];
    let ran = device.caught("global_store_past_end", 2, 64, &args);
    assert_eq!(ran.result, Err(IllegalAddress));
    let finding = ran.finding();
    assert_eq!((finding.block, finding.thread), ([1, 0, 0], [36, 0, 0]));
    assert_eq!(finding.address, Some(out + 400));
    let near = format!("0 bytes past the end of allocation 1, 400 bytes at {out:#x}");
    assert_eq!(finding.allocation.as_deref(), Some(near.as_str()));
    device.clean("global_store", 2, 64, &args);
    assert_eq!(device.read(out, 100), (0..100).collect::<Vec<_>>());
}

#[test]
fn global_before_the_start() {
    let device = device();
    let (input, out) = (device.words(&[0; 33]), device.fresh(32));
    let args = [Pointer(input), Pointer(out), Int(32)];
    let ran = device.caught("global_load_before_start", 1, 32, &args);
    let finding = ran.finding();
    assert_eq!((finding.thread, finding.address), ([0; 3], Some(input - 4)));
    assert!(
        finding
            .allocation
            .as_ref()
            .is_some_and(|a| a.starts_with("4 bytes before the start"))
    );
    device.clean("global_load", 1, 32, &args);
}

#[test]
fn null_freed_and_host_pointers() {
    let device = device();
    let ran = device.caught("null_pointer", 1, 32, &[Pointer(0)]);
    assert_eq!(ran.finding().address, Some(0));
    let out = device.fresh(32);
    device.memory.free(out).expect("allocated");
    let ran = device.caught("freed_pointer", 1, 32, &[Pointer(out)]);
    assert!(
        ran.finding().message.contains("freed allocation 1"),
        "{}",
        ran.finding().message
    );
    let host = [1i32; 32];
    let pageable = host.as_ptr() as u64;
    let out = device.fresh(32);
    let ran = device.caught("host_pointer", 1, 32, &[Pointer(pageable), Pointer(out)]);
    assert_eq!(
        (ran.result, ran.finding().address),
        (Err(IllegalAddress), Some(pageable))
    );
    let pinned = device.memory.alloc_host(128).expect("memory") as u64;
    device.clean("copy", 1, 32, &[Pointer(pinned), Pointer(out)]);
}

#[test]
fn misaligned() {
    let device = device();
    let (input, out) = (device.words(&[0; 65]), device.fresh(32));
    let args = |offset| [Pointer(input), Pointer(out), Int(offset)];
    let ran = device.caught("misaligned_vector_load", 1, 32, &args(1));
    assert_eq!(ran.result, Err(MisalignedAddress));
    assert_eq!(
        (ran.finding().thread, ran.finding().address),
        ([0; 3], Some(input + 4))
    );
    device.clean("vector_load", 1, 32, &args(0));
}

#[test]
fn shared_past_the_end() {
    let device = device();
    let out = device.fresh(64);
    let ran = device.caught("shared_past_end", 1, 64, &[Pointer(out), Int(1)]);
    assert_eq!(ran.result, Err(IllegalAddress));
    assert_eq!(ran.finding().thread, [63, 0, 0]);
    device.clean("shared_rotate", 1, 64, &[Pointer(out), Int(1)]);
    assert_eq!(device.read(out, 2), [1, 2]);
}

#[test]
fn local_past_the_end() {
    let device = device();
    let out = device.words(&[0; 32]);
    let ran = device.caught("local_past_end", 1, 16, &[Pointer(out), Int(1)]);
    assert_eq!(ran.finding().thread, [15, 0, 0]);
    device.clean("local_array", 1, 32, &[Pointer(out), Int(1)]);
}

#[test]
fn parameters_past_the_end() {
    let device = device();
    let out = device.fresh(32);
    let table = || Bytes((1..=8).flat_map(i32::to_le_bytes).collect());
    let args = |by| [table(), Pointer(out), Int(by)];
    let ran = device.caught("param_past_end", 1, 8, &args(8000));
    assert_eq!(ran.finding().thread, [0; 3]);
    device.clean("param_table", 1, 8, &args(3));
    assert_eq!(device.read(out, 8), [4, 5, 6, 7, 8, 1, 2, 3]);
}

#[test]
fn leaks() {
    let device = device();
    let kept = device.fresh(8);
    let freed = device.fresh(8);
    device.memory.free(freed).expect("allocated");
    let leaks = device.memory.leaks();
    assert_eq!(
        leaks.iter().map(|info| info.address).collect::<Vec<_>>(),
        [kept]
    );
}
