//! Whole matrix products by a [`Model`], eight columns at a time.

use super::format::{Format, SPECIAL_EXPONENT, Term, ZERO_EXPONENT};
use super::model::{Accumulator, Model};

/// Columns that are computed together: one AVX2 register of f32.
pub const LANES: usize = 8;

/// Matrix A, split into significands and exponents; row-major `[m][k]`.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    significand: Vec<f32>,
    exponent: Vec<i32>,
    depth: usize,
    special: bool,
}

/// Matrix B, split likewise; panels of eight columns, `[n / 8][k][8]`.
#[derive(Debug, Default, Clone)]
pub struct Columns {
    significand: Vec<[f32; LANES]>,
    exponent: Vec<[i32; LANES]>,
    depth: usize,
    special: bool,
}

impl Rows {
    /// Splits the elements of A, given row-major with `depth` elements a row, each in the low bits.
    pub fn load(&mut self, format: Format, elements: &[u32], depth: usize, negate: bool) {
        self.depth = depth;
        self.significand.resize(elements.len(), 0.0);
        self.exponent.resize(elements.len(), 0);
        let target = self.significand.iter_mut().zip(&mut self.exponent);
        self.special = split(format, elements, negate, target);
    }
}

impl Columns {
    /// Splits the elements of B, given as panels `[n / 8][k][8]`, each in the low bits.
    pub fn load(&mut self, format: Format, elements: &[u32], depth: usize, negate: bool) {
        self.depth = depth;
        self.significand.resize(elements.len() / LANES, [0.0; LANES]);
        self.exponent.resize(elements.len() / LANES, [0; LANES]);
        let significands = self.significand.as_flattened_mut().iter_mut();
        let target = significands.zip(self.exponent.as_flattened_mut());
        self.special = split(format, elements, negate, target);
    }
}

/// Splits elements; true where one is infinite or NaN.
fn split<'a>(
    format: Format,
    elements: &[u32],
    negate: bool,
    target: impl Iterator<Item = (&'a mut f32, &'a mut i32)>,
) -> bool {
    let sign = if negate { 1 << (format.bits() - 1) } else { 0 };
    let mut lowest = 0;
    let mut each = |term: Term, (significand, exponent): (&mut f32, &mut i32)| {
        *significand = term.significand;
        *exponent = term.exponent;
        lowest = lowest.min(term.exponent);
    };
    let pairs = elements.iter().map(|bits| bits ^ sign).zip(target);
    // One loop a format, so that each vectorises.
    match format {
        Format::F16 => pairs.for_each(|(bits, t)| each(Format::F16.term(bits), t)),
        Format::Bf16 => pairs.for_each(|(bits, t)| each(Format::Bf16.term(bits), t)),
        Format::Tf32 => pairs.for_each(|(bits, t)| each(Format::Tf32.term(bits), t)),
        other => pairs.for_each(|(bits, t)| each(other.term(bits), t)),
    }
    lowest == SPECIAL_EXPONENT
}

/// `c += a * b` by the model; `c` is row-major `[m][n]`, f16 accumulators as the f32 of their value.
///
/// # Panics
/// Where the shapes do not fit each other.
pub fn multiply_add(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    assert!(a.depth == b.depth && a.depth > 0);
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature that the function is compiled for.
        return unsafe { multiply_add_avx2(model, a, b, c) };
    }
    multiply_add_portable(model, a, b, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_add_avx2(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    multiply_add_portable(model, a, b, c);
}

#[inline(always)]
fn multiply_add_portable(model: &Model, a: &Rows, b: &Columns, c: &mut [f32]) {
    let depth = a.depth;
    let width = b.significand.len() / depth * LANES;
    let rows = a.significand.chunks_exact(depth).zip(a.exponent.chunks_exact(depth));
    for ((a_significand, a_exponent), c) in rows.zip(c.chunks_exact_mut(width)) {
        let panels = b.significand.chunks_exact(depth).zip(b.exponent.chunks_exact(depth));
        for ((b_significand, b_exponent), c) in panels.zip(c.as_chunks_mut::<LANES>().0) {
            for k in (0..depth).step_by(model.block) {
                let k = k..(k + model.block).min(depth);
                let block = Block {
                    a_significand: &a_significand[k.clone()],
                    a_exponent: &a_exponent[k.clone()],
                    b_significand: &b_significand[k.clone()],
                    b_exponent: &b_exponent[k],
                };
                let special = a.special | b.special | c.iter().any(|c| !c.is_finite());
                if special { block.add_by_definition(model, c) } else { block.add(model, c) }
            }
        }
    }
}

/// One fused add for eight columns.
struct Block<'a> {
    a_significand: &'a [f32],
    a_exponent: &'a [i32],
    b_significand: &'a [[f32; LANES]],
    b_exponent: &'a [[i32; LANES]],
}

