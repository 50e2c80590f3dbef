//! Values that nothing wrote.

use crate::harness::Arg::{Int, Pointer};
use crate::harness::{Device, Ran};

fn device() -> Device {
    Device::new("uninitialized_sm80")
}

/// 32 words of which the last two were not written.
fn partly_written(device: &Device) -> u64 {
    let words = device.fresh(32);
    device.memory.copy_in(words, &[5; 120]).expect("inside");
    words
}

fn thread(ran: &Ran) -> [u32; 3] {
    ran.finding().thread
}

#[test]
fn global_memory_is_reported_where_it_is_used() {
    let device = device();
    let (input, out) = (partly_written(&device), device.fresh(32));
    let ran = device.caught("global_in_branch", 1, 32, &[Pointer(input), Pointer(out)]);
    assert_eq!((thread(&ran), ran.result), ([30, 0, 0], Ok(())));
    let written = device.words(&[9; 32]);
    let ran = device.launch("global_in_branch", 1, 32, &[Pointer(written), Pointer(out)]);
    assert_eq!(ran.report.findings, []);
}

#[test]
fn an_index_is_a_use() {
    let device = device();
    let (input, out) = (device.fresh(32), device.fresh(32));
    device.memory.fill(input, &[0; 4], 31).expect("inside");
    let ran = device.caught("global_as_index", 1, 32, &[Pointer(input), Pointer(out)]);
    assert_eq!(thread(&ran), [31, 0, 0]);
}

#[test]
fn a_copy_is_no_use_and_carries_the_mark() {
    let device = device();
    let (input, copy, out) = (partly_written(&device), device.fresh(32), device.fresh(32));
    device.clean("global_copied", 1, 32, &[Pointer(input), Pointer(copy)]);
    let ran = device.caught("global_in_branch", 1, 32, &[Pointer(copy), Pointer(out)]);
    assert_eq!(thread(&ran), [30, 0, 0]);
}

#[test]
fn shared_memory() {
    let device = device();
    let out = device.fresh(64);
    let args = [Pointer(out), Int(60)];
    let ran = device.caught("shared_partly_written", 1, 64, &args);
    assert_eq!(thread(&ran), [0, 0, 0]);
    device.clean("shared_written", 1, 64, &args);
}

#[test]
fn local_memory() {
    let device = device();
    let out = device.words(&[1; 32]);
    let args = [Pointer(out), Int(10)];
    let ran = device.caught("local_partly_written", 1, 32, &args);
    assert_eq!(thread(&ran), [10, 0, 0]);
    device.clean("local_written", 1, 32, &args);
}

#[test]
fn registers() {
    let device = device();
    let out = device.fresh(32);
    let args = [Pointer(out), Int(20)];
    let ran = device.caught("register_partly_written", 1, 32, &args);
    assert_eq!(thread(&ran), [20, 0, 0]);
    device.clean("register_copied", 1, 32, &args);
}

#[test]
fn arithmetic_that_is_stored() {
    let device = device();
    let (input, out) = (device.fresh(70), device.fresh(32));
    device.memory.fill(input, &[0; 4], 69).expect("inside");
    let args = [Pointer(input), Pointer(out), Int(70)];
    let ran = device.caught("global_in_sum", 1, 32, &args);
    assert_eq!(thread(&ran), [5, 0, 0]);
    device.clean("global_sum", 1, 32, &args);
}

#[test]
fn an_exchange_initialises_and_other_atomics_do_not() {
    let device = device();
    let run = |kernel| {
        (
            kernel,
            1,
            32,
            [Pointer(device.fresh(32)), Pointer(device.fresh(32))],
        )
    };
    let (kernel, grid, block, args) = run("exchanged");
    device.clean(kernel, grid, block, &args);
    for kernel in ["exchanged_for", "added_to"] {
        let (kernel, grid, block, args) = run(kernel);
        device.caught(kernel, grid, block, &args);
    }
}
