//! Element types.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;
use std::str::FromStr;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`: its range with 8 bits of precision.
    BF16,
    /// Labels, indices and counts.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Whether the type is a floating-point one.
    pub const fn is_float(self) -> bool {
        !matches!(self, DType::I32)
    }

    /// `f32`, `f16`, `bf16` or `i32`, as kernels and the command line call it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [DType::F32, DType::F16, DType::BF16, DType::I32]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| format!("f32, f16, bf16 or i32, got `{name}`"))
    }
}

/// A Rust type that tensors can hold.
pub trait Element: bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync {
    /// The type's name at run time.
    const DTYPE: DType;
}

/// A floating-point element. Arithmetic is done in `f32`.
pub trait Float: Element {
    /// The exact value.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even; out of range becomes infinite.
    fn from_f32(value: f32) -> Self;
    /// [`to_f32`](Float::to_f32) of each element. The slices are of one length.
    fn widen(from: &[Self], to: &mut [f32]);
    /// [`from_f32`](Float::from_f32) of each element. The slices are of one length.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    // Loops that vectorise, which those of `half` for this type do not.
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "slices of one length");
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [Self]) {
        assert_eq!(from.len(), to.len(), "slices of one length");
        for (to, from) in to.iter_mut().zip(from) {
            let bits = from.to_bits();
            // Half a unit of the last place less one, and one where that place is odd: a tie goes to the even side.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // The payload's low bits may be all that makes a NaN: it is made quiet.
            let nan = bits >> 16 | 0x40;
            let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
            *to = bf16::from_bits(if is_nan { nan } else { rounded } as u16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_bf16_convert_as_single_values_do() {
        for high in 0..=u16::MAX {
            let one = bf16::from_bits(high);
            let mut wide = [0.0];
            bf16::widen(&[one], &mut wide);
            let is_same = wide[0].to_bits() == one.to_f32().to_bits();
            assert!(is_same || wide[0].is_nan() && one.is_nan(), "{high:#x}");
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                let mut narrow = [bf16::ZERO];
                bf16::narrow(&[x], &mut narrow);
                assert_eq!(narrow[0].to_bits(), bf16::from_f32(x).to_bits(), "{x}");
            }
        }
    }
}
