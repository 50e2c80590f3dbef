//! Tensor maps: by them the copy engine of compute capability 9.0 finds boxes of a tensor. See
//! `kernels/common/tensor_copy.cuh`.

use crate::cuda::context::driver_error;
use crate::dtype::DType;
use crate::error::Result;
use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

/// Columns of a box: 128 bytes, the most that are swizzled.
const BOX_COLUMNS: u32 = 64;
/// Strides are below 2^40 bytes (CUDA driver API, `cuTensorMapEncodeTiled`).
const STRIDE_LIMIT: usize = 1 << 40;
/// Bytes of an element.
const ELEMENT: usize = 2;

/// Where the 16-bit elements of a tensor `[batch, head, token, column]` lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    /// Columns, tokens, heads and sequences.
    pub extents: [usize; 4],
    /// Elements between neighbours: tokens, heads, sequences.
    pub strides: [usize; 3],
}

impl Tensor {
    /// Whether there is a map of it: it has elements, and strides that a map can hold.
    pub fn has_map(&self) -> bool {
        let strides = self.byte_strides();
        let holds = |stride: u64| stride > 0 && (stride as usize) < STRIDE_LIMIT;
        !self.extents.contains(&0) && strides.into_iter().all(holds)
    }

    /// Bytes between neighbours. Where there is one place alone any will do.
    fn byte_strides(&self) -> [u64; 3] {
        let [columns, places @ ..] = self.extents;
        std::array::from_fn(|i| match places[i] {
            1 => (columns * ELEMENT).next_multiple_of(16) as u64,
            _ => self.strides[i].saturating_mul(ELEMENT) as u64,
        })
    }
}

/// A tensor map, as kernels take it. Mirrors `TensorMap` in `kernels/common/tensor_copy.cuh`.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap(CUtensorMap);

const _: () = assert!(size_of::<TensorMap>() == 128);

// SAFETY: plain numbers, whose layout is the driver's, on both sides of 128 bytes.
unsafe impl DeviceRepr for TensorMap {}

impl TensorMap {
    /// That of a tensor at `address`, of boxes of `tokens` tokens by 64 columns.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) when the driver refuses it, as it does one that
    /// [has no map](Tensor::has_map).
    ///
    /// # Panics
    /// Where there is no CUDA driver, and so no [`Context`](crate::cuda::Context).
    pub fn new(address: u64, dtype: DType, tensor: &Tensor, tokens: u32) -> Result<Self> {
        let element = match dtype {
            DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let extents = tensor.extents.map(|extent| extent as u64);
        let strides = tensor.byte_strides();
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the driver reads four extents, three strides and four numbers of each box array,
        // and writes the map, all of which outlive the call. It only notes the address.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                element,
                extents.len() as u32,
                address as *mut std::ffi::c_void,
                extents.as_ptr(),
                strides.as_ptr(),
                [BOX_COLUMNS, tokens, 1, 1].as_ptr(),
                [1u32; 4].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        status
            .result()
            .map_err(driver_error("describing a tensor"))?;
        Ok(Self(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_needs_elements_and_strides() {
        let tensor = Tensor {
            extents: [64, 10, 3, 2],
            strides: [192, 64, 1920],
        };
        assert!(tensor.has_map());
        let with = |change: fn(&mut Tensor)| {
            let mut tensor = tensor;
            change(&mut tensor);
            tensor.has_map()
        };
        assert!(!with(|tensor| tensor.extents[1] = 0));
        assert!(!with(|tensor| tensor.strides[0] = 0));
        assert!(!with(|tensor| tensor.strides[2] = 1 << 39));
        // One sequence has no neighbour.
        assert!(with(|tensor| {
            tensor.extents[3] = 1;
            tensor.strides[2] = 0;
        }));
    }
}
