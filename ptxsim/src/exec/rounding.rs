//! Rounding to narrower floating-point formats, in every direction.

/// Rounding directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rz`: toward zero.
    Zero,
    /// `.rm`: toward minus infinity.
    Down,
    /// `.rp`: toward plus infinity.
    Up,
}

impl Rounding {
    /// Whether a magnitude between two neighbours goes to the upper one. `rest` is the part above
    /// the lower one, in units of their distance and not 0.
    #[inline(always)]
    fn goes_up(self, negative: bool, odd: bool, rest: f64) -> bool {
        match self {
            Rounding::Nearest => rest > 0.5 || (rest == 0.5 && odd),
            Rounding::NearestAway => rest >= 0.5,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        }
    }

    /// Rounds to an integer.
    #[inline(always)]
    pub fn to_integer(self, value: f64) -> f64 {
        match self {
            Rounding::Nearest => value.round_ties_even(),
            Rounding::NearestAway => value.round(),
            Rounding::Zero => value.trunc(),
            Rounding::Down => value.floor(),
            Rounding::Up => value.ceil(),
        }
    }
}

/// A format narrower than binary64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of the fraction.
    fraction: u32,
    /// Exponent of the smallest normal number.
    min_exponent: i32,
    /// Bits of the largest finite number.
    max_finite: u32,
    /// Bits of infinity, or of the NaN that stands for it.
    infinity: u32,
    /// Bits of the NaN that results are.
    nan: u32,
    /// Place of the sign.
    sign: u32,
}

impl Format {
    /// IEEE binary16.
    pub const F16: Format = Format::new(10, -14, 0x7bff, 0x7c00, 0x7fff, 15);
    /// The upper half of binary32.
    pub const BF16: Format = Format::new(7, -126, 0x7f7f, 0x7f80, 0x7fff, 15);
    /// IEEE binary32.
    pub const F32: Format = Format::new(23, -126, 0x7f7f_ffff, 0x7f80_0000, 0x7fff_ffff, 31);
    /// 19 bits, of which the encoding here has no trailing zeros.
    const TF32_HIGH: Format = Format::new(10, -126, 0x3_fbff, 0x3_fc00, 0x3_ffff, 18);
    /// 8 bits, 3 of fraction, without infinity.
    pub const E4M3: Format = Format::new(3, -6, 0x7e, 0x7f, 0x7f, 7);
    /// 8 bits, 2 of fraction.
    pub const E5M2: Format = Format::new(2, -14, 0x7b, 0x7c, 0x7f, 7);

    const fn new(
        fraction: u32,
        min_exponent: i32,
        max_finite: u32,
        infinity: u32,
        nan: u32,
        sign: u32,
    ) -> Format {
        Format {
            fraction,
            min_exponent,
            max_finite,
            infinity,
            nan,
            sign,
        }
    }

    /// Rounds; `saturate` gives the largest finite number instead of infinity.
    #[inline]
    pub fn round(self, value: f64, rounding: Rounding, saturate: bool) -> u32 {
        if value.is_nan() {
            return self.nan;
        }
        let negative = value.is_sign_negative();
        let sign = u32::from(negative) << self.sign;
        let overflow = if saturate {
            self.max_finite
        } else {
            self.infinity
        };
        if value.is_infinite() {
            return sign | overflow;
        }
        let magnitude = value.abs();
        let exponent = (exponent_of(magnitude)).max(self.min_exponent);
        // In units of the last place; exact, since it scales by a power of two.
        let units = magnitude * power_of_two(self.fraction as i32 - exponent);
        let low = units.trunc();
        let rest = units - low;
        let mut integer = low as u64;
        if rest != 0.0 && rounding.goes_up(negative, integer & 1 == 1, rest) {
            integer += 1;
        }
        let bits = (((exponent - self.min_exponent) as u64) << self.fraction) + integer;
        if bits <= u64::from(self.max_finite) {
            return sign | bits as u32;
        }
        let inward = match rounding {
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
            Rounding::Nearest | Rounding::NearestAway => false,
        };
        sign | if inward { self.max_finite } else { overflow }
    }

