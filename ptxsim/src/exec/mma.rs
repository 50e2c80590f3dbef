//! `mma.sync`: the matrix product of a warp.

use super::registers::{Dest, Source};
use super::step::Step;
use super::warp::Warp;
use crate::memory::LANES;
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::modifiers::Modifiers;
use crate::program::{Decode, Execute};
use crate::ptx::ast::{Instruction, Operand};
use crate::sim::Arch;
use crate::tensor::format::Format;
use crate::tensor::model::{Accumulator, Model};
use crate::tensor::product::{Arithmetic, OperandA, OperandB, Product, Row};
use std::cell::RefCell;

/// The opcodes of this family.
pub const OPCODES: &[(&str, Decode)] = &[("mma.sync.aligned", mma)];

/// m and k of the shapes; n is 8.
const SHAPES: &[(&str, (usize, usize))] = &[
    ("m16n8k4", (16, 4)),
    ("m16n8k8", (16, 8)),
    ("m16n8k16", (16, 16)),
    ("m16n8k32", (16, 32)),
    ("m8n8k4", (8, 4)),
    ("m8n8k16", (8, 16)),
];

thread_local! {
    /// Operands of the instruction at hand; kept from one to the next to spare allocations.
    static OPERANDS: RefCell<(OperandA, OperandB)> = RefCell::default();
}

fn mma(d: &Decoder<'_>, i: &Instruction) -> Result<Execute, Unsupported> {
    let modifiers = d.modifiers(i);
    let shape = modifiers.choose(SHAPES);
    let (rows, depth) = shape.ok_or_else(|| Unsupported::new("shape"))?;
    if !modifiers.take("row") || !modifiers.take("col") {
        return Err(Unsupported::new("layout: A must be .row and B .col"));
    }
    if (rows, depth) == (8, 4) {
        return f64_product(d, i, &modifiers);
    }
    let arithmetic = arithmetic(&modifiers, rows, depth, d.arch)?;
    modifiers.finish()?;
    let product = Product {
        rows,
        columns: 8,
        depth,
        arithmetic,
    };
    let dest = dests(d, d.operand(i, 0)?, product.d_registers())?;
    let a = sources(d, d.operand(i, 1)?, product.a_registers())?;
    let b = sources(d, d.operand(i, 2)?, product.b_registers())?;
    let c = sources(d, d.operand(i, 3)?, product.d_registers())?;
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        check_operands(warp, mask, &a, "A");
        check_operands(warp, mask, &b, "B");
        check_operands(warp, mask, &c, "C");
        let mut sums = [[0; LANES]; 4];
        let sums = &mut sums[..c.len()];
        for (sum, &source) in sums.iter_mut().zip(&c) {
            *sum = *warp.read(source);
        }
        OPERANDS.with_borrow_mut(|(left, right)| {
            product.gather_a(left, a.iter().map(|&source| warp.read(source)));
            product.gather_b(right, b.iter().map(|&source| warp.read(source)));
            product.prepare_a(left, false);
            product.prepare_b(right, false);
            product.multiply_add(left, right, sums);
        });
        for (&dest, sum) in dest.iter().zip(&*sums) {
            warp.write(dest, mask, u32::MAX, sum);
        }
        count(warp, product.flops());
        Step::Next
    }))
}

fn count(warp: &mut Warp<'_>, flops: u64) {
    let counters = &mut warp.launch.counters;
    counters.mma_instructions += 1;
    counters.tensor_flops += flops;
}

/// Reports undefined registers of an operand.
pub(super) fn check_operands(warp: &mut Warp<'_>, mask: u32, operand: &[Source<u32>], name: &str) {
    for &source in operand {
        if warp.defined(source) & mask != mask {
            warp.check_defined(source, mask, &format!("a register of operand {name}"));
        }
    }
}

/// The registers of a vector operand.
pub(super) fn sources(
    d: &Decoder<'_>,
    operand: &Operand,
    count: usize,
) -> Result<Vec<Source<u32>>, Unsupported> {
    let elements = d.elements(operand);
    expect_count(elements.len(), count)?;
    elements.iter().map(|element| d.source32(element)).collect()
}

/// The registers of a vector destination.
pub(super) fn dests(
    d: &Decoder<'_>,
    operand: &Operand,
    count: usize,
) -> Result<Vec<Dest<u32>>, Unsupported> {
    let elements = d.elements(operand);
    expect_count(elements.len(), count)?;
    elements.iter().map(|element| d.dest(element)).collect()
}

