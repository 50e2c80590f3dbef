//! `tensormap.replace`: single fields of a map.

use super::element::ElementType;
use super::{TensorMap, TensorMapError, fill_mode, interleave_mode, swizzle_mode};

/// Fields that `tensormap.replace` changes; `usize` is the ordinal of the dimension or stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    GlobalAddress,
    Rank,
    BoxDim(usize),
    GlobalDim(usize),
    GlobalStride(usize),
    ElementStride(usize),
    ElementType,
    InterleaveLayout,
    SwizzleMode,
    FillMode,
}

impl TensorMap {
    /// `tensormap.replace`: the value as PTX ISA table 33 has it.
    ///
    /// # Errors
    /// The value is no enumerator, or not supported, or the ordinal is too large.
    pub fn replace(&mut self, field: Field, value: u64) -> Result<(), TensorMapError> {
        let small = u32::try_from(value).unwrap_or(u32::MAX);
        match field {
            Field::GlobalAddress => self.address = value,
            // One less than the rank is stored.
            Field::Rank => self.rank = small.saturating_add(1).min(255) as usize,
            Field::BoxDim(i) => *slot(&mut self.box_dims, i)? = small,
            Field::GlobalDim(i) => *slot(&mut self.dims, i)? = value,
            Field::GlobalStride(i) => *slot(&mut self.strides, i)? = value,
            Field::ElementStride(i) => *slot(&mut self.element_strides, i)? = small,
            Field::ElementType => self.element = ElementType::from_replace(small)?,
            Field::InterleaveLayout => interleave_mode(small)?,
            Field::SwizzleMode => self.swizzle = swizzle_mode(small)?,
            Field::FillMode => self.fill_nan = fill_mode(small)?,
        }
        Ok(())
    }
}

fn slot<T>(values: &mut [T], i: usize) -> Result<&mut T, TensorMapError> {
    values
        .get_mut(i)
        .ok_or_else(|| TensorMapError::Invalid(format!("ordinal {i} is too large")))
}
