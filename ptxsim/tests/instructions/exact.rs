//! Exact arithmetic on floating-point values, rounded once: the definition that instructions are
//! compared with. It shares nothing with the simulator: numbers are big integers times powers of
//! two, and one function rounds them to any format.

mod value;

use num_bigint::BigUint;

/// A binary floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
    /// Without infinities, and with NaN in all-ones only, as e4m3.
    pub finite_only: bool,
}

pub const F16: Format = Format {
    exponent_bits: 5,
    mantissa_bits: 10,
    finite_only: false,
};
pub const BF16: Format = Format {
    exponent_bits: 8,
    mantissa_bits: 7,
    finite_only: false,
};
pub const F32: Format = Format {
    exponent_bits: 8,
    mantissa_bits: 23,
    finite_only: false,
};
pub const F64: Format = Format {
    exponent_bits: 11,
    mantissa_bits: 52,
    finite_only: false,
};
pub const E4M3: Format = Format {
    exponent_bits: 4,
    mantissa_bits: 3,
    finite_only: true,
};
pub const E5M2: Format = Format {
    exponent_bits: 5,
    mantissa_bits: 2,
    finite_only: false,
};

/// A rounding direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Toward zero.
    Zero,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
}

/// A value: sign, integer, power of two. Zero keeps its sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Nan,
    Infinite {
        negative: bool,
    },
    Finite {
        negative: bool,
        integer: BigUint,
        exponent: i64,
    },
}

impl Format {
    pub fn bias(self) -> i64 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn exponent_mask(self) -> u64 {
        (1 << self.exponent_bits) - 1
    }

    fn mantissa_mask(self) -> u64 {
        (1 << self.mantissa_bits) - 1
    }

    pub fn sign_bit(self) -> u64 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    pub fn infinity(self) -> u64 {
        self.exponent_mask() << self.mantissa_bits
    }

    /// NaN with all bits but the sign, which is what PTX arithmetic gives.
    pub fn nan(self) -> u64 {
        self.sign_bit() - 1
    }

    /// Largest finite value.
    pub fn max(self) -> u64 {
        if self.finite_only {
            self.nan() - 1
        } else {
            self.infinity() - 1
        }
    }

    pub fn is_nan(self, bits: u64) -> bool {
        self.decode(bits) == Value::Nan
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        bits & self.infinity() == 0 && bits & self.mantissa_mask() != 0
    }

    /// `.ftz`: a subnormal becomes a zero of its sign.
    pub fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) {
            bits & self.sign_bit()
        } else {
            bits
        }
    }

    pub fn decode(self, bits: u64) -> Value {
        let negative = bits & self.sign_bit() != 0;
        let exponent = bits >> self.mantissa_bits & self.exponent_mask();
        let mantissa = bits & self.mantissa_mask();
        if self.finite_only && bits & self.nan() == self.nan() {
            return Value::Nan;
        }
        if !self.finite_only && exponent == self.exponent_mask() {
            return if mantissa == 0 {
                Value::Infinite { negative }
            } else {
                Value::Nan
            };
        }
        let hidden = if exponent == 0 {
            0
        } else {
            1 << self.mantissa_bits
        };
        let exponent = exponent.max(1) as i64 - self.bias() - i64::from(self.mantissa_bits);
        Value::Finite {
            negative,
            integer: BigUint::from(mantissa | hidden),
            exponent,
        }
    }

    /// Rounds a value to this format. Beyond the range it gives infinity or the largest finite
    /// value as IEEE 754 says for the direction; a format without infinities gives NaN.
    pub fn encode(self, value: &Value, round: Round) -> u64 {
        let (negative, integer, exponent) = match value {
            Value::Nan => return self.nan(),
            Value::Infinite { negative } => {
                let sign = if *negative { self.sign_bit() } else { 0 };
                return if self.finite_only {
                    self.nan() | sign
                } else {
                    self.infinity() | sign
                };
            }
            Value::Finite {
                negative,
                integer,
                exponent,
            } => (*negative, integer, *exponent),
        };
        let sign = if negative { self.sign_bit() } else { 0 };
        if integer.bits() == 0 {
            return sign;
        }
        let lowest = 1 - self.bias() - i64::from(self.mantissa_bits);
        let top = integer.bits() as i64 - 1 + exponent;
        let mut quantum = (top - i64::from(self.mantissa_bits)).max(lowest);
        let mut significand = round_integer(integer, quantum - exponent, round, negative);
        if significand >> (self.mantissa_bits + 1) != 0 {
            significand >>= 1;
            quantum += 1;
        }
        // A significand without the hidden bit is subnormal; its field is 0.
        let field = quantum - lowest + i64::from(significand >> self.mantissa_bits != 0);
        let bits = ((field as u64) << self.mantissa_bits) | significand & self.mantissa_mask();
        if field <= self.exponent_mask() as i64 && bits <= self.max() {
            return sign | bits;
        }
        let away = match round {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        match (away, self.finite_only) {
            (false, _) => sign | self.max(),
            (true, false) => sign | self.infinity(),
            (true, true) => sign | self.nan(),
        }
    }
}

