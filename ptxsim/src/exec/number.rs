//! The scalar types of PTX as numbers.

use super::half::{Bf16, F16, Half};
use super::rounding::Format;
use super::value::Value;

/// A scalar type of PTX.
pub trait Number: Value + Send + Sync {
    /// Integers: least and greatest; `None` for floating point.
    const RANGE: Option<(i128, i128)>;
    /// Floating point: the format; `None` for f64 and integers.
    const FORMAT: Option<Format>;
    /// Size in bits.
    const BITS: u32;
    /// An integer, exactly.
    fn integer(self) -> i128;
    /// An integer in two's complement.
    fn wrap(value: i128) -> Self;
    /// A floating-point number, exactly; an integer rounded.
    fn real(self) -> f64;
    /// A floating-point number that is already rounded to the type.
    fn from_real(value: f64) -> Self;
    /// The contents of a register that may be wider than the type.
    #[inline(always)]
    fn extended(self) -> Self::Word {
        self.to_word()
    }
}

macro_rules! integer {
    ($($ty:ty, $extended:expr;)*) => {$(
        impl Number for $ty {
            const RANGE: Option<(i128, i128)> = Some((<$ty>::MIN as i128, <$ty>::MAX as i128));
            const FORMAT: Option<Format> = None;
            const BITS: u32 = <$ty>::BITS;
            #[inline(always)]
            fn integer(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn wrap(value: i128) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn real(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_real(value: f64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn extended(self) -> Self::Word {
                ($extended)(self)
            }
        }
    )*};
}
integer! {
    u8, |v: u8| v.to_word();
    i8, |v: i8| v as i32 as u32;
    u16, |v: u16| v.to_word();
    i16, |v: i16| v as i32 as u32;
    u32, |v: u32| v;
    i32, |v: i32| v as u32;
    u64, |v: u64| v;
    i64, |v: i64| v as u64;
}

macro_rules! real {
    ($ty:ty, $format:expr, $bits:expr, $real:expr, $from:expr) => {
        impl Number for $ty {
            const RANGE: Option<(i128, i128)> = None;
            const FORMAT: Option<Format> = $format;
            const BITS: u32 = $bits;
            #[inline(always)]
            fn integer(self) -> i128 {
                self.real() as i128
            }
            #[inline(always)]
            fn wrap(value: i128) -> Self {
                Self::from_real(value as f64)
            }
            #[inline(always)]
            fn real(self) -> f64 {
                ($real)(self)
            }
            #[inline(always)]
            fn from_real(value: f64) -> Self {
                ($from)(value)
            }
        }
    };
}
real!(
    F16,
    Some(Format::F16),
    16,
    |h: F16| f64::from(h.value()),
    |v| F16::nearest(v as f32)
);
real!(
    Bf16,
    Some(Format::BF16),
    16,
    |h: Bf16| f64::from(h.value()),
    |v| Bf16::nearest(v as f32)
);
real!(
    f32,
    Some(Format::F32),
    32,
    f64::from,
    |v: f64| if v.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        v as f32
    }
);
real!(f64, None, 64, |v| v, |v| v);

/// Evaluates `$body` with `$N` standing for the type that a PTX type names.
macro_rules! with_number {
    ($ty:expr, $N:ident => $body:expr) => {
        $crate::exec::number::with_number!(@ $ty, $N, $body,
            U8 u8, B8 u8, S8 i8, U16 u16, B16 u16, S16 i16, U32 u32, B32 u32, S32 i32,
            U64 u64, B64 u64, S64 i64, F16 $crate::exec::half::F16, BF16 $crate::exec::half::Bf16, F32 f32, F64 f64)
    };
    (@ $ty:expr, $N:ident, $body:expr, $($name:ident $number:ty),*) => {
        match $ty {
            $($crate::ptx::ast::Type::$name => {
                type $N = $number;
                $body
            })*
            _ => Err($crate::program::decoder::Unsupported::new("type")),
        }
    };
}

/// As [`with_number`], for integers and untyped bits of 16 bits and more.
macro_rules! with_integer {
    ($ty:expr, $N:ident => $body:expr) => {
        $crate::exec::number::with_number!(@ $ty, $N, $body,
            U16 u16, B16 u16, S16 i16, U32 u32, B32 u32, S32 i32, U64 u64, B64 u64, S64 i64)
    };
}

pub(crate) use {with_integer, with_number};
