//! Element types of tensors and the two numberings that they have.

use super::{TensorMapError, unsupported};

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ElementType {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    BF16,
    /// Subnormals become zeros of their sign in the copy.
    F32Ftz,
}

use ElementType::{BF16, F16, F32, F32Ftz, F64, S32, S64, U8, U16, U32, U64};

/// In the order of the driver's `CUtensorMapDataType`.
const DRIVER_ORDER: [ElementType; 11] = [U8, U16, U32, S32, U64, S64, F16, F32, F64, BF16, F32Ftz];
/// In the order of PTX ISA table 33 (`tensormap.replace`), which differs.
pub(super) const REPLACE_ORDER: [ElementType; 11] =
    [U8, U16, U32, S32, U64, S64, F16, F32, F32Ftz, F64, BF16];

impl ElementType {
    /// Size in bytes.
    pub fn size(self) -> u32 {
        match self {
            U8 => 1,
            U16 | F16 | BF16 => 2,
            U32 | S32 | F32 | F32Ftz => 4,
            U64 | S64 | F64 => 8,
        }
    }

    /// Whether out-of-bounds elements may be NaN.
    pub fn is_float(self) -> bool {
        matches!(self, F16 | BF16 | F32 | F32Ftz | F64)
    }

    /// Bits of the NaN that fills out-of-bounds elements. The hardware's pattern is not documented:
    /// this is PTX's canonical NaN of the type.
    pub fn fill_nan(self) -> u64 {
        match self.size() {
            2 => 0x7fff,
            4 => 0x7fff_ffff,
            _ => 0x7fff_ffff_ffff_ffff,
        }
    }

    pub(super) fn from_driver(value: u32) -> Result<Self, TensorMapError> {
        match value {
            11 | 12 => unsupported("data type TFLOAT32"),
            13..=15 => unsupported("a packed 4- or 6-bit data type"),
            _ => Self::at(&DRIVER_ORDER, value, "data type"),
        }
    }

    pub(super) fn from_replace(value: u32) -> Result<Self, TensorMapError> {
        match value {
            11 | 12 => unsupported("element type .tf32"),
            13..=15 => unsupported("a packed 4- or 6-bit element type"),
            _ => Self::at(&REPLACE_ORDER, value, "element type"),
        }
    }

    fn at(order: &[Self], value: u32, what: &str) -> Result<Self, TensorMapError> {
        order.get(value as usize).copied().ok_or_else(|| {
            TensorMapError::Invalid(format!("{what} must be an enumerator, got {value}"))
        })
    }

    pub(super) fn code(self) -> u8 {
        DRIVER_ORDER.iter().position(|&t| t == self).unwrap_or(0) as u8
    }
}