impl Block<'_> {
    /// The same as [`Model::fused_dot_add`] for finite operands, in floats: a product of two
    /// significands is exact in f32 (at most 22 bits), scaling by a power of two is exact or too
    /// small to count, the conversion to an integer truncates, and f64 holds every sum.
    #[inline(always)]
    fn add(&self, model: &Model, c: &mut [f32; LANES]) {
        let (c_significand, c_exponent) = split_addend(model, c);
        let mut top = c_exponent.map(|e| e.max(model.min_exponent));
        for (&a, b) in self.a_exponent.iter().zip(self.b_exponent) {
            for (top, &b) in top.iter_mut().zip(b) {
                *top = (*top).max(a + b);
            }
        }
        // Biased exponent of the scale that aligns a term: never above 127 + F, at most 0 where
        // the term falls below the adder.
        let bias = top.map(|top| 127 + model.fraction_bits - top);
        let mut sum = [0f64; LANES];
        // Eight terms below 4 * 2^25 fit an i32; sixteen would not.
        let halves = self.a_significand.chunks(8).zip(self.a_exponent.chunks(8));
        let halves = halves.zip(self.b_significand.chunks(8).zip(self.b_exponent.chunks(8)));
        for ((a_significand, a_exponent), (b_significand, b_exponent)) in halves {
            let mut partial = [0i32; LANES];
            let a = a_significand.iter().zip(a_exponent);
            let b = b_significand.iter().zip(b_exponent);
            for ((&sa, &ea), (sb, eb)) in a.zip(b) {
                for l in 0..LANES {
                    partial[l] += align(sa * sb[l], ea + eb[l] + bias[l]);
                }
            }
            for l in 0..LANES {
                sum[l] += f64::from(partial[l]);
            }
        }
        for l in 0..LANES {
            sum[l] += f64::from(align(c_significand[l], c_exponent[l] + bias[l]));
        }
        let unit = top.map(|top| power_of_two(top - model.fraction_bits));
        *c = match model.accumulator {
            Accumulator::F32 => round_f32(sum, unit, model.result_bits),
            Accumulator::F16 => round_f16(sum, unit),
        };
    }

    /// Infinities and NaNs: rare, so element by element.
    #[cold]
    #[inline(never)]
    fn add_by_definition(&self, model: &Model, c: &mut [f32; LANES]) {
        let a = self.a_significand.iter().zip(self.a_exponent);
        let a: Vec<Term> =
            a.map(|(&significand, &exponent)| Term { significand, exponent }).collect();
        for (l, c) in c.iter_mut().enumerate() {
            let b = self.b_significand.iter().zip(self.b_exponent);
            let b: Vec<Term> =
                b.map(|(s, e)| Term { significand: s[l], exponent: e[l] }).collect();
            *c = model.fused_dot_add(&a, &b, *c);
        }
    }
}

/// `term * 2^(biased - 127)`, truncated; 0 where `biased` is not positive.
#[inline(always)]
fn align(term: f32, biased: i32) -> i32 {
    let scaled = term * f32::from_bits((biased.max(0) as u32) << 23);
    // SAFETY: |term| < 4 and `biased` is at most 127 + 25, so the value is finite and below 2^27.
    unsafe { scaled.to_int_unchecked() }
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// [`Model::addend`] of finite numbers, without branches.
#[inline(always)]
fn split_addend(model: &Model, c: &[f32; LANES]) -> ([f32; LANES], [i32; LANES]) {
    let smallest = model.smallest_exponent();
    let mut significand = [0f32; LANES];
    let mut exponent = [0i32; LANES];
    for l in 0..LANES {
        let term = Format::F32.term(c[l].to_bits());
        let e = term.exponent.max(smallest);
        // A zero keeps its significand of 0 whatever the scale; the clamp keeps the scale valid.
        let below = (e - term.exponent).min(126);
        significand[l] = term.significand * f32::from_bits(((127 - below) as u32) << 23);
        exponent[l] = if c[l] == 0.0 { ZERO_EXPONENT } else { e };
    }
    (significand, exponent)
}

/// `sum * unit` towards zero to f32 with `bits` fraction bits.
#[inline(always)]
fn round_f32(sum: [f64; LANES], unit: [f64; LANES], bits: i32) -> [f32; LANES] {
    let mask = !0u64 << (52 - bits);
    let (to_last, from_last) = (power_of_two(126 + bits), power_of_two(-126 - bits));
    let mut result = [0f32; LANES];
    for l in 0..LANES {
        let value = f64::from_bits(sum[l].to_bits() & mask) * unit[l];
        // Subnormal results lose the bits below the last place; normal ones have none there. The
        // final conversion is exact or an overflow.
        result[l] = ((value * to_last).trunc() * from_last) as f32;
    }
    result
}

/// `sum * unit` to the nearest f16, ties to even, as f32.
#[inline(always)]
fn round_f16(sum: [f64; LANES], unit: [f64; LANES]) -> [f32; LANES] {
    let mut result = [0f32; LANES];
    for l in 0..LANES {
        let value = sum[l] * unit[l];
        let leading = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let last_bit = leading.max(-14) - 10;
        let rounded =
            (value * power_of_two(-last_bit)).round_ties_even() * power_of_two(last_bit);
        let overflows = rounded.abs() >= 65536.0;
        result[l] = if overflows { f32::INFINITY.copysign(rounded as f32) } else { rounded as f32 };
    }
    result
}

#[cfg(test)]
#[path = "multiply_tests.rs"]
mod tests;
