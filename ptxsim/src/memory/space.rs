//! The allocations of a device.

use super::allocation::{Allocation, AllocationInfo, AllocationKind, Backing};
use super::{AccessError, Buffer, DEVICE_BASE, Hint, View};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Distance between allocations: strays of less than this are seen.
const GAP: u64 = 4096;
/// Alignment of allocations, that of the CUDA driver.
const ALIGN: u64 = 256;

#[derive(Debug)]
struct State {
    live: BTreeMap<u64, Arc<Allocation>>,
    /// In the order of their end; shared with the snapshots.
    freed: Arc<Vec<AllocationInfo>>,
    next_address: u64,
    next_id: u32,
    /// Bytes of live device allocations.
    in_use: u64,
    /// The snapshot that is current, until an allocation comes or goes.
    view: Option<Arc<View>>,
}

/// The address space of a device.
///
/// A freed range is never used again, so that every use after free is seen. All methods may be
/// called from any thread.
#[derive(Debug)]
pub struct Memory {
    state: Mutex<State>,
    capacity: u64,
}

impl Memory {
    /// A device with `capacity` bytes of memory.
    pub fn new(capacity: u64) -> Memory {
        let state = State {
            live: BTreeMap::new(),
            freed: Arc::default(),
            next_address: DEVICE_BASE,
            next_id: 1,
            in_use: 0,
            view: None,
        };
        Memory {
            state: Mutex::new(state),
            capacity,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates `len` bytes of device memory, uninitialised, and returns the address, a multiple
    /// of 256. `None` when `len` exceeds what is left of the capacity or of the host's memory.
    pub fn alloc(&self, len: u64) -> Option<u64> {
        self.alloc_device(len, AllocationKind::Device, None)
    }

    /// Allocates a module's variable `name` with its initial bytes, followed by zeros up to `len`.
    pub fn register_module_memory(&self, name: &str, len: u64, init: &[u8]) -> Option<u64> {
        let address = self.alloc_device(len, AllocationKind::Module, Some(name.to_owned()))?;
        let span_init = &init[..init.len().min(len as usize)];
        let view = self.snapshot();
        let span = view
            .resolve(address, len as usize, &mut Hint::default())
            .ok()?;
        span.write(0, span_init);
        span.set_valid(0, len as usize, true);
        Some(address)
    }

    fn alloc_device(&self, len: u64, kind: AllocationKind, name: Option<String>) -> Option<u64> {
        let mut state = self.lock();
        if len > self.capacity.saturating_sub(state.in_use) {
            return None;
        }
        let buffer = Buffer::new(usize::try_from(len).ok()?, state.next_id)?;
        let address = state.next_address;
        state.next_address = (address + len + GAP).next_multiple_of(ALIGN);
        state.in_use += len;
        state.insert(address, len, kind, name, Backing::Owned(buffer));
        Some(address)
    }

    /// Allocates `len` bytes that host and device see at the same address; validity is not
    /// tracked. `None` when the host has no memory for them.
    pub fn alloc_host(&self, len: usize) -> Option<*mut u8> {
        let mut state = self.lock();
        let buffer = Buffer::untracked(len, state.next_id)?;
        let pointer = buffer.span().data_ptr();
        let address = pointer.expose_provenance() as u64;
        state.insert(
            address,
            len as u64,
            AllocationKind::Host,
            None,
            Backing::Owned(buffer),
        );
        Some(pointer)
    }

    /// Makes memory of the program visible to the device at its own address.
    ///
    /// # Safety
    /// `pointer` must be valid for reads and writes of `len` bytes until it is given to
    /// [`Memory::free`] and every launch that was running then has ended.
    pub unsafe fn register_host(&self, pointer: *mut u8, len: usize) {
        let address = pointer.expose_provenance() as u64;
        let backing = Backing::Registered(address);
        self.lock()
            .insert(address, len as u64, AllocationKind::Host, None, backing);
    }

    /// Frees the allocation that starts at `address`.
    ///
    /// # Errors
    /// When none does; the message says what is at `address`.
    pub fn free(&self, address: u64) -> Result<AllocationInfo, AccessError> {
        let mut state = self.lock();
        let Some(allocation) = state.live.remove(&address) else {
            drop(state);
            let kind = crate::report::FindingKind::OutOfBounds;
            let near = self
                .snapshot()
                .describe(address)
                .unwrap_or_else(|| "no allocation".into());
            return Err(AccessError {
                kind,
                message: format!("free of {address:#x}: {near}"),
            });
        };
        let mut info = allocation.info.clone();
        info.freed = true;
        state.view = None;
        if info.kind != AllocationKind::Host {
            state.in_use -= info.len;
            Arc::make_mut(&mut state.freed).push(info.clone());
        }
        Ok(info)
    }

    /// What a launch that starts now sees.
    pub fn snapshot(&self) -> Arc<View> {
        let mut state = self.lock();
        if let Some(view) = &state.view {
            return view.clone();
        }
        let live = state.live.values().cloned().collect();
        let view = Arc::new(View::new(live, state.freed.clone()));
        state.view = Some(view.clone());
        view
    }

    /// The live allocation that holds `address`; one of length 0 holds its first address.
    pub fn find(&self, address: u64) -> Option<AllocationInfo> {
        let state = self.lock();
        let (_, allocation) = state.live.range(..=address).next_back()?;
        let info = &allocation.info;
        (address == info.address || address - info.address < info.len).then(|| info.clone())
    }

    /// Bytes of live device allocations, variables of modules included.
    pub fn in_use(&self) -> u64 {
        self.lock().in_use
    }

    /// Bytes of the device.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Live allocations by address, but for those of modules.
    pub fn leaks(&self) -> Vec<AllocationInfo> {
        let state = self.lock();
        let live = state.live.values().map(|allocation| &allocation.info);
        live.filter(|info| info.kind != AllocationKind::Module)
            .cloned()
            .collect()
    }

    /// Copies host bytes to the device, which makes them valid.
    ///
    /// # Errors
    /// When the target is not inside one live allocation.
    pub fn copy_in(&self, address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let view = self.snapshot();
        view.resolve(address, bytes.len(), &mut Hint::default())?
            .write(0, bytes);
        Ok(())
    }

    /// Copies device bytes to the host.
    ///
    /// # Errors
    /// When the source is not inside one live allocation.
    pub fn copy_out(&self, address: u64, out: &mut [u8]) -> Result<(), AccessError> {
        let view = self.snapshot();
        view.resolve(address, out.len(), &mut Hint::default())?
            .read(0, out);
        Ok(())
    }

    /// Copies `len` bytes, and whether they are valid, within the device. They may overlap.
    ///
    /// # Errors
    /// When source or target is not inside one live allocation.
    pub fn copy(&self, to: u64, from: u64, len: usize) -> Result<(), AccessError> {
        let view = self.snapshot();
        let source = view.resolve(from, len, &mut Hint::default())?;
        let target = view.resolve(to, len, &mut Hint::default())?;
        target.copy_from(0, &source, 0, len);
        Ok(())
    }

    /// Writes `pattern` `count` times in a row, which makes the bytes valid.
    ///
    /// # Errors
    /// When the target is not inside one live allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<(), AccessError> {
        let view = self.snapshot();
        let len = pattern.len().saturating_mul(count);
        let span = view.resolve(address, len, &mut Hint::default())?;
        // Enough copies of the pattern to make few large writes.
        let chunk = pattern.repeat(count.min(4096));
        let mut at = 0;
        while at < len {
            let bytes = chunk.len().min(len - at);
            span.write(at, &chunk[..bytes]);
            at += bytes;
        }
        Ok(())
    }
}

impl State {
    fn insert(
        &mut self,
        address: u64,
        len: u64,
        kind: AllocationKind,
        name: Option<String>,
        backing: Backing,
    ) {
        let info = AllocationInfo {
            id: self.next_id,
            address,
            len,
            kind,
            name,
            freed: false,
        };
        self.next_id += 1;
        self.view = None;
        self.live
            .insert(address, Arc::new(Allocation { info, backing }));
    }
}

#[cfg(test)]
mod tests;
