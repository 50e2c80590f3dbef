//! Floating-point formats of matrix elements.

/// A format that a tensor core reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// Binary32 of which the low 13 bits are ignored.
    Tf32,
    /// 8 bits, 4 of exponent, 3 of fraction: no infinity, one NaN a sign.
    E4m3,
    /// 8 bits, 5 of exponent, 2 of fraction: IEEE-like.
    E5m2,
    /// IEEE binary32.
    F32,
}

/// A number as `significand * 2^exponent`.
///
/// Normal numbers have a significand in [1, 2); subnormal ones keep the smallest exponent of their
/// format and a significand below 1, which is how a tensor core aligns them. Zeros, infinities and
/// NaNs carry exponents so low that they never win an alignment: [`ZERO_EXPONENT`], and
/// [`SPECIAL_EXPONENT`] with a significand of 1 or -1 for an infinity and 2 for a NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// Signed significand.
    pub significand: f32,
    /// Power of two.
    pub exponent: i32,
}

/// Exponent of a zero [`Term`]; the sum of any two lies below every exponent that occurs.
pub const ZERO_EXPONENT: i32 = -20_000;
/// Exponent of an infinite or NaN [`Term`].
pub const SPECIAL_EXPONENT: i32 = -40_000;

impl Format {
    /// Bits of an element in a register or in memory.
    pub fn bits(self) -> u32 {
        match self {
            Format::F16 | Format::Bf16 => 16,
            Format::Tf32 | Format::F32 => 32,
            Format::E4m3 | Format::E5m2 => 8,
        }
    }

    /// Splits an element, given in the low bits.
    #[inline(always)]
    pub fn term(self, bits: u32) -> Term {
        match self {
            Format::F16 => ieee_term::<5, 10>(bits),
            Format::Bf16 => ieee_term::<8, 7>(bits),
            Format::Tf32 => ieee_term::<8, 10>(bits >> 13),
            Format::E5m2 => ieee_term::<5, 2>(bits),
            Format::F32 => ieee_term::<8, 23>(bits),
            Format::E4m3 => e4m3_term(bits),
        }
    }
}

impl Term {
    /// Infinite or NaN.
    pub fn is_special(self) -> bool {
        self.exponent == SPECIAL_EXPONENT
    }

    /// NaN.
    pub fn is_nan(self) -> bool {
        self.is_special() && self.significand > 1.0
    }

    /// Zero of either sign.
    pub fn is_zero(self) -> bool {
        self.exponent == ZERO_EXPONENT
    }
}

/// Splits a number with `E` exponent bits and `F` fraction bits. Free of branches, so that loops
/// over elements vectorise.
#[inline(always)]
fn ieee_term<const E: u32, const F: u32>(bits: u32) -> Term {
    let bias = (1 << (E - 1)) - 1;
    let field = ((bits >> F) & ((1 << E) - 1)) as i32;
    let fraction = bits & ((1 << F) - 1);
    let sign = (bits >> (E + F)) << 31;
    let hidden = if field == 0 { 0 } else { 1 << F };
    let magnitude = (fraction + hidden) as i32 as f32 * (1.0 / (1u32 << F) as f32);
    let special = field == (1 << E) - 1;
    let special_magnitude = if fraction == 0 { 1.0 } else { 2.0 };
    let magnitude = if special {
        special_magnitude
    } else {
        magnitude
    };
    let sign = if special && fraction != 0 { 0 } else { sign };
    let exponent = field.max(1) - bias;
    let exponent = if magnitude == 0.0 {
        ZERO_EXPONENT
    } else {
        exponent
    };
    Term {
        significand: f32::from_bits(magnitude.to_bits() | sign),
        exponent: if special { SPECIAL_EXPONENT } else { exponent },
    }
}

/// Splits an e4m3 number: bias 7, and only the all-ones pattern is a NaN.
#[inline(always)]
fn e4m3_term(bits: u32) -> Term {
    let field = ((bits >> 3) & 15) as i32;
    let hidden = if field == 0 { 0 } else { 8 };
    let magnitude = ((bits & 7) + hidden) as f32 / 8.0;
    let nan = bits & 0x7f == 0x7f;
    let exponent = if magnitude == 0.0 {
        ZERO_EXPONENT
    } else {
        field.max(1) - 7
    };
    let sign = if bits & 0x80 != 0 && !nan { -1.0 } else { 1.0 };
    Term {
        significand: if nan { 2.0 } else { magnitude * sign },
        exponent: if nan { SPECIAL_EXPONENT } else { exponent },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(format: Format, bits: u32) -> f64 {
        let term = format.term(bits);
        match (term.is_nan(), term.is_special(), term.is_zero()) {
            (true, ..) => f64::NAN,
            (_, true, _) => f64::from(term.significand) * f64::INFINITY,
            (.., true) => f64::from(term.significand),
            _ => f64::from(term.significand) * 2f64.powi(term.exponent),
        }
    }

    fn same(a: f64, b: f64) -> bool {
        (a.is_nan() && b.is_nan()) || a.to_bits() == b.to_bits()
    }

    #[test]
    fn f32_bf16_and_tf32_agree_with_the_machine() {
        let mut bits: u32 = 0;
        for step in 0..2_000_000u32 {
            bits = bits.wrapping_add(2_147 + step % 7);
            assert!(
                same(value(Format::F32, bits), f64::from(f32::from_bits(bits))),
                "{bits:08x}"
            );
            let tf32 = f32::from_bits(bits & !0x1fff);
            assert!(
                same(value(Format::Tf32, bits), f64::from(tf32)),
                "{bits:08x}"
            );
            let bf16 = f32::from_bits(bits & 0xffff_0000);
            assert!(
                same(value(Format::Bf16, bits >> 16), f64::from(bf16)),
                "{bits:08x}"
            );
        }
    }

    /// Every f16 and e5m2 value against its definition by fields, and e5m2 as the upper byte of f16.
    #[test]
    fn f16_and_e5m2_follow_their_fields() {
        for bits in 0..=0xffffu32 {
            let field = ((bits >> 10) & 31) as i32;
            let fraction = f64::from(bits & 1023) / 1024.0;
            let magnitude = match field {
                0 => fraction * 2f64.powi(-14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction) * 2f64.powi(field - 15),
            };
            let expected = if bits & 0x8000 != 0 {
                -magnitude
            } else {
                magnitude
            };
            assert!(same(value(Format::F16, bits), expected), "{bits:04x}");
            if bits & 0xff == 0 {
                assert!(same(value(Format::E5m2, bits >> 8), expected), "{bits:04x}");
            }
        }
    }

    #[test]
    fn e4m3_has_its_landmarks() {
        for (bits, expected) in [
            (0x00, 0.0),
            (0x80, -0.0),
            (0x01, 2f64.powi(-9)),
            (0x08, 2f64.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0x7f, f64::NAN),
            (0xff, f64::NAN),
        ] {
            assert!(same(value(Format::E4m3, bits), expected), "{bits:02x}");
        }
    }

    #[test]
    fn subnormals_keep_the_smallest_exponent() {
        assert_eq!(
            Format::F16.term(1),
            Term {
                significand: 1.0 / 1024.0,
                exponent: -14
            }
        );
        assert_eq!(
            Format::F32.term(1),
            Term {
                significand: 2f32.powi(-23),
                exponent: -126
            }
        );
    }
}
