//! Allocation and what can be asked about addresses.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::current;
use super::ffi::{HostPointer, In, Out, exports};
use super::handle::Handle;
use super::operation::Operation;
use super::state::{Driver, driver};
use super::status::{Result, Status};
use super::stream;
use crate::memory::{AllocationInfo, AllocationKind};

/// How memory that host and device share came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Managed,
    Pinned(c_uint),
    Registered(c_uint),
}

/// Memory that host and device share, by address.
#[derive(Default)]
pub struct SharedMemory(Mutex<HashMap<u64, Origin>>);

impl SharedMemory {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn origin(&self, address: u64) -> Option<Origin> {
        self.table().get(&address).copied()
    }
}

/// Allocates device memory.
pub fn allocate(driver: &Driver, bytes: usize) -> Result<u64> {
    driver
        .memory
        .alloc(bytes as u64)
        .ok_or(Status::OUT_OF_MEMORY)
}

/// Frees what starts at `address`; nothing for 0.
pub fn free(driver: &Driver, address: u64) -> Result {
    if address == 0 {
        return Ok(());
    }
    driver.memory.free(address).map_err(|error| {
        super::report::explain("free", &error);
        Status::INVALID_VALUE
    })?;
    driver.shared.table().remove(&address);
    driver.pool_use.forget(address);
    Ok(())
}

fn allocate_shared(bytes: usize, origin: Origin) -> Result<HostPointer> {
    current()?;
    let driver = driver()?;
    driver.captures.refuse_unsafe_call()?;
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let pointer = driver
        .memory
        .alloc_host(bytes)
        .ok_or(Status::OUT_OF_MEMORY)?;
    let pointer = HostPointer::from_address(pointer as u64);
    driver.shared.table().insert(pointer.address(), origin);
    Ok(pointer)
}

/// Frees memory shared with the host, of the kind that `belongs` accepts.
fn free_shared(pointer: HostPointer, belongs: fn(Origin) -> bool, status: Status) -> Result {
    current()?;
    let driver = driver()?;
    driver.captures.refuse_unsafe_call()?;
    match driver.shared.origin(pointer.address()) {
        Some(origin) if belongs(origin) => free(driver, pointer.address()),
        _ => Err(status),
    }
}

/// The live allocation that holds `address`, or `INVALID_VALUE`.
fn allocation(address: u64) -> Result<AllocationInfo> {
    current()?;
    driver()?.memory.find(address).ok_or(Status::INVALID_VALUE)
}

