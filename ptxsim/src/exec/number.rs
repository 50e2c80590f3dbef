//! The integer types of PTX as exact numbers.

use super::value::Value;

/// An integer type.
pub trait Integer: Value + Send + Sync {
    /// Size in bits.
    const BITS: u32;
    /// Its value.
    fn exact(self) -> i128;
    /// The low bits of a value, in two's complement.
    fn wrap(value: i128) -> Self;
}

macro_rules! integer {
    ($($ty:ty)*) => {$(
        impl Integer for $ty {
            const BITS: u32 = <$ty>::BITS;
            #[inline(always)]
            fn exact(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn wrap(value: i128) -> Self {
                value as $ty
            }
        }
    )*};
}
integer!(u16 i16 u32 i32 u64 i64);

/// Evaluates `$body` with `$N` standing for the type that a PTX type of 16 bits and more names;
/// untyped bits are unsigned.
macro_rules! with_integer {
    ($ty:expr, $N:ident => $body:expr) => {
        $crate::exec::number::with_integer!(@ $ty, $N, $body,
            [U16 B16] u16, [S16] i16, [U32 B32] u32, [S32] i32, [U64 B64] u64, [S64] i64)
    };
    (@ $ty:expr, $N:ident, $body:expr, $([$($name:ident)*] $number:ty),*) => {
        match $ty {
            $($($crate::ptx::ast::Type::$name)|* => {
                type $N = $number;
                $body
            })*
            _ => Err($crate::program::decoder::Unsupported::new("type")),
        }
    };
}

pub(crate) use with_integer;