/// `integer / 2^shift`, rounded to an integer.
fn round_integer(integer: &BigUint, shift: i64, round: Round, negative: bool) -> u64 {
    if shift <= 0 {
        return u64::try_from(integer << shift.unsigned_abs()).unwrap();
    }
    let shift = shift as u64;
    let quotient = integer >> shift;
    let rest = integer - (&quotient << shift);
    let quotient = u64::try_from(quotient).unwrap();
    let half = BigUint::from(1u8) << (shift - 1);
    let up = match round {
        Round::Nearest => rest > half || rest == half && quotient & 1 == 1,
        Round::NearestAway => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest.bits() > 0,
        Round::Up => !negative && rest.bits() > 0,
    };
    quotient + u64::from(up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_host_where_it_rounds_to_nearest() {
        let values = [
            0.0f64,
            -0.0,
            1.0,
            -1.5,
            1e-310,
            5e-324,
            1e308,
            -1e300,
            0.1,
            f64::INFINITY,
            f64::NAN,
        ];
        for a in values {
            for b in values {
                let (x, y) = (F64.decode(a.to_bits()), F64.decode(b.to_bits()));
                for (exact, host) in [
                    (x.add(&y, Round::Nearest), a + b),
                    (x.mul(&y), a * b),
                    (x.div(&y), a / b),
                    (x.sqrt(), a.sqrt()),
                    (x.mul(&y).add(&x, Round::Nearest), a.mul_add(b, a)),
                ] {
                    let bits = F64.encode(&exact, Round::Nearest);
                    let same = bits == host.to_bits() || F64.is_nan(bits) && host.is_nan();
                    assert!(same, "{a} {b}: {} {host}", f64::from_bits(bits));
                }
                let narrowed = F32.encode(&x, Round::Nearest);
                let host = (a as f32).to_bits();
                assert!(narrowed == u64::from(host) || a.is_nan(), "{a}");
            }
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        let tenth = F64.decode(0.1f64.to_bits());
        let (down, up) = (
            F32.encode(&tenth, Round::Down),
            F32.encode(&tenth, Round::Up),
        );
        assert_eq!(down + 1, up);
        assert_eq!(F32.encode(&tenth, Round::Zero), down);
        assert_eq!(
            F32.encode(&tenth.negated(), Round::Down),
            up | F32.sign_bit()
        );
        let huge = F64.decode(1e300f64.to_bits());
        assert_eq!(F32.encode(&huge, Round::Zero), F32.max());
        assert_eq!(F32.encode(&huge, Round::Up), F32.infinity());
        assert_eq!(E4M3.encode(&huge, Round::Nearest), 0x7F);
        assert_eq!(
            E4M3.encode(&F64.decode(448f64.to_bits()), Round::Nearest),
            0x7E
        );
    }

    #[test]
    fn integers_round_and_clamp() {
        let of = |x: f64| F64.decode(x.to_bits());
        assert_eq!(of(2.5).to_integer(32, true, Round::Nearest), Some(2));
        assert_eq!(of(-2.5).to_integer(32, true, Round::Down), Some(-3));
        assert_eq!(of(-2.5).to_integer(32, false, Round::Zero), Some(0));
        assert_eq!(
            of(1e30).to_integer(64, true, Round::Zero),
            Some(i128::from(i64::MAX))
        );
        assert_eq!(of(5e-324).to_integer(8, false, Round::Up), Some(1));
        assert_eq!(of(f64::NAN).to_integer(8, false, Round::Up), None);
    }
}
