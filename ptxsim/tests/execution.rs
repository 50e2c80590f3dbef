//! Whole kernels, compiled by nvcc, from loading to their results.

use ptxsim::memory::Memory;
use ptxsim::report::FindingKind;
use ptxsim::sim::{Arch, Checks, LaunchConfig, LaunchError, Module, Outcome, launch};
use std::sync::Arc;

const PTX: &str = include_str!("fixtures/execution/execution.ptx");

struct Device {
    memory: Arc<Memory>,
    module: Module,
}

impl Device {
    fn new() -> Device {
        let memory = Arc::new(Memory::new(1 << 30));
        let module = Module::load(PTX, Arch::Sm80, &memory).unwrap_or_else(|e| panic!("{e}"));
        Device { memory, module }
    }

    fn upload<T: Copy + Bytes>(&self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        let address = self.memory.alloc(bytes.len() as u64).unwrap();
        self.memory.copy_in(address, &bytes).unwrap();
        address
    }

    fn alloc(&self, words: usize) -> u64 {
        self.memory.alloc(4 * words as u64).unwrap()
    }

    fn download<T: Bytes>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; 4 * count];
        self.memory.copy_out(address, &mut bytes).unwrap();
        bytes
            .chunks_exact(4)
            .map(|c| T::from_bytes(c.try_into().unwrap()))
            .collect()
    }

    fn launch(&self, kernel: &str, grid: u32, block: u32, arguments: &[Argument]) -> Outcome {
        self.launch_checked(kernel, grid, block, arguments, Checks::All)
    }

    fn launch_checked(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        arguments: &[Argument],
        checks: Checks,
    ) -> Outcome {
        let kernel = self.module.kernel(kernel).unwrap();
        let config = LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            cluster: [1, 1, 1],
            dynamic_shared: 0,
            cooperative: false,
        };
        let mut params = vec![0; kernel.info().param_bytes as usize];
        for (argument, &(offset, size)) in arguments.iter().zip(&kernel.info().params) {
            let at = offset as usize;
            let bytes = argument.0.to_le_bytes();
            params[at..at + size as usize].copy_from_slice(&bytes[..size as usize]);
        }
        launch(&self.memory, &kernel, &config, &params, checks)
    }

    /// Launches and asserts that nothing was found.
    fn run(&self, kernel: &str, grid: u32, block: u32, arguments: &[Argument]) -> Outcome {
        let outcome = self.launch(kernel, grid, block, arguments);
        assert!(
            outcome.report.findings.is_empty(),
            "{:#?}",
            outcome.report.findings
        );
        outcome.result.unwrap();
        outcome
    }
}

/// A kernel argument of up to 8 bytes.
struct Argument(u64);

impl From<u64> for Argument {
    fn from(address: u64) -> Argument {
        Argument(address)
    }
}
impl From<i32> for Argument {
    fn from(value: i32) -> Argument {
        Argument(u64::from(value as u32))
    }
}

macro_rules! arguments {
    ($($argument:expr),*) => { &[$(Argument::from($argument)),*] };
}

trait Bytes {
    fn bytes(&self) -> [u8; 4];
    fn from_bytes(bytes: [u8; 4]) -> Self;
}
macro_rules! bytes {
    ($($ty:ty)*) => {$(
        impl Bytes for $ty {
            fn bytes(&self) -> [u8; 4] { self.to_le_bytes() }
            fn from_bytes(bytes: [u8; 4]) -> $ty { <$ty>::from_le_bytes(bytes) }
        }
    )*};
}
bytes!(f32 i32 u32);

#[test]
fn add() {
    let device = Device::new();
    for n in [1, 31, 32, 33, 255, 256, 257, 1000] {
        let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
        let c = device.alloc(n as usize);
        let (da, db) = (device.upload(&a), device.upload(&b));
        let outcome = device.run(
            "add",
            (n as u32).div_ceil(256),
            256,
            arguments![da, db, c, n],
        );
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(device.download::<f32>(c, n as usize), expected);
        let counters = outcome.report.counters;
        assert_eq!(counters.global_loads.bytes, 8 * n as u64);
        assert_eq!(counters.global_stores.sectors, (4 * n as u64).div_ceil(32));
    }
}

