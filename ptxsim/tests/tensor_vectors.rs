//! Tensor-core models against results recorded on GPUs.
//!
//! The vectors belong to the MATLAB-tensor-core project (BSD-2-Clause,
//! github.com/north-numerical-computing/MATLAB-tensor-core) and are not kept here:
//!
//! ```text
//! PTXSIM_TENSOR_VECTORS=<its checkout>/model_validation cargo test -p ptxsim --test tensor_vectors -- --ignored
//! ```

use ptxsim::sim::Arch;
use ptxsim::tensor::format::Format;
use ptxsim::tensor::model::{Accumulator, Model};
use std::path::Path;

/// Values of a file: hexadecimal f32 words, `row` a line, or one binary f32 a line.
fn read(path: &Path, radix: u32) -> Vec<f32> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let words = text.split_whitespace();
    words
        .map(|word| f32::from_bits(u32::from_str_radix(word, radix).unwrap()))
        .collect()
}

/// Bits of an f32 that the format represents.
fn encode(format: Format, value: f32) -> u32 {
    let mut patterns = 0..1u32 << format.bits().min(16);
    match format {
        Format::Bf16 => value.to_bits() >> 16,
        Format::Tf32 | Format::F32 => value.to_bits(),
        // Slow and sure: the pattern whose value this is.
        _ => patterns
            .find(|&bits| {
                let term = format.term(bits);
                term.significand * 2f32.powi(term.exponent.max(-200)) == value
            })
            .unwrap_or_else(|| panic!("{value} is no {format:?}")),
    }
}

fn round_to_f16(value: f32) -> f32 {
    let unit = 2f32.powi(((value.to_bits() >> 23 & 255) as i32 - 127).max(-14) - 10);
    (value / unit).round_ties_even() * unit
}

struct Case {
    gpu: &'static str,
    directory: &'static str,
    format: Format,
    model: Option<Model>,
    /// The recorded f32 results of fp8 came from `wgmma` without an addend.
    f32_addend: bool,
}

fn check(root: &Path, case: &Case, accumulator: Accumulator) -> (usize, usize) {
    let model = case.model.expect("a model");
    let directory = root.join(case.gpu).join(case.directory);
    let file =
        |name: &str, suffix: &str| directory.join(format!("{name}_{}_{suffix}.txt", case.gpu));
    let output = if accumulator == Accumulator::F32 {
        "fp32"
    } else {
        "fp16"
    };
    let c = read(&file("c", "fp32"), 2);
    let d = read(&file("d", output), 2);
    let mut cache = std::collections::HashMap::new();
    let mut terms = |name: &str| -> Vec<_> {
        let values = read(&file(name, case.directory), 16);
        let bits = values.iter().map(|&value| {
            *cache
                .entry(value.to_bits())
                .or_insert_with(|| encode(case.format, value))
        });
        bits.map(|bits| case.format.term(bits)).collect()
    };
    let (a, b) = (terms("a"), terms("b"));
    let depth = a.len() / d.len();
    let rows = a.chunks(depth).zip(b.chunks(depth)).zip(c.iter().zip(&d));
    let passed = rows.filter(|((a, b), (c, d))| {
        let mut sum = match accumulator {
            Accumulator::F32 if case.f32_addend => **c,
            Accumulator::F32 => 0.0,
            Accumulator::F16 => round_to_f16(**c),
        };
        for (a, b) in a.chunks(model.block).zip(b.chunks(model.block)) {
            sum = model.fused_dot_add(a, b, sum);
        }
        sum.to_bits() == d.to_bits()
    });
    (passed.count(), d.len())
}

#[test]
#[ignore = "needs vectors recorded on GPUs, see the head of this file"]
fn models_reproduce_recorded_results() {
    let root = std::env::var("PTXSIM_TENSOR_VECTORS").expect("PTXSIM_TENSOR_VECTORS");
    let root = Path::new(&root);
    let mut failed = 0;
    for accumulator in [Accumulator::F32, Accumulator::F16] {
        let mut cases = Vec::new();
        for (gpu, arch) in [
            ("A100", Arch::Sm80),
            ("A2", Arch::Sm80),
            ("H100", Arch::Sm90a),
            ("H200", Arch::Sm90a),
        ] {
            for (directory, format) in [
                ("fp16", Format::F16),
                ("bf16", Format::Bf16),
                ("tf32", Format::Tf32),
            ] {
                let model = Model::mma(arch, format, accumulator);
                cases.push(Case {
                    gpu,
                    directory,
                    format,
                    model,
                    f32_addend: true,
                });
            }
            if arch == Arch::Sm90a {
                for (directory, format) in [("E4M3", Format::E4m3), ("E5M2", Format::E5m2)] {
                    let model = Model::wgmma(format, accumulator);
                    cases.push(Case {
                        gpu,
                        directory,
                        format,
                        model,
                        f32_addend: false,
                    });
                }
            }
        }
        for case in cases {
            // bf16 and tf32 have no f16 accumulator, and the recorded f16 results of fp8 came from
            // `mma.sync`, which no model here covers.
            if case.format != Format::F16 && accumulator == Accumulator::F16 {
                continue;
            }
            let (passed, total) = check(root, &case, accumulator);
            println!(
                "{} {} {accumulator:?}: {passed} of {total}",
                case.gpu, case.directory
            );
            failed += total - passed;
        }
    }
    assert_eq!(failed, 0);
}