    /// The value of a number of this format.
    #[inline(always)]
    pub fn value(self, bits: u32) -> f64 {
        let magnitude = bits & ((1 << self.sign) - 1);
        let field = magnitude >> self.fraction;
        let fraction = magnitude & ((1 << self.fraction) - 1);
        let (integer, exponent) = match field {
            0 => (fraction, self.min_exponent),
            _ => (
                fraction | 1 << self.fraction,
                self.min_exponent + field as i32 - 1,
            ),
        };
        let value = if magnitude == self.infinity && self.infinity != self.nan {
            f64::INFINITY
        } else if magnitude > self.max_finite {
            f64::NAN
        } else {
            f64::from(integer) * power_of_two(exponent - self.fraction as i32)
        };
        if bits >> self.sign & 1 == 1 {
            -value
        } else {
            value
        }
    }
}

/// Rounds to tf32, in the upper 19 bits of a word.
#[inline]
pub fn round_tf32(value: f64, rounding: Rounding, saturate: bool) -> u32 {
    match Format::TF32_HIGH.round(value, rounding, saturate) {
        bits if value.is_nan() => bits << 13 | 0x1fff,
        bits => bits << 13,
    }
}

/// Exponent of the leading bit; that of the smallest normal number for 0 and subnormal ones, which
/// lie below every format here.
#[inline(always)]
fn exponent_of(magnitude: f64) -> i32 {
    (magnitude.to_bits() >> 52) as i32 - 1023
}

/// `2^exponent` for exponents of normal numbers.
#[inline(always)]
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The f64 in the direction of `rounding` next to a value whose nearest f64 is `nearest`; `error`
/// has the sign of the value minus `nearest`.
#[inline(always)]
pub fn direct(nearest: f64, error: f64, rounding: Rounding) -> f64 {
    if !nearest.is_finite() || error == 0.0 || error.is_nan() {
        return nearest;
    }
    let toward_zero = (error < 0.0) == (nearest > 0.0);
    match rounding {
        Rounding::Zero if toward_zero && nearest > 0.0 => nearest.next_down(),
        Rounding::Zero if toward_zero && nearest < 0.0 => nearest.next_up(),
        Rounding::Down if error < 0.0 => nearest.next_down(),
        Rounding::Up if error > 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Format; 5] = [
        Format::F16,
        Format::BF16,
        Format::F32,
        Format::E4M3,
        Format::E5M2,
    ];

    #[test]
    fn every_number_of_a_narrow_format_survives() {
        for format in [Format::F16, Format::BF16, Format::E4M3, Format::E5M2] {
            for bits in 0..2u32 << format.sign {
                let value = format.value(bits);
                let back = format.round(value, Rounding::Zero, false);
                assert!(
                    value.is_nan() && back == format.nan || back == bits,
                    "{format:?} {bits:#x}"
                );
            }
        }
    }

    #[test]
    fn directions_bracket_the_value() {
        for format in ALL {
            for value in [
                1.000_001,
                -1.000_001,
                3e-8,
                -7e-6,
                0.1,
                -0.3,
                1.0 + 1.0 / 3072.0,
                200.7,
            ] {
                let down = format.value(format.round(value, Rounding::Down, false));
                let up = format.value(format.round(value, Rounding::Up, false));
                let zero = format.value(format.round(value, Rounding::Zero, false));
                let nearest = format.value(format.round(value, Rounding::Nearest, false));
                assert!(
                    down <= value && value <= up,
                    "{format:?} {value}: {down} {up}"
                );
                assert_eq!(zero, if value > 0.0 { down } else { up });
                assert!(
                    (nearest - value).abs() <= (up - value).min(value - down),
                    "{format:?} {value}"
                );
            }
        }
    }

    #[test]
    fn f32_agrees_with_the_machine() {
        let mut value = 1.0e-46f64;
        while value < 1e39 {
            for v in [value, -value, value * (1.0 + 1.0 / 16_777_216.0)] {
                assert_eq!(
                    Format::F32.round(v, Rounding::Nearest, false),
                    (v as f32).to_bits(),
                    "{v}"
                );
            }
            value *= 1.37;
        }
    }

    #[test]
    fn saturation_and_overflow() {
        assert_eq!(Format::F16.round(65520.0, Rounding::Nearest, false), 0x7c00);
        assert_eq!(Format::F16.round(65520.0, Rounding::Nearest, true), 0x7bff);
        assert_eq!(Format::F16.round(1e9, Rounding::Zero, false), 0x7bff);
        assert_eq!(Format::F16.round(-1e9, Rounding::Up, false), 0xfbff);
        assert_eq!(Format::E4M3.round(1e9, Rounding::Nearest, true), 0x7e);
        assert_eq!(
            round_tf32(1.0 + 1.0 / 2048.0, Rounding::NearestAway, false),
            0x3f80_2000
        );
    }
}