#[test]
fn block_sum() {
    let device = Device::new();
    let x: Vec<f32> = (0..10_000).map(|i| (i % 7) as f32).collect();
    let (dx, total) = (device.upload(&x), device.upload(&[0.0f32]));
    let outcome = device.run("block_sum", 4, 256, arguments![dx, total, 10_000]);
    assert_eq!(device.download::<f32>(total, 1)[0], x.iter().sum::<f32>());
    assert_eq!(outcome.report.counters.barriers, 4);
}

#[test]
fn lanes_loop_different_times() {
    let device = Device::new();
    let start: Vec<u32> = (1..=100).collect();
    let steps = device.alloc(100);
    let dstart = device.upload(&start);
    let outcome = device.run("collatz", 1, 128, arguments![dstart, steps, 100]);
    let collatz = |mut v: u64| {
        let mut count = 0;
        while v != 1 {
            v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
            count += 1;
        }
        count
    };
    let expected: Vec<u32> = start.iter().map(|&v| collatz(v.into())).collect();
    assert_eq!(device.download::<u32>(steps, 100), expected);
    assert!(outcome.report.counters.divergent_branches > 0);
}

#[test]
fn spin_lock_makes_progress() {
    let device = Device::new();
    let (lock, value) = (device.upload(&[0]), device.upload(&[0]));
    device.run("spin_lock", 3, 64, arguments![lock, value, 4]);
    assert_eq!(device.download::<i32>(value, 1), [3 * 64 * 4]);
}

#[test]
fn blocks_wait_for_later_ones() {
    let device = Device::new();
    let (flags, out) = (device.upload(&[0; 20]), device.alloc(20));
    device.run("chain", 20, 32, arguments![flags, out]);
    let expected: Vec<i32> = (0..20).map(|i| i * (i + 1) / 2).collect();
    assert_eq!(device.download::<i32>(out, 20), expected);
}

#[test]
fn calls() {
    let device = Device::new();
    let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    for odd in [0, 1] {
        let out = device.alloc(32);
        device.run("calls", 1, 32, arguments![out, odd]);
        let expected: Vec<u32> = (0..32u32)
            .map(|i| {
                fibonacci[i as usize % 12]
                    + if (i as i32 + odd) % 2 == 1 {
                        3 * i
                    } else {
                        2 * i
                    }
            })
            .collect();
        assert_eq!(device.download::<u32>(out, 32), expected);
    }
}

#[test]
fn jump_table() {
    let device = Device::new();
    let which: Vec<i32> = (0..32).map(|i| i * 5 % 9 - 1).collect();
    let (dwhich, out) = (device.upload(&which), device.upload(&[0; 34]));
    device.run("jump", 1, 32, arguments![dwhich, out]);
    let value = |i: i32| match which[i as usize] {
        0 => i * 3,
        1 => i + 100,
        2 => -i,
        3 => i * i,
        4 => i ^ 21,
        5 => i << 3,
        6 => 7,
        _ => -1,
    };
    let result = device.download::<i32>(out, 34);
    assert_eq!(result[..32], (0..32).map(value).collect::<Vec<_>>());
    assert_eq!(result[32], which.iter().filter(|&&w| w == 1).count() as i32);
}

#[test]
fn local_table() {
    let device = Device::new();
    let order: Vec<i32> = (0..16).map(|i| i * 7 % 16).collect();
    let (dorder, out) = (device.upload(&order), device.alloc(32));
    let outcome = device.run("local_table", 1, 32, arguments![dorder, out]);
    let expected = |thread: i32| {
        let mut table: Vec<i32> = (0..16).map(|k| k * thread).collect();
        let mut sum = 0i32;
        for k in 0..16 {
            table[order[k] as usize] += sum;
            sum += table[order[15 - k] as usize];
        }
        sum
    };
    assert_eq!(
        device.download::<i32>(out, 32),
        (0..32).map(expected).collect::<Vec<_>>()
    );
    assert!(outcome.report.counters.local_bytes > 0);
}

