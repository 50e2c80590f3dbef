//! Copies of all shapes, as operations.

use super::ffi::HostPointer;
use super::state::driver;
use super::status::{Result, Status};
use crate::memory::DEVICE_BASE;

/// Addresses that device memory is given, and no memory of the program's own has on Linux: one of
/// these is not taken for the program's even where nothing is allocated there.
const DEVICE_RANGE: std::ops::Range<u64> = DEVICE_BASE..0x1000_0000_0000;

/// Which memory an end of a copy is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The program's, unless the address is one that the device sees.
    Host,
    /// The device's.
    Device,
}

/// One end of a copy: rows `pitch` bytes apart, slices `slice` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Which memory.
    pub side: Side,
    /// First byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Bytes from slice to slice.
    pub slice: usize,
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    to: End,
    from: End,
    width: usize,
    height: usize,
    depth: usize,
}

impl End {
    /// A single row at `address`.
    pub fn row(side: Side, address: u64) -> End {
        End {
            side,
            address,
            pitch: 0,
            slice: 0,
        }
    }

    fn at(&self, slice: usize, row: usize) -> u64 {
        let offset = slice
            .wrapping_mul(self.slice)
            .wrapping_add(row.wrapping_mul(self.pitch));
        self.address.wrapping_add(offset as u64)
    }
}

impl Copy {
    /// `len` bytes in a row.
    pub fn row(to: End, from: End, len: usize) -> Copy {
        Copy {
            to,
            from,
            width: len,
            height: 1,
            depth: 1,
        }
    }

    /// Does it. `INVALID_VALUE` if a row leaves its allocation.
    pub fn run(&self) -> Result {
        if self.width == 0 {
            return Ok(());
        }
        for slice in 0..self.depth {
            for row in 0..self.height {
                self.copy_row(self.to.at(slice, row), self.from.at(slice, row))?;
            }
        }
        Ok(())
    }

    fn copy_row(&self, to: u64, from: u64) -> Result {
        let memory = &driver()?.memory;
        let on_device = |end: &End, address| {
            end.side == Side::Device
                || DEVICE_RANGE.contains(&address)
                || memory.find(address).is_some()
        };
        let len = self.width;
        let copied = match (on_device(&self.to, to), on_device(&self.from, from)) {
            (true, true) => memory.copy(to, from, len),
            (true, false) => {
                HostPointer::from_address(from).read(len, |bytes| Ok(memory.copy_in(to, bytes)))?
            }
            (false, true) => HostPointer::from_address(to)
                .write(len, |bytes| Ok(memory.copy_out(from, bytes)))?,
            (false, false) => {
                return HostPointer::from_address(to)
                    .copy_from(HostPointer::from_address(from), len);
            }
        };
        copied.map_err(|error| {
            super::report::explain("copy", &error);
            Status::INVALID_VALUE
        })
    }
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy2d {
    source: Plane2d,
    target: Plane2d,
    width: usize,
    height: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Plane2d {
    x: usize,
    y: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY3D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy3d {
    source: Plane3d,
    target: Plane3d,
    width: usize,
    height: usize,
    depth: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Plane3d {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    memory: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// The end that `CUmemorytype` and the addresses beside it describe, before its offsets.
fn end(memory: u32, host: u64, device: u64) -> Result<(Side, u64)> {
    match memory {
        1 => Ok((Side::Host, host)),
        2 => Ok((Side::Device, device)),
        // Arrays.
        3 => Err(Status::NOT_SUPPORTED),
        // Unified: the address says which.
        4 => Ok((Side::Host, device)),
        _ => Err(Status::INVALID_VALUE),
    }
}

impl Plane2d {
    fn end(&self, width: usize) -> Result<End> {
        let (side, base) = end(self.memory, self.host, self.device)?;
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        if self.x.checked_add(width).is_none_or(|row| row > pitch) {
            return Err(Status::INVALID_VALUE);
        }
        let plain = End {
            side,
            address: base.wrapping_add(self.x as u64),
            pitch,
            slice: 0,
        };
        Ok(End {
            address: plain.at(0, self.y),
            ..plain
        })
    }
}

impl Memcpy2d {
    /// The copy that it describes.
    pub fn copy(&self) -> Result<Copy> {
        let (to, from) = (self.target.end(self.width)?, self.source.end(self.width)?);
        Ok(Copy {
            to,
            from,
            width: self.width,
            height: self.height,
            depth: 1,
        })
    }
}

impl Plane3d {
    fn end(&self, width: usize, height: usize) -> Result<End> {
        let flat = Plane2d {
            x: self.x,
            y: self.y,
            memory: self.memory,
            host: self.host,
            device: self.device,
            array: self.array,
            pitch: self.pitch,
        };
        let flat = flat.end(width)?;
        let rows = if self.height == 0 {
            height
        } else {
            self.height
        };
        let whole = End {
            slice: flat.pitch.wrapping_mul(rows),
            ..flat
        };
        Ok(End {
            address: whole.at(self.z, 0),
            ..whole
        })
    }
}

impl Memcpy3d {
    /// The copy that it describes.
    pub fn copy(&self) -> Result<Copy> {
        let to = self.target.end(self.width, self.height)?;
        let from = self.source.end(self.width, self.height)?;
        Ok(Copy {
            to,
            from,
            width: self.width,
            height: self.height,
            depth: self.depth,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_cuda_h() {
        assert_eq!(size_of::<Memcpy2d>(), 128);
        assert_eq!(size_of::<Memcpy3d>(), 200);
    }
}
