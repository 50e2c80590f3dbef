use super::*;
use crate::report::FindingKind;

fn kind_at(memory: &Memory, address: u64, len: usize) -> FindingKind {
    memory
        .snapshot()
        .resolve(address, len, &mut Hint::default())
        .unwrap_err()
        .kind
}

#[test]
fn allocations_are_aligned_apart_and_never_reused() {
    let memory = Memory::new(1 << 30);
    let a = memory.alloc(1000).unwrap();
    memory.free(a).unwrap();
    let b = memory.alloc(1000).unwrap();
    assert_eq!((a % 256, b % 256), (0, 0));
    assert!(b >= a + 1000 + 4096);
    assert_eq!(memory.in_use(), 1000);
}

#[test]
fn capacity_is_kept() {
    let memory = Memory::new(1 << 20);
    let a = memory.alloc(1 << 20).unwrap();
    assert_eq!(memory.alloc(1), None);
    memory.free(a).unwrap();
    assert!(memory.alloc(1).is_some());
    assert_eq!(memory.alloc(u64::MAX), None);
}

#[test]
fn copies_and_validity() {
    let memory = Memory::new(1 << 20);
    let (a, b) = (memory.alloc(64).unwrap(), memory.alloc(64).unwrap());
    memory.copy_in(a + 4, &[1, 2, 3, 4]).unwrap();
    memory.copy(b, a, 64).unwrap();
    let view = memory.snapshot();
    let span = view.resolve(b, 64, &mut Hint::default()).unwrap();
    assert!(span.is_valid(4, 4) && !span.is_valid(3, 1) && !span.is_valid(8, 1));
    let mut out = [0; 4];
    memory.copy_out(b + 4, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3, 4]);
}

#[test]
fn fill_repeats_the_pattern() {
    let memory = Memory::new(1 << 20);
    let a = memory.alloc(20_000).unwrap();
    memory.fill(a, &[1, 2], 10_000).unwrap();
    let mut out = vec![0; 20_000];
    memory.copy_out(a, &mut out).unwrap();
    assert!(out.chunks(2).all(|pair| pair == [1, 2]));
    assert!(memory.fill(a, &[1, 2], 10_001).is_err());
    memory.fill(a, &[1, 2], 0).unwrap();
}

#[test]
fn errors_name_the_allocation() {
    let memory = Memory::new(1 << 20);
    let a = memory.alloc(1024).unwrap();
    let view = memory.snapshot();
    let error = view.resolve(a + 1028, 4, &mut Hint::default()).unwrap_err();
    assert_eq!(error.kind, FindingKind::OutOfBounds);
    let text = format!("4 bytes past the end of allocation 1, 1024 bytes at {a:#x}");
    assert!(error.message.contains(&text), "{}", error.message);
    let error = view.resolve(a - 8, 4, &mut Hint::default()).unwrap_err();
    assert!(
        error
            .message
            .contains("8 bytes before the start of allocation 1")
    );
    assert_eq!(kind_at(&memory, a + 1022, 4), FindingKind::OutOfBounds);
    assert_eq!(kind_at(&memory, 0, 4), FindingKind::OutOfBounds);
    assert_eq!(kind_at(&memory, u64::MAX - 1, 4), FindingKind::OutOfBounds);
}

#[test]
fn freed_memory_is_recognised_and_stays_backed_for_its_launch() {
    let memory = Memory::new(1 << 20);
    let a = memory.alloc(64).unwrap();
    let before = memory.snapshot();
    memory.free(a).unwrap();
    before
        .resolve(a, 64, &mut Hint::default())
        .unwrap()
        .write(0, &[1; 64]);
    assert_eq!(kind_at(&memory, a + 60, 4), FindingKind::UseAfterFree);
    assert!(memory.free(a).is_err());
}

#[test]
fn host_memory() {
    let memory = Memory::new(1 << 20);
    let own = 5u32;
    assert_eq!(
        kind_at(&memory, &raw const own as u64, 4),
        FindingKind::HostPointer
    );
    let pinned = memory.alloc_host(16).unwrap();
    memory.copy_in(pinned as u64 + 8, &[1; 8]).unwrap();
    assert_eq!(
        memory.find(pinned as u64 + 15).unwrap().kind,
        AllocationKind::Host
    );
    assert_eq!(memory.in_use(), 0);
    memory.free(pinned as u64).unwrap();
    assert!(memory.leaks().is_empty());
}

#[test]
fn module_variables_are_initialised_and_no_leak() {
    let memory = Memory::new(1 << 20);
    let a = memory.register_module_memory("table", 8, &[1, 2]).unwrap();
    let mut out = [9; 8];
    memory.copy_out(a, &mut out).unwrap();
    assert_eq!(out, [1, 2, 0, 0, 0, 0, 0, 0]);
    assert!(memory.leaks().is_empty());
    assert_eq!(memory.find(a).unwrap().name.as_deref(), Some("table"));
}

#[test]
fn rows_over_two_allocations() {
    let memory = Memory::new(1 << 20);
    let (a, b) = (memory.alloc(64).unwrap(), memory.alloc(64).unwrap());
    let mut addresses = [a; 32];
    addresses[1] = b + 60;
    let view = memory.snapshot();
    let row = view
        .resolve_row(&addresses, 3, 4, &mut Hint::default())
        .unwrap();
    row.store(0, &[6u32; 32]);
    let mut out = [0; 4];
    memory.copy_out(b + 60, &mut out).unwrap();
    assert_eq!(out, [6, 0, 0, 0]);
    addresses[7] = b + 64;
    let error = view
        .resolve_row(&addresses, 0x83, 4, &mut Hint::default())
        .unwrap_err();
    assert_eq!((error.lane, error.address), (7, b + 64));
}

#[test]
fn zero_length_is_found_and_freed() {
    let memory = Memory::new(1 << 20);
    let a = memory.alloc(0).unwrap();
    assert_eq!(memory.find(a).unwrap().len, 0);
    memory.copy_in(a, &[]).unwrap();
    memory.free(a).unwrap();
}
