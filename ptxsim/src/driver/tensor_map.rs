//! Tensor maps.

use std::ffi::c_uint;

use super::ffi::{In, Out, exports};
use super::report;
use super::state::driver;
use super::status::Status;
use crate::tensor::tensor_map::{
    ENCODED_BYTES, TensorMapError, TiledParams, encode_tiled, replace_address,
};

/// Dimensions of a tensor map at most.
const MAX_RANK: c_uint = 5;

fn fail(error: &TensorMapError) -> Status {
    report::explain("tensor map", error);
    match error {
        TensorMapError::Unsupported(_) => Status::NOT_SUPPORTED,
        _ => Status::INVALID_VALUE,
    }
}

exports! {
    fn cuTensorMapEncodeTiled(
        map: Out<[u8; ENCODED_BYTES]>, data_type: c_uint, rank: c_uint, address: u64,
        dims: In<u64>, strides: In<u64>, box_dims: In<c_uint>, element_strides: In<c_uint>,
        interleave: c_uint, swizzle: c_uint, l2_promotion: c_uint, oob_fill: c_uint,
    ) {
        driver()?;
        map.check()?;
        if !(1..=MAX_RANK).contains(&rank) {
            return Err(Status::INVALID_VALUE);
        }
        let rank = rank as usize;
        let params = TiledParams {
            data_type,
            address,
            dims: &dims.get_many(rank)?,
            strides: &strides.get_many(rank - 1)?,
            box_dims: &box_dims.get_many(rank)?,
            element_strides: &element_strides.get_many(rank)?,
            interleave,
            swizzle,
            l2_promotion,
            oob_fill,
        };
        map.set(encode_tiled(&params).map_err(|error| fail(&error))?)
    }

    fn cuTensorMapReplaceAddress(map: Out<[u8; ENCODED_BYTES]>, address: u64) {
        driver()?;
        let mut bytes = map.get()?;
        replace_address(&mut bytes, address).map_err(|error| fail(&error))?;
        map.set(bytes)
    }
}
