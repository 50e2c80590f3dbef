//! The memory behind a tensor.

use crate::cuda;
use crate::dtype::{DType, Element, Float};
use bytemuck::allocation::cast_vec;
use half::{bf16, f16};
use std::sync::Arc;

/// Shared, immutable memory on one device.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    Cpu(Arc<CpuData>),
    Cuda(Arc<cuda::Buffer>),
}

/// Values in host memory.
#[derive(Debug)]
pub(crate) enum CpuData {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I32(Vec<i32>),
}

/// Evaluates `$body` with `$values` bound to the vector of whichever type `$data` holds.
macro_rules! each_dtype {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            CpuData::F32($values) => $body,
            CpuData::F16($values) => $body,
            CpuData::BF16($values) => $body,
            CpuData::I32($values) => $body,
        }
    };
}

impl CpuData {
    pub(crate) fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => CpuData::F32(vec![0.0; len]),
            DType::F16 => CpuData::F16(vec![f16::ZERO; len]),
            DType::BF16 => CpuData::BF16(vec![bf16::ZERO; len]),
            DType::I32 => CpuData::I32(vec![0; len]),
        }
    }

    /// Takes the vector over; nothing is copied.
    pub(crate) fn from_vec<T: Element>(values: Vec<T>) -> Self {
        match T::DTYPE {
            DType::F32 => CpuData::F32(cast_vec(values)),
            DType::F16 => CpuData::F16(cast_vec(values)),
            DType::BF16 => CpuData::BF16(cast_vec(values)),
            DType::I32 => CpuData::I32(cast_vec(values)),
        }
    }

    /// The values, where they are of type `T`.
    pub(crate) fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (self.dtype() == T::DTYPE).then(|| bytemuck::cast_slice(self.bytes()))
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            CpuData::F32(_) => DType::F32,
            CpuData::F16(_) => DType::F16,
            CpuData::BF16(_) => DType::BF16,
            CpuData::I32(_) => DType::I32,
        }
    }

    /// A copy of these elements.
    pub(crate) fn copied(&self, elements: std::ops::Range<usize>) -> Self {
        match self {
            CpuData::F32(values) => CpuData::F32(values[elements].to_vec()),
            CpuData::F16(values) => CpuData::F16(values[elements].to_vec()),
            CpuData::BF16(values) => CpuData::BF16(values[elements].to_vec()),
            CpuData::I32(values) => CpuData::I32(values[elements].to_vec()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        each_dtype!(self, values => bytemuck::cast_slice(values))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        each_dtype!(self, values => bytemuck::cast_slice_mut(values))
    }

    /// The values converted to another float type; `None` where an integer type is involved.
    pub(crate) fn cast(&self, dtype: DType) -> Option<Self> {
        fn convert<S: Float, D: Float>(values: &[S]) -> Vec<D> {
            values
                .iter()
                .map(|value| D::from_f32(value.to_f32()))
                .collect()
        }
        fn to<S: Float>(values: &[S], dtype: DType) -> Option<CpuData> {
            match dtype {
                DType::F32 => Some(CpuData::F32(convert(values))),
                DType::F16 => Some(CpuData::F16(convert(values))),
                DType::BF16 => Some(CpuData::BF16(convert(values))),
                DType::I32 => None,
            }
        }
        match self {
            CpuData::F32(values) => to(values, dtype),
            CpuData::F16(values) => to(values, dtype),
            CpuData::BF16(values) => to(values, dtype),
            CpuData::I32(_) => None,
        }
    }
}
