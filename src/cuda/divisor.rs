//! Division by a number known at launch, as a multiplication.

use cudarc::driver::DeviceRepr;

/// Divides `n < 2^31` by a fixed `1 <= d < 2^31`. Mirrors `Divisor` in `kernels/common/params.cuh`.
///
/// With `p = 31 + ceil(log2(d))` and `m = ceil(2^p / d)`, `n / d = n * m / 2^p` rounded down, and
/// `m < 2^32` (Granlund and Montgomery, *Division by Invariant Integers using Multiplication*,
/// 1994, theorem 4.2).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Divisor {
    /// `m`, or 0 for division by 1.
    multiplier: u32,
    /// `p - 32`.
    shift: u32,
}

// SAFETY: two plain 32-bit numbers in the kernel's layout.
unsafe impl DeviceRepr for Divisor {}

impl Divisor {
    /// Divides `n < 2^31` by any `d >= 1`, also where `n / d` is always 0.
    pub(super) fn of(d: i64) -> Self {
        match u32::try_from(d) {
            Ok(d) if d < 1 << 31 => Self::new(d),
            _ => Self {
                multiplier: 1,
                shift: 31,
            },
        }
    }

    /// `divisor` is at least 1 and below 2^31.
    pub(super) fn new(divisor: u32) -> Self {
        debug_assert!((1..1 << 31).contains(&divisor));
        if divisor == 1 {
            return Self {
                multiplier: 0,
                shift: 0,
            };
        }
        let power = 31 + (divisor - 1).ilog2() + 1;
        let multiplier = (1u64 << power).div_ceil(u64::from(divisor));
        Self {
            multiplier: multiplier as u32,
            shift: power - 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn divide(n: u32, by: Divisor) -> u32 {
        if by.multiplier == 0 {
            return n;
        }
        ((u64::from(n) * u64::from(by.multiplier)) >> 32 >> by.shift) as u32
    }

    #[test]
    fn divisors_beyond_31_bits_give_0() {
        for d in [1 << 31, (1 << 32) + 1, i64::MAX] {
            assert_eq!(divide((1 << 31) - 1, Divisor::of(d)), 0);
        }
        assert_eq!(divide((1 << 31) - 1, Divisor::of((1 << 31) - 1)), 1);
    }

    proptest! {
        #[test]
        fn it_divides(n in 0u32..1 << 31, d in 1u32..1 << 31, small in 1u32..3000, k: u32) {
            prop_assert_eq!(divide(n, Divisor::new(d)), n / d);
            let by = Divisor::new(small);
            // At a multiple and just below, where rounding would show.
            let multiple = (k % ((1 << 31) / small)) * small;
            let below = multiple.saturating_sub(1);
            for n in [n, multiple, below] {
                prop_assert_eq!(divide(n, by), n / small);
            }
        }
    }
}
