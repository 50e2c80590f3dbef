//! Throughput of execution: warp-instructions a second of processor time, without checks and with
//! all.
//!
//! `cargo bench -p ptxsim --bench execution [-- KERNEL]`. Each figure is the median of five samples
//! after a launch to warm up; the simulator is single-threaded.

use ptxsim::memory::Memory;
use ptxsim::sim::{Arch, Checks, LaunchConfig, Module, launch};
use std::sync::Arc;

const PTX: &str = include_str!("../tests/fixtures/execution/speed.ptx");

/// A launch of a kernel of `speed.cu`, on data that fit a processor's cache: the figures are those of
/// execution, not of the host's memory.
struct Case {
    kernel: &'static str,
    grid: [u32; 3],
    block: u32,
    arguments: Vec<u64>,
}

fn upload(memory: &Memory, count: usize, value: impl Fn(usize) -> f32) -> u64 {
    let bytes: Vec<u8> = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
    let address = memory.alloc(bytes.len() as u64).expect("device memory");
    memory.copy_in(address, &bytes).expect("a live allocation");
    address
}

fn cases(memory: &Memory) -> Vec<Case> {
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 65_536.0;
    let matrix = || upload(memory, 256 * 256, noise);
    let halves = |bits: u32| upload(memory, 1 << 15, move |_| f32::from_bits(bits));
    let boxes = upload(memory, 4 * 1024, |i| {
        noise(i / 4) * 900.0 + (i % 4 / 2) as f32 * 80.0
    });
    vec![
        Case {
            kernel: "matmul",
            grid: [4, 4, 1],
            block: 256,
            arguments: vec![matrix(), matrix(), matrix(), 256],
        },
        Case {
            kernel: "softmax",
            grid: [64, 1, 1],
            block: 128,
            arguments: vec![matrix(), matrix(), 256, 256],
        },
        Case {
            kernel: "overlaps",
            grid: [16, 1, 1],
            block: 64,
            arguments: vec![boxes, matrix(), 1024, 0.5f32.to_bits().into()],
        },
        Case {
            kernel: "axpy_half",
            grid: [8, 1, 1],
            block: 256,
            arguments: vec![
                halves(0x3c00_3800),
                halves(0),
                0.5f32.to_bits().into(),
                1 << 15,
            ],
        },
    ]
}

fn main() {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let memory = Arc::new(Memory::new(1 << 30));
    let module = Module::load(PTX, Arch::Sm80, &memory).unwrap_or_else(|e| panic!("{e}"));
    println!(
        "{:<10} {:>12} {:>16} {:>16}",
        "kernel", "instructions", "off, M/s", "all checks, M/s"
    );
    for case in cases(&memory) {
        if wanted.as_ref().is_some_and(|w| w != case.kernel) {
            continue;
        }
        let [(count, off), (_, all)] =
            [Checks::Off, Checks::All].map(|checks| measure(&memory, &module, &case, checks));
        println!("{:<10} {count:>12} {off:>16.1} {all:>16.1}", case.kernel);
    }
}

/// Seconds that this thread has run, waiting for a processor left out. The kernel brings it up to
/// date at its ticks, some milliseconds apart.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    nanoseconds.expect("a number") * 1e-9
}

/// Seconds of one sample at least: many ticks.
const SAMPLE: f64 = 0.2;

/// Warp-instructions of a launch, and millions of them a second.
fn measure(memory: &Memory, module: &Module, case: &Case, checks: Checks) -> (u64, f64) {
    let kernel = module.kernel(case.kernel).expect("a kernel of speed.cu");
    let config = LaunchConfig {
        grid: case.grid,
        block: [case.block, 1, 1],
        cluster: [1, 1, 1],
        dynamic_shared: 0,
        cooperative: false,
    };
    let mut params = vec![0; kernel.info().param_bytes as usize];
    for (argument, &(offset, size)) in case.arguments.iter().zip(&kernel.info().params) {
        let (offset, size) = (offset as usize, size as usize);
        params[offset..offset + size].copy_from_slice(&argument.to_le_bytes()[..size]);
    }
    let run = || {
        let outcome = launch(memory, &kernel, &config, &params, checks);
        outcome.result.expect("the kernel to succeed");
        let findings = &outcome.report.findings;
        assert!(findings.is_empty(), "{findings:#?}");
        outcome.report.counters.warp_instructions
    };
    let count = run();
    let mut rates: Vec<f64> = (0..5).map(|_| rate(count, run)).collect();
    rates.sort_by(f64::total_cmp);
    (count, rates[rates.len() / 2])
}

/// Millions of warp-instructions a second of launches that have `count` of them each.
fn rate(count: u64, run: impl Fn() -> u64) -> f64 {
    let start = processor_seconds();
    let mut instructions = 0;
    loop {
        run();
        instructions += count;
        let seconds = processor_seconds() - start;
        if seconds >= SAMPLE {
            return instructions as f64 / seconds / 1e6;
        }
    }
}
