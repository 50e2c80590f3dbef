//! Arithmetic on exact values.

use super::{Round, Value, round_integer};
use num_bigint::BigUint;

impl Value {
    pub fn finite(negative: bool, integer: u64) -> Value {
        Value::Finite {
            negative,
            integer: BigUint::from(integer),
            exponent: 0,
        }
    }

    pub fn is_zero(&self) -> bool {
        matches!(self, Value::Finite { integer, .. } if integer.bits() == 0)
    }

    pub fn negative(&self) -> bool {
        match self {
            Value::Nan => false,
            Value::Infinite { negative } | Value::Finite { negative, .. } => *negative,
        }
    }

    pub fn negated(&self) -> Value {
        match self.clone() {
            Value::Nan => Value::Nan,
            Value::Infinite { negative } => Value::Infinite {
                negative: !negative,
            },
            Value::Finite {
                negative,
                integer,
                exponent,
            } => Value::Finite {
                negative: !negative,
                integer,
                exponent,
            },
        }
    }

    /// Sum; an exact zero of opposite terms is negative only when rounding down.
    pub fn add(&self, other: &Value, round: Round) -> Value {
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite { negative: a }, Value::Infinite { negative: b }) if a != b => {
                Value::Nan
            }
            (Value::Infinite { .. }, _) => self.clone(),
            (_, Value::Infinite { .. }) => other.clone(),
            (
                Value::Finite {
                    negative: na,
                    integer: ia,
                    exponent: ea,
                },
                Value::Finite {
                    negative: nb,
                    integer: ib,
                    exponent: eb,
                },
            ) => {
                let exponent = *ea.min(eb);
                let a = ia << (ea - exponent) as u64;
                let b = ib << (eb - exponent) as u64;
                let (negative, integer) = if na == nb {
                    (*na, a + b)
                } else if a == b {
                    (round == Round::Down, BigUint::ZERO)
                } else if a > b {
                    (*na, a - b)
                } else {
                    (*nb, b - a)
                };
                Value::Finite {
                    negative,
                    integer,
                    exponent,
                }
            }
        }
    }

    pub fn mul(&self, other: &Value) -> Value {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite { .. }, b) if b.is_zero() => Value::Nan,
            (a, Value::Infinite { .. }) if a.is_zero() => Value::Nan,
            (Value::Infinite { .. }, _) | (_, Value::Infinite { .. }) => {
                Value::Infinite { negative }
            }
            (
                Value::Finite {
                    integer: a,
                    exponent: ea,
                    ..
                },
                Value::Finite {
                    integer: b,
                    exponent: eb,
                    ..
                },
            ) => Value::Finite {
                negative,
                integer: a * b,
                exponent: ea + eb,
            },
        }
    }

    /// Quotient, cut after far more bits than any format has, with a sticky bit below them.
    pub fn div(&self, other: &Value) -> Value {
        const BITS: u64 = 200;
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
            (Value::Infinite { .. }, Value::Infinite { .. }) => Value::Nan,
            (Value::Infinite { .. }, _) => Value::Infinite { negative },
            (_, Value::Infinite { .. }) => Value::Finite {
                negative,
                integer: BigUint::ZERO,
                exponent: 0,
            },
            (a, b) if b.is_zero() => {
                if a.is_zero() {
                    Value::Nan
                } else {
                    Value::Infinite { negative }
                }
            }
            (
                Value::Finite {
                    integer: a,
                    exponent: ea,
                    ..
                },
                Value::Finite {
                    integer: b,
                    exponent: eb,
                    ..
                },
            ) => {
                let shifted = a << BITS;
                let quotient = &shifted / b;
                let sticky = &quotient * b != shifted;
                let integer = (quotient << 1u8) + u8::from(sticky);
                Value::Finite {
                    negative,
                    integer,
                    exponent: ea - eb - BITS as i64 - 1,
                }
            }
        }
    }

    /// Square root, cut like a quotient.
    pub fn sqrt(&self) -> Value {
        const BITS: i64 = 200;
        match self {
            Value::Nan => Value::Nan,
            value if value.is_zero() => value.clone(),
            value if value.negative() => Value::Nan,
            Value::Infinite { .. } => self.clone(),
            Value::Finite {
                integer, exponent, ..
            } => {
                let odd = exponent.rem_euclid(2);
                let shifted = integer << (2 * BITS + odd) as u64;
                let root = shifted.sqrt();
                let sticky = &root * &root != shifted;
                let integer = (root << 1u8) + u8::from(sticky);
                Value::Finite {
                    negative: false,
                    integer,
                    exponent: (exponent - odd) / 2 - BITS - 1,
                }
            }
        }
    }

    /// As an integer of `bits` bits, rounded and clamped; NaN gives `None`.
    pub fn to_integer(&self, bits: u32, signed: bool, round: Round) -> Option<i128> {
        let (low, high) = if signed {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        match self {
            Value::Nan => None,
            Value::Infinite { negative } => Some(if *negative { low } else { high }),
            Value::Finite {
                negative,
                integer,
                exponent,
            } => {
                if integer.bits() as i64 + exponent > 70 {
                    return Some(if *negative { low } else { high });
                }
                let magnitude = if *exponent >= 0 {
                    i128::try_from(integer << *exponent as u64).unwrap()
                } else {
                    i128::from(round_integer(integer, -exponent, round, *negative))
                };
                Some((if *negative { -magnitude } else { magnitude }).clamp(low, high))
            }
        }
    }
}
