//! Memsets.

use std::ffi::{c_uchar, c_uint, c_ushort};

use super::context::current;
use super::ffi::exports;
use super::handle::Handle;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::stream;

/// `height` rows of `width` elements, `pitch` bytes apart, set to one value.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    address: u64,
    value: [u8; 4],
    size: usize,
    width: usize,
    pitch: usize,
    height: usize,
}

impl Fill {
    /// `INVALID_VALUE` if the address is not a multiple of the element, or a row longer than the
    /// pitch. The pitch of a single row is ignored.
    pub fn new(
        address: u64,
        element: &[u8],
        width: usize,
        pitch: usize,
        height: usize,
    ) -> Result<Fill> {
        let size = element.len();
        let row = width.checked_mul(size).ok_or(Status::INVALID_VALUE)?;
        if !address.is_multiple_of(size as u64) || (height > 1 && row > pitch) {
            return Err(Status::INVALID_VALUE);
        }
        let mut value = [0; 4];
        value[..size].copy_from_slice(element);
        Ok(Fill {
            address,
            value,
            size,
            width,
            pitch,
            height,
        })
    }

    /// Does it. `INVALID_VALUE` if a row leaves its allocation.
    pub fn run(&self) -> Result {
        let memory = &driver()?.memory;
        if self.width == 0 {
            return Ok(());
        }
        for row in 0..self.height {
            let address = self
                .address
                .wrapping_add(row.wrapping_mul(self.pitch) as u64);
            let filled = memory.fill(address, &self.value[..self.size], self.width);
            filled.map_err(|error| {
                super::report::explain("memset", &error);
                Status::INVALID_VALUE
            })?;
        }
        Ok(())
    }
}

fn now(fill: Result<Fill>) -> Result {
    let context = current()?;
    driver()?.captures.refuse_unsafe_call()?;
    context.legacy_stream().submit(Operation::Fill(fill?))
}

fn later(fill: Result<Fill>, stream: Handle) -> Result {
    stream::find(stream)?.submit(Operation::Fill(fill?))
}

exports! {
    fn cuMemsetD8_v2(address: u64, value: c_uchar, count: usize) {
        now(Fill::new(address, &value.to_le_bytes(), count, 0, 1))
    }

    fn cuMemsetD16_v2(address: u64, value: c_ushort, count: usize) {
        now(Fill::new(address, &value.to_le_bytes(), count, 0, 1))
    }

    fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) {
        now(Fill::new(address, &value.to_le_bytes(), count, 0, 1))
    }

    fn cuMemsetD8Async(address: u64, value: c_uchar, count: usize, stream: Handle) {
        later(Fill::new(address, &value.to_le_bytes(), count, 0, 1), stream)
    }

    fn cuMemsetD16Async(address: u64, value: c_ushort, count: usize, stream: Handle) {
        later(Fill::new(address, &value.to_le_bytes(), count, 0, 1), stream)
    }

    fn cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: Handle) {
        later(Fill::new(address, &value.to_le_bytes(), count, 0, 1), stream)
    }

    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: c_uchar, width: usize, height: usize) {
        now(Fill::new(address, &value.to_le_bytes(), width, pitch, height))
    }

    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: c_ushort, width: usize, height: usize) {
        now(Fill::new(address, &value.to_le_bytes(), width, pitch, height))
    }

    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: c_uint, width: usize, height: usize) {
        now(Fill::new(address, &value.to_le_bytes(), width, pitch, height))
    }

    fn cuMemsetD2D8Async(
        address: u64, pitch: usize, value: c_uchar, width: usize, height: usize, stream: Handle,
    ) {
        later(Fill::new(address, &value.to_le_bytes(), width, pitch, height), stream)
    }

    fn cuMemsetD2D16Async(
        address: u64, pitch: usize, value: c_ushort, width: usize, height: usize, stream: Handle,
    ) {
        later(Fill::new(address, &value.to_le_bytes(), width, pitch, height), stream)
    }

    fn cuMemsetD2D32Async(
        address: u64, pitch: usize, value: c_uint, width: usize, height: usize, stream: Handle,
    ) {
        later(Fill::new(address, &value.to_le_bytes(), width, pitch, height), stream)
    }
}
