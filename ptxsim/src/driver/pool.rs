//! Memory pools. They account for what they hand out; the memory is the device's.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::current;
use super::device::require_device;
use super::ffi::{HostPointer, In, Out, exports};
use super::handle::Handle;
use super::operation::Operation;
use super::state::driver;
use super::status::{Result, Status};
use super::stream::{self, Stream};

/// `CUmemPool_attribute` from 1: three kinds of reuse (32 bits wide), the release threshold,
/// reserved memory now and at most, used memory now and at most.
const ATTRIBUTES: usize = 9;
const RELEASE_THRESHOLD: usize = 4;
const RESERVED_NOW: usize = 5;
const RESERVED_MOST: usize = 6;
const USED_NOW: usize = 7;
const USED_MOST: usize = 8;

/// A memory pool.
pub struct Pool {
    /// Its handle.
    pub handle: Handle,
    attributes: [AtomicU64; ATTRIBUTES],
}

impl Pool {
    /// A pool in its initial state, under a handle of its own.
    pub fn new() -> Arc<Pool> {
        let initial = [0, 1, 1, 1, 0, 0, 0, 0, 0];
        Arc::new(Pool {
            handle: Handle::fresh(),
            attributes: initial.map(AtomicU64::new),
        })
    }

    fn grow(&self, bytes: u64) {
        for (now, most) in [(RESERVED_NOW, RESERVED_MOST), (USED_NOW, USED_MOST)] {
            let used = self.attributes[now].fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.attributes[most].fetch_max(used, Ordering::Relaxed);
        }
    }

    fn shrink(&self, bytes: u64) {
        self.attributes[RESERVED_NOW].fetch_sub(bytes, Ordering::Relaxed);
        self.attributes[USED_NOW].fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Which pool live allocations came from, and their bytes.
#[derive(Default)]
pub struct PoolUse(Mutex<HashMap<u64, (Arc<Pool>, u64)>>);

impl PoolUse {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, (Arc<Pool>, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool that the allocation at `address` came from.
    pub fn pool_of(&self, address: u64) -> Option<Arc<Pool>> {
        self.table().get(&address).map(|(pool, _)| pool.clone())
    }

    /// The allocation at `address` is gone.
    pub fn forget(&self, address: u64) {
        if let Some((pool, bytes)) = self.table().remove(&address) {
            pool.shrink(bytes);
        }
    }
}

/// Allocates from `pool` in `stream`. No bytes are allowed: the address is still unique.
pub fn allocate(pool: &Arc<Pool>, bytes: usize, stream: &Stream) -> Result<u64> {
    let driver = driver()?;
    let address = super::memory::allocate(driver, bytes)?;
    if let Err(status) = stream.submit(Operation::Allocate(address)) {
        super::memory::free(driver, address)?;
        return Err(status);
    }
    pool.grow(bytes as u64);
    driver
        .pool_use
        .table()
        .insert(address, (pool.clone(), bytes as u64));
    Ok(address)
}

/// The pool behind a handle, the default one included.
fn find(handle: Handle) -> Result<Arc<Pool>> {
    driver()?.pools.get(handle)
}

/// `CUmemPoolProps`, the fields that matter.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PoolProperties {
    allocation_type: c_int,
    handle_types: c_int,
    location_type: c_int,
    location: c_int,
}

/// Bytes of the attribute `number`: the first three are 32-bit numbers.
fn width(number: c_uint) -> Result<usize> {
    match number {
        1..=3 => Ok(4),
        4..=8 => Ok(8),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn device_pool(out: Out<Handle>, device: c_int) -> Result {
    require_device(device)?;
    out.set(driver()?.default_pool.handle)
}

exports! {
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: c_int) {
        device_pool(pool, device)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: c_int) {
        device_pool(pool, device)
    }

    fn cuDeviceSetMemPool(device: c_int, pool: Handle) {
        require_device(device)?;
        // Pools differ only in their accounts: which one is current is not kept.
        find(pool).map(|_| ())
    }

    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<PoolProperties>) {
        driver()?;
        pool.check()?;
        let properties = properties.get()?;
        // Pinned memory on device 0, or on the host (CUDA 12).
        match (properties.allocation_type, properties.location_type, properties.location) {
            (1, 1, 0) => {}
            (1, 1, _) => return Err(Status::INVALID_DEVICE),
            (1, 2..=4, _) => return Err(Status::NOT_SUPPORTED),
            _ => return Err(Status::INVALID_VALUE),
        }
        if properties.handle_types != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let object = Pool::new();
        pool.set(driver()?.pools.insert(object.handle, object))
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let driver = driver()?;
        if pool == driver.default_pool.handle {
            return Err(Status::INVALID_VALUE);
        }
        driver.pools.remove(pool).map(|_| ())
    }

    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        // A pool holds nothing back.
        find(pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle, number: c_uint, value: HostPointer) {
        let width = width(number)?;
        let bytes = find(pool)?.attributes[number as usize].load(Ordering::Relaxed).to_le_bytes();
        value.write(width, |room| { room.copy_from_slice(&bytes[..width]); Ok(()) })
    }

    fn cuMemPoolSetAttribute(pool: Handle, number: c_uint, value: HostPointer) {
        let width = width(number)?;
        let pool = find(pool)?;
        let mut bytes = [0; 8];
        value.read(width, |given| { bytes[..width].copy_from_slice(given); Ok(()) })?;
        let given = u64::from_le_bytes(bytes);
        match number as usize {
            1..=RELEASE_THRESHOLD => {
                pool.attributes[number as usize].store(given, Ordering::Relaxed);
            }
            // The highest marks may only be reset.
            RESERVED_MOST | USED_MOST if given == 0 => {
                let now = pool.attributes[number as usize - 1].load(Ordering::Relaxed);
                pool.attributes[number as usize].store(now, Ordering::Relaxed);
            }
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<c_uint>, pool: Handle, location: In<[c_int; 2]>) {
        find(pool)?;
        match location.get()? {
            // CU_MEM_ACCESS_FLAGS_PROT_READWRITE for device 0.
            [1, 0] => flags.set(3),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAccess(pool: Handle, _map: In<[c_int; 3]>, count: usize) {
        find(pool)?;
        // The only device has access already.
        if count == 0 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        current()?;
        address.check()?;
        let stream = stream::find(stream)?;
        address.set(allocate(&find(pool)?, bytes, &stream)?)
    }
}