fn expect_count(found: usize, expected: usize) -> Result<(), Unsupported> {
    if found == expected {
        return Ok(());
    }
    Err(Unsupported::new(format!(
        "{found} registers where the shape has {expected}"
    )))
}

/// The types of D, A, B and C, after the shape.
fn arithmetic(
    modifiers: &Modifiers<'_>,
    rows: usize,
    depth: usize,
    arch: Arch,
) -> Result<Arithmetic, Unsupported> {
    let saturate = modifiers.take("satfinite");
    let types: Vec<&str> = std::iter::from_fn(|| modifiers.next()).collect();
    let unsupported = || {
        let types = types.join(".");
        Unsupported::new(format!("types .{types} with the shape m{rows}n8k{depth}"))
    };
    let [d, a, b, c] = types[..] else {
        return Err(unsupported());
    };
    let integer = |name| match name {
        "s8" => Some(true),
        "u8" => Some(false),
        _ => None,
    };
    if let (Some(a_signed), Some(b_signed), "s32", "s32") = (integer(a), integer(b), d, c) {
        return match (rows, depth) {
            (8 | 16, 16) | (16, 32) => Ok(Arithmetic::Integer {
                a_signed,
                b_signed,
                saturate,
            }),
            _ => Err(unsupported()),
        };
    }
    let format = match (a, b, rows, depth) {
        ("f16", "f16", 16, 8 | 16) => Format::F16,
        ("bf16", "bf16", 16, 8 | 16) => Format::Bf16,
        ("tf32", "tf32", 16, 4 | 8) => Format::Tf32,
        _ => return Err(unsupported()),
    };
    let accumulator = match (d, c, format) {
        ("f32", "f32", _) => Accumulator::F32,
        ("f16", "f16", Format::F16) => Accumulator::F16,
        _ => return Err(unsupported()),
    };
    let model = Model::mma(arch, format, accumulator).filter(|_| !saturate);
    model
        .map(|model| Arithmetic::Float {
            a: format,
            b: format,
            model,
        })
        .ok_or_else(unsupported)
}

/// `m8n8k4` in f64: four chained fused multiply-adds in rising k.
fn f64_product(
    d: &Decoder<'_>,
    i: &Instruction,
    modifiers: &Modifiers<'_>,
) -> Result<Execute, Unsupported> {
    modifiers.take("rn");
    let types: Vec<&str> = std::iter::from_fn(|| modifiers.next()).collect();
    if types != ["f64"; 4] {
        return Err(Unsupported::new(format!(
            "types .{} with the shape m8n8k4",
            types.join(".")
        )));
    }
    let elements = |index| d.operand(i, index).map(|operand| d.elements(operand));
    let ([d0, d1], [a], [b], [c0, c1]) = (elements(0)?, elements(1)?, elements(2)?, elements(3)?)
    else {
        return Err(Unsupported::new("number of registers"));
    };
    let dest = [d.dest::<u64>(d0)?, d.dest::<u64>(d1)?];
    let (a, b) = (d.source64(a)?, d.source64(b)?);
    let c = [d.source64(c0)?, d.source64(c1)?];
    Ok(Box::new(move |warp, mask| {
        if let Some(step) = warp.converge(mask, u32::MAX) {
            return step;
        }
        for (source, name) in [(a, "A"), (b, "B"), (c[0], "C"), (c[1], "C")] {
            warp.check_defined(source, mask, name);
        }
        let sums: [[u64; LANES]; 2] = std::array::from_fn(|r| {
            let (a, b, c) = (warp.read(a), warp.read(b), warp.read(c[r]));
            std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, 2 * (lane % 4) + r);
                let product = |sum: f64, k: usize| {
                    f64::from_bits(a[4 * row + k]).mul_add(f64::from_bits(b[4 * column + k]), sum)
                };
                (0..4).fold(f64::from_bits(c[lane]), product).to_bits()
            })
        });
        for (dest, sum) in dest.into_iter().zip(&sums) {
            warp.write(dest, mask, u32::MAX, sum);
        }
        count(warp, 2 * 8 * 8 * 4);
        Step::Next
    }))
}

/// Registers of a warp, checked to be what [`Row`] is.
const _: fn(&super::registers::Row<u32>) -> &Row = |row| row;
