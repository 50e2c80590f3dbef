//! f32 and f64 as one, with arithmetic that is rounded in a direction.

use super::directed;
use super::narrow::{add_to_odd, flush, narrow};
use super::rounding::Rounding;
use super::value::Value;

/// f32 or f64, with operations that are rounded in a direction.
pub trait Real: Value + Send + Sync + PartialOrd {
    /// The NaN that results are.
    const NAN: Self;
    /// `a * b + c`, rounded.
    fn fma(a: Self, b: Self, c: Self, rounding: Rounding) -> Self;
    /// `a + b`, rounded.
    fn add(a: Self, b: Self, rounding: Rounding) -> Self;
    /// `a * b`, rounded.
    fn mul(a: Self, b: Self, rounding: Rounding) -> Self;
    /// `a / b`, rounded.
    fn div(a: Self, b: Self, rounding: Rounding) -> Self;
    /// Square root, rounded.
    fn root(a: Self, rounding: Rounding) -> Self;
    /// Subnormal numbers become zeros.
    fn flush(self) -> Self;
    /// Clamped to [0, 1], NaN to 0.
    fn saturate(self) -> Self;
    /// With the sign bit given by `f` of the two sign bits.
    fn with_sign(self, other: Self, f: fn(bool, bool) -> bool) -> Self;
    /// Whether the sign bit is set.
    fn negative(self) -> bool;
    /// 1.
    fn one() -> Self;
    /// As f64, exactly.
    fn wide(self) -> f64;
}

macro_rules! real {
    ($ty:ty, $nan:expr, $fma:expr, $add:expr, $mul:expr, $div:expr, $sqrt:expr, $flush:expr) => {
        impl Real for $ty {
            const NAN: Self = $nan;
            #[inline(always)]
            fn fma(a: Self, b: Self, c: Self, rounding: Rounding) -> Self {
                ($fma)(a, b, c, rounding)
            }
            #[inline(always)]
            fn add(a: Self, b: Self, rounding: Rounding) -> Self {
                ($add)(a, b, rounding)
            }
            #[inline(always)]
            fn mul(a: Self, b: Self, rounding: Rounding) -> Self {
                ($mul)(a, b, rounding)
            }
            #[inline(always)]
            fn div(a: Self, b: Self, rounding: Rounding) -> Self {
                ($div)(a, b, rounding)
            }
            #[inline(always)]
            fn root(a: Self, rounding: Rounding) -> Self {
                ($sqrt)(a, rounding)
            }
            #[inline(always)]
            fn flush(self) -> Self {
                ($flush)(self)
            }
            #[inline(always)]
            fn saturate(self) -> Self {
                // Written so that NaN gives 0.
                if self > 0.0 { self.min(1.0) } else { 0.0 }
            }
            #[inline(always)]
            fn with_sign(self, other: Self, f: fn(bool, bool) -> bool) -> Self {
                let negative = f(self.is_sign_negative(), other.is_sign_negative());
                let magnitude = self.to_bits() << 1 >> 1;
                let sign = !(<$ty>::MAX.to_bits() | 1) & ((-0.0 as $ty).to_bits());
                Self::from_bits(if negative {
                    magnitude | sign
                } else {
                    magnitude
                })
            }
            #[inline(always)]
            fn negative(self) -> bool {
                self.is_sign_negative()
            }
            #[inline(always)]
            fn one() -> Self {
                1.0
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    };
}

/// `a + b` of f64 that are exact, rounded to f32. An exact zero of opposite terms is -0 when
/// rounding down.
#[inline(always)]
fn narrow_sum(a: f64, b: f64, rounding: Rounding) -> f32 {
    let cancels = a.is_finite() && a == -b && a.is_sign_negative() != b.is_sign_negative();
    if cancels && rounding == Rounding::Down {
        -0.0
    } else {
        narrow(add_to_odd(a, b), rounding)
    }
}

real!(
    f32,
    f32::from_bits(0x7fff_ffff),
    |a: f32, b: f32, c: f32, r| match r {
        Rounding::Nearest => a.mul_add(b, c),
        _ => narrow_sum(a.wide() * b.wide(), c.wide(), r),
    },
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a + b,
        _ => narrow_sum(a.wide(), b.wide(), r),
    },
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a * b,
        _ => narrow(a.wide() * b.wide(), r),
    },
    // A quotient or root of f32 that is not exact is further from any f32 than f64 can confuse.
    |a: f32, b: f32, r| match r {
        Rounding::Nearest => a / b,
        _ => narrow(a.wide() / b.wide(), r),
    },
    |a: f32, r| match r {
        Rounding::Nearest => a.sqrt(),
        _ => narrow(a.wide().sqrt(), r),
    },
    flush
);
real!(
    f64,
    f64::from_bits(0xfff8_0000_0000_0000),
    |a: f64, b: f64, c: f64, r| match r {
        Rounding::Nearest => a.mul_add(b, c),
        _ => directed::fma(a, b, c, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a + b,
        _ => directed::add(a, b, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a * b,
        _ => directed::mul(a, b, r),
    },
    |a: f64, b: f64, r| match r {
        Rounding::Nearest => a / b,
        _ => directed::div(a, b, r),
    },
    |a: f64, r| match r {
        Rounding::Nearest => a.sqrt(),
        _ => directed::sqrt(a, r),
    },
    |v: f64| v
);
