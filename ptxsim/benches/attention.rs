//! Time of a bf16 attention forward of one head, 1024 x 1024 x 128, on one core.
//!
//! `cargo bench -p ptxsim --bench attention`. `attention.cu` is the kernel; three rows of its result
//! are checked first. Each figure is the median of five launches.

use half::bf16;
use ptxsim::memory::Memory;
use ptxsim::sim::{self, Arch, Checks, LaunchConfig, Module};
use std::sync::Arc;
use std::time::Instant;

const ROWS: usize = 1024;
const HEAD: usize = 128;
const TILE: usize = 64;
/// Two stages of a k and a v tile with rows of 272 bytes.
const SHARED: u32 = 2 * 2 * (TILE as u32) * 272;

/// Reproducible values in [-1, 1).
fn values(seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..ROWS * HEAD).map(next).collect()
}

fn bytes(values: &[bf16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Row `i` of softmax(scale q k^T) v.
fn reference(i: usize, q: &[bf16], k: &[bf16], v: &[bf16], scale: f64) -> Vec<f64> {
    let dot = |j: usize| -> f64 {
        let products = (0..HEAD).map(|d| q[i * HEAD + d].to_f64() * k[j * HEAD + d].to_f64());
        scale * products.sum::<f64>()
    };
    let weights: Vec<f64> = (0..ROWS).map(|j| dot(j).exp()).collect();
    let total: f64 = weights.iter().sum();
    let column = |d: usize| {
        (0..ROWS)
            .map(|j| weights[j] * v[j * HEAD + d].to_f64())
            .sum::<f64>()
            / total
    };
    (0..HEAD).map(column).collect()
}

fn main() {
    let memory = Arc::new(Memory::new(1 << 30));
    let (q, k, v) = (values(1), values(2), values(3));
    let length = (ROWS * HEAD * 2) as u64;
    let upload = |data: &[bf16]| {
        let address = memory.alloc(length).expect("device memory");
        memory.copy_in(address, &bytes(data)).expect("copy");
        address
    };
    let addresses = [
        upload(&q),
        upload(&k),
        upload(&v),
        memory.alloc(length).expect("device memory"),
    ];
    let scale = 1.0 / (HEAD as f64).sqrt();
    let mut params: Vec<u8> = addresses
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    params.extend_from_slice(&(ROWS as u32).to_le_bytes());
    params.extend_from_slice(&((scale * std::f64::consts::LOG2_E) as f32).to_le_bytes());
    let module = Module::load(include_str!("attention.ptx"), Arch::Sm80, &memory).expect("module");
    let kernel = module.kernel("attention").expect("kernel");
    let config = LaunchConfig {
        grid: [(ROWS / TILE) as u32, 1, 1],
        block: [128, 1, 1],
        cluster: [1; 3],
        dynamic_shared: SHARED,
        cooperative: false,
    };
    let launch = |checks| sim::launch(&memory, &kernel, &config, &params, checks);
    let outcome = launch(Checks::All);
    assert!(
        outcome.result.is_ok() && outcome.report.findings.is_empty(),
        "{outcome:?}"
    );
    let mut out = vec![0; length as usize];
    memory.copy_out(addresses[3], &mut out).expect("copy");
    for row in [0, 517, ROWS - 1] {
        for (d, expected) in reference(row, &q, &k, &v, scale).into_iter().enumerate() {
            let at = (row * HEAD + d) * 2;
            let actual = bf16::from_le_bytes([out[at], out[at + 1]]).to_f64();
            // Weights and results are rounded to bf16, 2^-9 of each.
            assert!(
                (actual - expected).abs() <= 4e-3 * expected.abs() + 1e-3,
                "row {row}, {d}: {actual} {expected}"
            );
        }
    }
    let instructions = outcome.report.counters.warp_instructions;
    println!("{instructions} warp instructions");
    for checks in [Checks::Off, Checks::Memory, Checks::All] {
        let mut seconds: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                let outcome = launch(checks);
                assert!(outcome.result.is_ok(), "{outcome:?}");
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let rate = instructions as f64 / seconds[2] / 1e6;
        println!(
            "{checks:?}: {:.3} s, {rate:.1} M warp instructions/s",
            seconds[2]
        );
    }
}
