//! Whole kernels for `sm_80`: a matrix product and attention, on `cp.async`, `ldmatrix` and `mma`.

use crate::support::{Argument, Device, Random, expect_clean};
use ptxsim::report::Counters;
use ptxsim::sim::{Arch, Checks};

fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

/// Values that bf16 represents.
fn draw(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| f32::from_bits(random.unit().to_bits() & 0xffff_0000))
        .collect()
}

fn gemm(arch: Arch, checks: Checks) -> Counters {
    let device = Device::new(include_str!("../fixtures/matrix/gemm_sm80.ptx"), arch);
    let (m, n, k) = (128, 64, 96);
    let mut random = Random(42);
    let (a, b) = (draw(&mut random, m * k), draw(&mut random, k * n));
    let c = device.buffer(4 * m * n);
    let arguments = [
        Argument::Pointer(device.upload(&bf16(&a))),
        Argument::Pointer(device.upload(&bf16(&b))),
        Argument::Pointer(c),
        Argument::Int(n as i32),
        Argument::Int(k as i32),
    ];
    let shape = [[(n / 64) as u32, (m / 64) as u32, 1], [128, 1, 1]];
    let outcome = device.launch("gemm_bf16", shape, 0, checks, &arguments);
    let counters = expect_clean(&outcome).counters;
    let c: Vec<f32> = device.download(c, m * n);
    for (i, &c) in c.iter().enumerate() {
        let products = (0..k).map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n]));
        let (sum, magnitude) =
            products.fold((0.0, 0.0), |(s, m): (f64, f64), p| (s + p, m + p.abs()));
        // Each of the k / 16 products may lose 17 units of the adder's last place.
        let bound = magnitude * 17.0 * (k / 16) as f64 / f64::from(1 << 23);
        assert!((f64::from(c) - sum).abs() <= bound, "{c} is not {sum}");
    }
    counters
}

#[test]
fn gemm_is_right_and_free_of_conflicts() {
    for arch in [Arch::Sm80, Arch::Sm90a] {
        let counters = gemm(arch, Checks::All);
        assert_eq!(counters.tensor_flops, 2 * 128 * 64 * 96);
        assert_eq!(counters.mma_instructions, 128 * 64 * 96 / (16 * 8 * 16));
        // Each of 8 warps, in 6 steps of k: one load of A, four of B.
        assert_eq!(counters.matrix_loads.requests, 8 * 6 * 5);
        assert_eq!(counters.matrix_loads.wavefronts, 8 * 6 * 5 * 4);
        assert_eq!(counters.matrix_loads.conflicts, 0);
        assert_eq!(counters.async_copies.bytes, 2 * 2 * (64 * 96 + 96 * 64));
        assert_eq!(gemm(arch, Checks::Off), counters);
    }
}

#[test]
fn attention_is_right() {
    const D: usize = 128;
    let device = Device::new(
        include_str!("../fixtures/matrix/attention_sm80.ptx"),
        Arch::Sm80,
    );
    let (queries, keys) = (64, 128);
    let scale = 1.0 / (D as f32).sqrt();
    let mut random = Random(7);
    let q = draw(&mut random, queries * D);
    let (k, v) = (draw(&mut random, keys * D), draw(&mut random, keys * D));
    let out = device.buffer(2 * queries * D);
    let arguments = [
        Argument::Pointer(device.upload(&bf16(&q))),
        Argument::Pointer(device.upload(&bf16(&k))),
        Argument::Pointer(device.upload(&bf16(&v))),
        Argument::Pointer(out),
        Argument::Int(keys as i32),
        Argument::Float(scale),
    ];
    let shape = [[(queries / 64) as u32, 1, 1], [128, 1, 1]];
    let outcome = device.launch("attention_bf16", shape, 0, Checks::All, &arguments);
    let counters = expect_clean(&outcome).counters;
    assert_eq!(counters.tensor_flops, 4 * (queries * keys * D) as u64);
    let out: Vec<u16> = device.download(out, queries * D);
    for row in 0..queries {
        let score = |key: usize| -> f64 {
            let dot = (0..D).map(|d| f64::from(q[row * D + d]) * f64::from(k[key * D + d]));
            dot.sum::<f64>() * f64::from(scale)
        };
        let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        for d in 0..D {
            let sum: f64 = (0..keys)
                .map(|key| weights[key] * f64::from(v[key * D + d]))
                .sum();
            let got = f64::from(f32::from_bits(u32::from(out[row * D + d]) << 16));
            // bf16 weights and a bf16 result, of values below 1.
            assert!(
                (got - sum / total).abs() < 0.01,
                "{got} is not {}",
                sum / total
            );
        }
    }
}
