//! `cp.async` in groups and with mbarriers, on sm_80.

use crate::harness::{Device, assert_clean, assert_finds, bytes_of, int, pointer, ramp, shape};
use ptxsim::report::FindingKind::{Mbarrier, SharedRace};
use ptxsim::sim::{Checks, Outcome};

const THREADS: usize = 128;
const TILE: usize = 4 * THREADS;

/// Each tile's groups of four in reverse order.
fn mirrored(input: &[f32]) -> Vec<f32> {
    let tile = |tile: &[f32]| -> Vec<f32> { tile.chunks(4).rev().flatten().copied().collect() };
    input.chunks(TILE).flat_map(tile).collect()
}

fn double_buffer(kernel: &str, tiles: usize) -> (Outcome, Vec<f32>, Vec<f32>) {
    let device = Device::with_fixture("pipeline_sm80");
    let input = ramp(tiles * TILE);
    let (from, to) = (device.upload_f32(&input), device.alloc(tiles * TILE * 4));
    let arguments = [pointer(from), pointer(to), int(tiles as i32)];
    let outcome = device.launch(kernel, shape(1, THREADS as u32, 1), &arguments);
    (
        outcome,
        device.download_f32(to, tiles * TILE),
        mirrored(&input),
    )
}

#[test]
fn double_buffered_pipeline_is_clean() {
    for tiles in [1, 2, 3, 8] {
        let (outcome, got, expected) = double_buffer("double_buffer_clean", tiles);
        assert_clean(&outcome);
        assert_eq!(got, expected);
        let copies = outcome.report.counters.async_copies;
        assert_eq!(copies.bytes, (tiles * TILE * 4) as u64);
        assert_eq!(copies.sectors * 32, copies.bytes);
    }
}

#[test]
fn pipeline_bugs_are_found() {
    for bug in ["no_wait", "wrong_group", "no_barrier", "no_release"] {
        let (outcome, ..) = double_buffer(&format!("double_buffer_{bug}"), 4);
        assert_finds(&outcome, SharedRace, &[]);
    }
}

#[test]
fn what_is_not_copied_is_zero() {
    let device = Device::with_fixture("pipeline_sm80");
    let input: Vec<u8> = (0..THREADS * 16).map(|i| (i % 255 + 1) as u8).collect();
    let sizes: Vec<i32> = (0..THREADS as i32).map(|t| t * 7).collect();
    let arguments = [
        pointer(device.upload(&input)),
        pointer(device.upload(&bytes_of(&sizes, i32::to_le_bytes))),
        pointer(device.upload(&vec![0xcc; 3 * THREADS * 16])),
    ];
    let outcome = device.launch("zero_fill", shape(1, THREADS as u32, 1), &arguments);
    assert_clean(&outcome);
    let to = u64::from_le_bytes(arguments[2].as_slice().try_into().unwrap());
    let got = device.download(to, 3 * THREADS * 16);
    for (k, size) in [4, 8, 16].into_iter().enumerate() {
        for t in 0..THREADS {
            let taken = sizes[t] as usize % (size + 1);
            for byte in 0..16 {
                // The kernel filled all of it with ones before.
                let expected = match byte {
                    b if b < taken => input[16 * t + b],
                    b if b < size => 0,
                    _ => 0xff,
                };
                assert_eq!(
                    got[(k * THREADS + t) * 16 + byte],
                    expected,
                    "{size} {t} {byte}"
                );
            }
        }
    }
}

#[test]
fn an_ignored_source_is_not_touched() {
    let device = Device::with_fixture("pipeline_sm80");
    let input: Vec<u8> = (0..THREADS * 16).map(|i| (i % 255 + 1) as u8).collect();
    let to = device.alloc(THREADS * 16);
    let arguments = [pointer(device.upload(&input)), pointer(to)];
    assert_clean(&device.launch("ignore_source", shape(1, THREADS as u32, 1), &arguments));
    let got = device.download(to, THREADS * 16);
    for (i, (&new, &old)) in got.iter().zip(&input).enumerate() {
        assert_eq!(new, if i / 16 % 2 == 0 { old } else { 0 });
    }
}

fn copy_mbarrier(kernel: &str) -> (Outcome, Vec<f32>, Vec<f32>) {
    let device = Device::with_fixture("pipeline_sm80");
    let input = ramp(TILE);
    let to = device.alloc(TILE * 4);
    let arguments = [pointer(device.upload_f32(&input)), pointer(to)];
    let outcome = device.launch(kernel, shape(1, THREADS as u32, 1), &arguments);
    (outcome, device.download_f32(to, TILE), mirrored(&input))
}

#[test]
fn copies_can_complete_on_an_mbarrier() {
    for kernel in ["copy_mbarrier_noinc", "copy_mbarrier_inc"] {
        let (outcome, got, expected) = copy_mbarrier(kernel);
        assert_clean(&outcome);
        assert_eq!(got, expected, "{kernel}");
    }
}

#[test]
fn mbarrier_bugs_are_found() {
    for kernel in ["copy_mbarrier_no_wait", "copy_mbarrier_inc_no_wait"] {
        assert_finds(&copy_mbarrier(kernel).0, SharedRace, &[]);
    }
    assert_finds(&copy_mbarrier("copy_mbarrier_double_init").0, Mbarrier, &[]);
}

#[test]
fn threads_meet_at_an_mbarrier() {
    let device = Device::with_fixture("pipeline_sm80");
    for checks in [Checks::Off, Checks::Memory, Checks::All] {
        let rounds = 5;
        let to = device.alloc(rounds * THREADS * 4);
        let arguments = [pointer(to), int(rounds as i32)];
        let config = shape(1, THREADS as u32, 1);
        assert_clean(&device.launch_checked("mbarrier_rounds", config, &arguments, checks));
        let got = device.download_f32(to, rounds * THREADS);
        for (i, value) in got.into_iter().enumerate() {
            let (round, thread) = (i / THREADS, i % THREADS);
            assert_eq!(value, (round * THREADS + (thread + 33) % THREADS) as f32);
        }
    }
}
