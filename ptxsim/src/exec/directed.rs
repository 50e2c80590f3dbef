//! f64 arithmetic rounded toward zero or an infinity, in integers. Rounding to nearest is the
//! machine's; these directions are rare.

use super::rounding::Rounding;

/// A number of either sign: `integer * 2^exponent`, and a little more in magnitude if `more`.
/// Then `integer` has at least 54 bits, so that what is left out lies below every rounded bit.
#[derive(Debug, Clone, Copy)]
struct Exact {
    negative: bool,
    integer: u128,
    exponent: i32,
    more: bool,
}

/// Exponent of the last place of subnormal numbers.
const LOWEST: i32 = -1074;
/// Bits of a significand.
const PRECISION: i32 = 53;

impl Exact {
    /// A finite number.
    fn of(value: f64) -> Exact {
        let bits = value.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let hidden = u64::from(field > 0) << 52;
        Exact {
            negative: value.is_sign_negative(),
            integer: u128::from(fraction | hidden),
            exponent: field.max(1) - 1 + LOWEST,
            more: false,
        }
    }

    fn bits(self) -> i32 {
        128 - self.integer.leading_zeros() as i32
    }

    fn product(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            integer: self.integer * other.integer,
            exponent: self.exponent + other.exponent,
            more: false,
        }
    }

    /// Sum of two numbers of at most 106 bits.
    fn sum(self, other: Exact, rounding: Rounding) -> Exact {
        let zero = Exact {
            negative: if self.negative == other.negative {
                self.negative
            } else {
                rounding == Rounding::Down
            },
            integer: 0,
            exponent: 0,
            more: false,
        };
        match (self.integer, other.integer) {
            (0, 0) => return zero,
            (0, _) => return other,
            (_, 0) => return self,
            _ => {}
        }
        let top = |x: Exact| x.exponent + x.bits();
        let (large, small) = if top(self) >= top(other) {
            (self, other)
        } else {
            (other, self)
        };
        // The leading bit goes to place 125, which leaves one for the carry.
        let lift = 126 - large.bits();
        let a = large.integer << lift;
        let exponent = large.exponent - lift;
        let (b, more) = match small.exponent - exponent {
            shift if shift >= 0 => (small.integer << shift, false),
            shift if shift > -128 => {
                let kept = small.integer >> -shift;
                (kept, kept << -shift != small.integer)
            }
            _ => (0, true),
        };
        let (negative, integer) = if large.negative == small.negative {
            (large.negative, a + b)
        } else if a >= b {
            // What `more` stands for is subtracted: one unit too much, and a part of it back.
            (large.negative, a - b - u128::from(more))
        } else {
            (small.negative, b - a)
        };
        if integer == 0 {
            zero
        } else {
            Exact {
                negative,
                integer,
                exponent,
                more,
            }
        }
    }

    fn round(self, rounding: Rounding) -> f64 {
        let last = (self.exponent + self.bits() - PRECISION).max(LOWEST);
        let (kept, rest) = match last - self.exponent {
            shift if shift <= 0 => (self.integer << -shift, self.more),
            shift if shift < 128 => {
                let kept = self.integer >> shift;
                (kept, self.more || kept << shift != self.integer)
            }
            _ => (0, self.integer != 0 || self.more),
        };
        let outward = rounding
            == if self.negative {
                Rounding::Down
            } else {
                Rounding::Up
            };
        let magnitude = kept as u64 + u64::from(rest && outward);
        // A carry out of the significand raises the exponent by itself.
        let field = u64::try_from(last - LOWEST).unwrap_or(0).min(0x7ff);
        let bits = if magnitude == 0 {
            0
        } else {
            (field << 52) + magnitude
        };
        let limit = if outward { f64::INFINITY } else { f64::MAX };
        let value = if bits >= f64::INFINITY.to_bits() {
            limit
        } else {
            f64::from_bits(bits)
        };
        if self.negative { -value } else { value }
    }
}

/// `a + b`.
pub fn add(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return a + b;
    }
    Exact::of(a).sum(Exact::of(b), rounding).round(rounding)
}

/// `a * b`.
pub fn mul(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return a * b;
    }
    Exact::of(a).product(Exact::of(b)).round(rounding)
}

/// `a * b + c`.
pub fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    Exact::of(a)
        .product(Exact::of(b))
        .sum(Exact::of(c), rounding)
        .round(rounding)
}

/// `a / b`.
pub fn div(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (a, b) = (Exact::of(a), Exact::of(b));
    // A dividend of 127 bits gives a quotient of at least 74.
    let lift = 127 - a.bits();
    let dividend = a.integer << lift;
    let quotient = Exact {
        negative: a.negative != b.negative,
        integer: dividend / b.integer,
        exponent: a.exponent - lift - b.exponent,
        more: dividend % b.integer != 0,
    };
    quotient.round(rounding)
}

/// Square root.
pub fn sqrt(a: f64, rounding: Rounding) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let a = Exact::of(a);
    // An even exponent and a radicand of at least 126 bits give a root of 63.
    let lift = 126 - a.bits();
    let lift = lift + ((a.exponent - lift) & 1);
    let radicand = a.integer << lift;
    let integer = radicand.isqrt();
    let root = Exact {
        negative: false,
        integer,
        exponent: (a.exponent - lift) / 2,
        more: integer * integer != radicand,
    };
    root.round(rounding)
}
