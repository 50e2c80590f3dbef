//! The arithmetic of a tensor core, bit for bit.
//!
//! The PTX ISA leaves accumulation order and rounding open. What the hardware does was found by
//! probing it: M. Fasi et al., PeerJ CS 7:e330 (2021); P. Xie et al., arXiv 2511.10909; F. A. Khattak
//! and M. Mikaitis, arXiv 2512.07004. All agree on a fused dot-add of `n` products and the addend:
//!
//! ```text
//! E      = max over the products' (exponent a + exponent b) and the exponent of c
//! sum    = exact sum of all terms, each truncated towards zero to F fraction bits below 2^E
//! result = sum, rounded once: towards zero to f32, to nearest even to f16
//! ```
//!
//! Products are exact and are not normalised: a product in [2, 4) aligns by the sum of its factors'
//! exponents. Zero terms take no part in the maximum. A longer dot product is a chain of such blocks
//! in rising k. NaNs come out as the one pattern 0x7fffffff, or 0x7fff in f16.

use super::format::{Format, SPECIAL_EXPONENT, Term, ZERO_EXPONENT};
use crate::sim::Arch;

/// Format of addend and result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulator {
    /// f32.
    F32,
    /// f16.
    F16,
}

/// A tensor core's fused dot-add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// `F`: fraction bits below the largest exponent that a term keeps.
    pub fraction_bits: i32,
    /// `n`: products of one fused add.
    pub block: usize,
    /// The alignment exponent is at least this.
    pub min_exponent: i32,
    /// Format of addend and result.
    pub accumulator: Accumulator,
    /// Fraction bits of an f32 result: 23, or 13 where the adder is that narrow.
    pub result_bits: i32,
}

impl Model {
    /// The model of `mma.sync`; `None` where none is known (fp8, whose `mma.sync` on `sm_90` is not
    /// the unit of `wgmma`).
    pub fn mma(arch: Arch, format: Format, accumulator: Accumulator) -> Option<Model> {
        let (fraction_bits, block) = match (arch, format) {
            (Arch::Sm80, Format::F16 | Format::Bf16) => (24, 8),
            (Arch::Sm80, Format::Tf32) => (24, 4),
            (Arch::Sm90a, Format::F16 | Format::Bf16) => (25, 16),
            (Arch::Sm90a, Format::Tf32) => (25, 8),
            (_, Format::E4m3 | Format::E5m2 | Format::F32) => return None,
        };
        Some(Model::new(fraction_bits, block, accumulator))
    }

    /// The model of Hopper's `wgmma`: one block spans the K of the instruction. Its fp8 adder keeps
    /// 13 bits, and so does its f32 result.
    pub fn wgmma(format: Format, accumulator: Accumulator) -> Option<Model> {
        match format {
            Format::F16 | Format::Bf16 => Some(Model::new(25, 16, accumulator)),
            Format::Tf32 => Some(Model::new(25, 8, accumulator)),
            Format::E4m3 | Format::E5m2 => Some(Model {
                result_bits: 13,
                min_exponent: -133,
                ..Model::new(13, 32, accumulator)
            }),
            Format::F32 => None,
        }
    }

    fn new(fraction_bits: i32, block: usize, accumulator: Accumulator) -> Model {
        // Measured as -132 and -133 (f32), -20 and -21 (f16) for 24 and 25 bits: the adder's last bit
        // then lies below the smallest subnormal of the result.
        let min_exponent = match accumulator {
            Accumulator::F32 => -108 - fraction_bits,
            Accumulator::F16 => 4 - fraction_bits,
        };
        Model {
            fraction_bits,
            block,
            min_exponent,
            accumulator,
            result_bits: 23,
        }
    }

    /// Splits an addend, given as an f32 that its format represents.
    pub fn addend(&self, c: f32) -> Term {
        let term = Format::F32.term(c.to_bits());
        let below = self.smallest_exponent() - term.exponent;
        if term.is_zero() || term.is_special() || below <= 0 {
            return term;
        }
        Term {
            significand: term.significand * 2f32.powi(-below),
            exponent: term.exponent + below,
        }
    }

    /// The smallest exponent of a normal number of the accumulator's format.
    pub(super) fn smallest_exponent(&self) -> i32 {
        match self.accumulator {
            Accumulator::F32 => -126,
            Accumulator::F16 => -14,
        }
    }

