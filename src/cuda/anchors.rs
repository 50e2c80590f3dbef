//! Anchors as kernels take them, and where the levels of a head lie.

use super::{Buffer, Context};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::params::Anchors;
use crate::params::anchors::{MAX_LEVELS, MAX_SHAPES};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr};

/// One level. Mirrors `AnchorLevel` in `kernels/common/anchors.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Level {
    first: i32,
    height: i32,
    width: i32,
    shapes: i32,
    first_shape: i32,
    stride_y: f32,
    stride_x: f32,
}

/// All of a pyramid's anchors. Mirrors `AnchorTable` in `kernels/common/anchors.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AnchorTable {
    half_sizes: [[f32; 2]; MAX_SHAPES],
    levels: [Level; MAX_LEVELS],
    level_count: i32,
    anchors: i32,
}
const _: () = assert!(size_of::<AnchorTable>() == 1256);

// SAFETY: `repr(C)`, 4-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for AnchorTable {}

impl AnchorTable {
    pub(super) fn new(anchors: &Anchors) -> Self {
        let mut table = Self {
            half_sizes: [[0.0; 2]; MAX_SHAPES],
            levels: [Level::default(); MAX_LEVELS],
            level_count: anchors.levels().len() as i32,
            anchors: anchors.count() as i32,
        };
        let (mut first, mut first_shape) = (0, 0);
        for (entry, level) in table.levels.iter_mut().zip(anchors.levels()) {
            let shapes = level.half_sizes.len();
            table.half_sizes[first_shape..][..shapes].copy_from_slice(&level.half_sizes);
            *entry = Level {
                first: first as i32,
                height: level.grid[0] as i32,
                width: level.grid[1] as i32,
                shapes: shapes as i32,
                first_shape: first_shape as i32,
                stride_y: level.stride[0],
                stride_x: level.stride[1],
            };
            first += level.count();
            first_shape += shapes;
        }
        table
    }
}

/// Addresses of the levels of a head; 0 behind the last.
pub(super) type Addresses = [u64; MAX_LEVELS];

/// The addresses of these views, of which level `i` must hold `lengths[i]` elements.
pub(super) fn addresses<T>(
    op: &'static str,
    argument: &str,
    context: &Context,
    views: &[CudaView<'_, T>],
    lengths: impl ExactSizeIterator<Item = usize>,
) -> Result<Addresses> {
    if views.len() != lengths.len() {
        let rule = format!("{} levels, as the anchors have", lengths.len());
        return Err(Error::input(op, argument, rule, views.len()));
    }
    let mut addresses = [0; MAX_LEVELS];
    for ((address, view), expected) in addresses.iter_mut().zip(views).zip(lengths) {
        if view.len() != expected {
            let rule = format!("{expected} elements on this level");
            return Err(Error::input(op, argument, rule, view.len()));
        }
        // All work on the context's memory is queued on its one stream, so the guard's events would add nothing.
        *address = view.device_ptr(context.stream()).0;
    }
    Ok(addresses)
}

/// As [`addresses`], of views to be written.
pub(super) fn addresses_mut<T>(
    op: &'static str,
    argument: &str,
    context: &Context,
    views: &mut [CudaViewMut<'_, T>],
    lengths: impl ExactSizeIterator<Item = usize>,
) -> Result<Addresses> {
    let views: Vec<_> = views.iter().map(|view| view.as_view()).collect();
    addresses(op, argument, context, &views, lengths)
}

/// The elements of each level's buffer.
pub(super) fn views<'a, T: Element>(buffers: &[&'a Buffer]) -> Result<Vec<CudaView<'a, T>>> {
    buffers.iter().map(|buffer| buffer.view()).collect()
}