/// Checks the range of an advice or a prefetch.
fn range(address: u64, bytes: usize) -> Result {
    let info = allocation(address)?;
    let room = info.address + info.len - address;
    if bytes == 0 || bytes as u64 > room {
        Err(Status::INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Location {
    kind: c_int,
    id: c_int,
}

impl Location {
    /// Device 0 or a place on the host.
    fn check(self) -> Result {
        match (self.kind, self.id) {
            (1, 0) | (2..=4, _) => Ok(()),
            (1, _) => Err(Status::INVALID_DEVICE),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// A place as older interfaces name it: a device, or -1 for the host.
fn old_location(device: c_int) -> Result {
    if matches!(device, -1 | 0) {
        Ok(())
    } else {
        Err(Status::INVALID_DEVICE)
    }
}

/// Bytes of the value of the pointer attribute `number`.
fn pointer_attribute(number: c_uint, address: u64) -> Result<Vec<u8>> {
    let info = allocation(address)?;
    let driver = driver()?;
    let shared = driver.shared.origin(info.address);
    let long = |value: u64| Ok(value.to_le_bytes().to_vec());
    let int = |value: u32| Ok(value.to_le_bytes().to_vec());
    match number {
        1 => long(current()?.handle.0 as u64),
        // CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE.
        2 => int(if matches!(shared, None | Some(Origin::Managed)) {
            2
        } else {
            1
        }),
        3 => long(address),
        4 if info.kind == AllocationKind::Host => long(address),
        4 => Err(Status::INVALID_VALUE),
        // Synchronising copies, device ordinal, interprocess handles.
        6 | 9 | 10 => int(0),
        7 => long(u64::from(info.id)),
        8 => int(u32::from(shared == Some(Origin::Managed))),
        11 => long(info.address),
        12 => long(info.len),
        // Mapped; no handles of it can be exported.
        13 => int(1),
        14 => long(0),
        // CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE.
        16 => int(3),
        17 => long(
            driver
                .pool_use
                .pool_of(info.address)
                .map_or(0, |pool| pool.handle.0 as u64),
        ),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Rows of a pitched allocation start at multiples of this, the texture alignment.
const PITCH: usize = 512;

exports! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        current()?;
        let memory = &driver()?.memory;
        free.set((memory.capacity() - memory.in_use()) as usize)?;
        total.set(memory.capacity() as usize)
    }

    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        current()?;
        address.check()?;
        let driver = driver()?;
        driver.captures.refuse_unsafe_call()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        address.set(allocate(driver, bytes)?)
    }

    fn cuMemAllocPitch_v2(
        address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: c_uint,
    ) {
        current()?;
        address.check()?;
        pitch.check()?;
        let driver = driver()?;
        driver.captures.refuse_unsafe_call()?;
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Status::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Status::INVALID_VALUE)?;
        address.set(allocate(driver, bytes)?)?;
        pitch.set(row)
    }

    fn cuMemFree_v2(address: u64) {
        current()?;
        let driver = driver()?;
        driver.captures.refuse_unsafe_call()?;
        match driver.shared.origin(address) {
            None | Some(Origin::Managed) => free(driver, address),
            Some(_) => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        let stream = stream::find(stream)?;
        address.check()?;
        let pool = driver()?.default_pool.clone();
        address.set(super::pool::allocate(&pool, bytes, &stream)?)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        stream::find(stream)?.submit(Operation::Free(address))
    }

    fn cuMemHostAlloc(pointer: Out<HostPointer>, bytes: usize, flags: c_uint) {
        pointer.check()?;
        // Portable, device-mapped, write-combined.
        if flags > 7 {
            return Err(Status::INVALID_VALUE);
        }
        pointer.set(allocate_shared(bytes, Origin::Pinned(flags))?)
    }

    fn cuMemAllocHost_v2(pointer: Out<HostPointer>, bytes: usize) {
        pointer.check()?;
        pointer.set(allocate_shared(bytes, Origin::Pinned(0))?)
    }

    fn cuMemFreeHost(pointer: HostPointer) {
        free_shared(pointer, |origin| matches!(origin, Origin::Pinned(_)), Status::INVALID_VALUE)
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: c_uint) {
        address.check()?;
        // CU_MEM_ATTACH_GLOBAL, CU_MEM_ATTACH_HOST.
        if !matches!(flags, 1 | 2) {
            return Err(Status::INVALID_VALUE);
        }
        address.set(allocate_shared(bytes, Origin::Managed)?.address())
    }

    fn cuMemHostRegister_v2(pointer: HostPointer, bytes: usize, flags: c_uint) {
        current()?;
        let driver = driver()?;
        if pointer.address() == 0 || bytes == 0 || flags > 15 {
            return Err(Status::INVALID_VALUE);
        }
        if driver.memory.find(pointer.address()).is_some() {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        // SAFETY: the caller of this function promises that the range stays valid until it is
        // unregistered.
        unsafe { driver.memory.register_host(pointer.address() as *mut u8, bytes) };
        driver.shared.table().insert(pointer.address(), Origin::Registered(flags));
        Ok(())
    }

    fn cuMemHostUnregister(pointer: HostPointer) {
        let belongs = |origin| matches!(origin, Origin::Registered(_));
        free_shared(pointer, belongs, Status::HOST_MEMORY_NOT_REGISTERED)
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: HostPointer, flags: c_uint) {
        let info = allocation(pointer.address())?;
        if flags != 0 || info.kind != AllocationKind::Host {
            return Err(Status::INVALID_VALUE);
        }
        address.set(pointer.address())
    }

    fn cuMemHostGetFlags(flags: Out<c_uint>, pointer: HostPointer) {
        match driver()?.shared.origin(allocation(pointer.address())?.address) {
            Some(Origin::Pinned(value) | Origin::Registered(value)) => flags.set(value),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let info = driver()?.memory.find(address).ok_or(Status::NOT_FOUND)?;
        base.set_if_wanted(info.address);
        bytes.set_if_wanted(info.len as usize);
        Ok(())
    }

    fn cuPointerGetAttribute(value: HostPointer, number: c_uint, address: u64) {
        let bytes = pointer_attribute(number, address)?;
        value.write(bytes.len(), |room| { room.copy_from_slice(&bytes); Ok(()) })
    }

    fn cuPointerGetAttributes(
        count: c_uint, numbers: In<c_uint>, values: In<HostPointer>, address: u64,
    ) {
        current()?;
        let count = count as usize;
        for (number, value) in numbers.get_many(count)?.into_iter().zip(values.get_many(count)?) {
            if !(1..=17).contains(&number) {
                return Err(Status::INVALID_VALUE);
            }
            // An address that is unknown to the driver has null attributes here, and is no error.
            let wide = matches!(number, 1 | 3 | 4 | 7 | 11 | 12 | 14 | 17);
            let none = vec![0; if wide { 8 } else { 4 }];
            let bytes = pointer_attribute(number, address).unwrap_or(none);
            value.write(bytes.len(), |room| { room.copy_from_slice(&bytes); Ok(()) })?;
        }
        Ok(())
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: c_uint, device: c_int) {
        old_location(device)?;
        if !(1..=6).contains(&advice) { Err(Status::INVALID_VALUE) } else { range(address, bytes) }
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: c_uint, location: Location) {
        location.check()?;
        if !(1..=6).contains(&advice) { Err(Status::INVALID_VALUE) } else { range(address, bytes) }
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: c_int, stream: Handle) {
        stream::find(stream)?;
        old_location(device)?;
        range(address, bytes)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64, bytes: usize, location: Location, flags: c_uint, stream: Handle,
    ) {
        stream::find(stream)?;
        location.check()?;
        if flags != 0 { Err(Status::INVALID_VALUE) } else { range(address, bytes) }
    }
}