    /// One block: `c + sum a[k] * b[k]`. This is the definition, in integers, that the vector code
    /// in [`super::multiply`] is held to; an f16 result comes back as the f32 of the same value.
    ///
    /// # Panics
    /// Where `a` and `b` differ in length or exceed a block.
    pub fn fused_dot_add(&self, a: &[Term], b: &[Term], c: f32) -> f32 {
        assert!(a.len() == b.len() && a.len() <= self.block);
        let c = self.addend(c);
        if let Some(special) = special_result(a, b, c) {
            return special;
        }
        let exponents = a
            .iter()
            .zip(b)
            .map(|(a, b)| a.exponent + b.exponent)
            .chain([c.exponent]);
        let top = exponents
            .max()
            .unwrap_or(ZERO_EXPONENT)
            .max(self.min_exponent);
        let products = a.iter().zip(b).map(|(a, b)| {
            let product = fixed(a.significand) * fixed(b.significand);
            self.align(product, top - a.exponent - b.exponent)
        });
        let sum: i64 =
            products.sum::<i64>() + self.align(fixed(c.significand) << 23, top - c.exponent);
        self.round(sum, top - self.fraction_bits)
    }

    /// Truncates `value * 2^-46`, `distance` powers below the top, to the adder's last bit.
    fn align(&self, value: i64, distance: i32) -> i64 {
        let shift = (46 - self.fraction_bits + distance).clamp(0, 63);
        value.signum() * (value.abs() >> shift)
    }

    /// `sum * 2^exponent` in the accumulator's format.
    fn round(&self, sum: i64, exponent: i32) -> f32 {
        if sum == 0 {
            return 0.0;
        }
        let leading = exponent + 63 - sum.unsigned_abs().leading_zeros() as i32;
        let kept = match self.accumulator {
            Accumulator::F32 => self.result_bits,
            Accumulator::F16 => 10,
        };
        let last_bit = leading.max(self.smallest_exponent()) - kept;
        let shift = last_bit - exponent;
        let magnitude = match self.accumulator {
            Accumulator::F32 => truncate(sum.unsigned_abs(), shift),
            Accumulator::F16 => nearest_even(sum.unsigned_abs(), shift),
        };
        let value = magnitude as f64 * 2f64.powi(last_bit);
        let largest_power = match self.accumulator {
            Accumulator::F32 => 2f64.powi(128),
            Accumulator::F16 => 65536.0,
        };
        let value = if value >= largest_power {
            f64::INFINITY
        } else {
            value
        };
        if sum < 0 { -value as f32 } else { value as f32 }
    }
}

/// A significand in units of 2^-23.
fn fixed(significand: f32) -> i64 {
    (f64::from(significand) * 8_388_608.0) as i64
}

fn truncate(magnitude: u64, shift: i32) -> u64 {
    if shift <= 0 {
        magnitude << -shift
    } else {
        magnitude.checked_shr(shift as u32).unwrap_or(0)
    }
}

fn nearest_even(magnitude: u64, shift: i32) -> u64 {
    if shift <= 0 {
        return magnitude << -shift;
    }
    if shift > 63 {
        return 0; // far below half of the last place: a sum has at most 33 bits
    }
    let kept = magnitude >> shift;
    let half = 1 << (shift - 1);
    let rest = magnitude - (kept << shift);
    kept + u64::from(rest > half || (rest == half && kept & 1 == 1))
}

/// The canonical NaN that tensor cores return.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// The result where an operand is infinite or NaN: IEEE arithmetic on the classes alone.
fn special_result(a: &[Term], b: &[Term], c: Term) -> Option<f32> {
    let mut any = c.is_special();
    let mut sum = if any { class(c) } else { 0.0 };
    for (&a, &b) in a.iter().zip(b) {
        if a.exponent == SPECIAL_EXPONENT || b.exponent == SPECIAL_EXPONENT {
            any = true;
            sum += class(a) * class(b);
        }
    }
    any.then_some(if sum.is_nan() { NAN } else { sum })
}

/// An infinity, a NaN, zero, or one with the sign of the term.
fn class(term: Term) -> f32 {
    match (term.is_nan(), term.is_special(), term.is_zero()) {
        (true, ..) => f32::NAN,
        (_, true, _) => f32::INFINITY.copysign(term.significand),
        (.., true) => 0.0,
        _ => 1f32.copysign(term.significand),
    }
}