#[test]
fn warps_hand_buffers_over() {
    let device = Device::new();
    let input: Vec<i32> = (0..9 * 32).collect();
    let (dinput, out) = (device.upload(&input), device.alloc(9 * 32));
    device.run("pipeline", 1, 64, arguments![dinput, out, 9]);
    let expected: Vec<i32> = input
        .chunks(32)
        .flat_map(|chunk| chunk.iter().rev().copied())
        .collect();
    assert_eq!(device.download::<i32>(out, 9 * 32), expected);
}

#[test]
fn printf_and_assert() {
    let device = Device::new();
    device.run("print", 1, 32, arguments![3]);
    let mut values = [1; 32];
    let good = device.upload(&values);
    device.run("assert_positive", 1, 32, arguments![good]);
    values[7] = 0;
    let bad = device.upload(&values);
    let outcome = device.launch("assert_positive", 1, 32, arguments![bad]);
    assert_eq!(outcome.result, Err(LaunchError::Assert));
    let finding = &outcome.report.findings[0];
    assert_eq!(
        (finding.kind, finding.thread),
        (FindingKind::Trap, [7, 0, 0])
    );
    assert!(
        finding.message.contains("x[threadIdx.x] > 0"),
        "{}",
        finding.message
    );
}

#[test]
fn device_heap() {
    let device = Device::new();
    let out = device.alloc(64);
    device.run("heap", 1, 64, arguments![out]);
    let expected: Vec<i32> = (0..64).map(|t| 6 * t).collect();
    assert_eq!(device.download::<i32>(out, 64), expected);
}

#[test]
fn last_block_sees_all() {
    let device = Device::new();
    let input: Vec<i32> = (0..8 * 32).collect();
    let (dinput, partial, total) = (device.upload(&input), device.alloc(8), device.alloc(1));
    for _ in 0..2 {
        device.run("last_block", 8, 32, arguments![dinput, partial, total]);
        assert_eq!(
            device.download::<i32>(total, 1),
            [input.iter().sum::<i32>()]
        );
    }
}

#[test]
fn barrier_reductions() {
    let device = Device::new();
    for positive in [0, 1, 50, 100] {
        let x: Vec<i32> = (0..100).map(|i| i32::from(i < positive)).collect();
        let (dx, out) = (device.upload(&x), device.alloc(3));
        device.run("count_positive", 1, 100, arguments![dx, out]);
        let expected = [
            positive,
            i32::from(positive == 100),
            i32::from(positive > 0),
        ];
        assert_eq!(device.download::<i32>(out, 3), expected);
    }
}

#[test]
fn vectors_constants_and_generic_pointers() {
    let device = Device::new();
    let input: Vec<f32> = (0..128).map(|i| i as f32).collect();
    for shared in [0, 1] {
        let (dinput, out) = (device.upload(&input), device.alloc(128));
        device.run("vectors", 1, 32, arguments![dinput, out, shared]);
        let value = |i: usize| {
            let thread = if shared == 1 { 31 - i / 4 } else { i / 4 };
            input[4 * thread + i % 4] * [1.0, 2.0, 4.0, 8.0][i % 4]
        };
        assert_eq!(
            device.download::<f32>(out, 128),
            (0..128).map(value).collect::<Vec<_>>()
        );
    }
}

#[test]
fn launches_are_deterministic() {
    let device = Device::new();
    let (lock, value) = (device.upload(&[0]), device.upload(&[0]));
    let reports: Vec<_> = (0..2)
        .map(|_| {
            device
                .run("spin_lock", 2, 96, arguments![lock, value, 3])
                .report
                .counters
        })
        .collect();
    assert_eq!(reports[0], reports[1]);
}

#[test]
fn checks_do_not_change_results() {
    let device = Device::new();
    let x: Vec<f32> = (0..3000).map(|i| (i % 11) as f32).collect();
    let dx = device.upload(&x);
    let mut counters = Vec::new();
    for checks in [Checks::Off, Checks::Memory, Checks::All] {
        let total = device.upload(&[0.0f32]);
        let outcome =
            device.launch_checked("block_sum", 3, 256, arguments![dx, total, 3000], checks);
        outcome.result.unwrap();
        assert_eq!(device.download::<f32>(total, 1)[0], x.iter().sum::<f32>());
        counters.push(outcome.report.counters);
    }
    assert_eq!(counters[0], counters[1]);
    assert_eq!(counters[0], counters[2]);
}
