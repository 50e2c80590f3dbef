//! The heap of `malloc` in kernels.

use crate::memory::Memory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the heap: CUDA's default for `CU_LIMIT_MALLOC_HEAP_SIZE`.
const BYTES: u64 = 8 << 20;
/// Alignment of what `malloc` returns.
const ALIGN: u64 = 16;

/// A piece of device memory from which kernels allocate. It is one allocation to the checks:
/// neighbours in it are not told apart.
pub struct Heap {
    memory: Arc<Memory>,
    start: u64,
    /// Address to size of what is allocated.
    used: Mutex<BTreeMap<u64, u64>>,
}

impl Heap {
    /// A heap in `memory`, `None` when that has no space.
    pub fn new(memory: &Arc<Memory>) -> Option<Heap> {
        let start = memory.register_module_memory("the heap of malloc", BYTES, &[])?;
        Some(Heap {
            memory: memory.clone(),
            start,
            used: Mutex::default(),
        })
    }

    /// The address of `size` bytes in the first gap that holds them.
    pub fn allocate(&self, size: u64) -> Option<u64> {
        let size = size.max(1).checked_next_multiple_of(ALIGN)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = self.start;
        for (&address, &bytes) in used.iter() {
            if address - at >= size {
                break;
            }
            at = address + bytes;
        }
        let fits = at.checked_add(size)? <= self.start + BYTES;
        fits.then(|| used.insert(at, size));
        fits.then_some(at)
    }

    /// Frees what `allocate` gave; false for any other address.
    pub fn free(&self, address: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&address).is_some()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // The device may be gone before its modules.
        let _ = self.memory.free(self.start);
    }
}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heap")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_used_again() {
        let heap = Heap::new(&Arc::new(Memory::new(1 << 30))).unwrap();
        let [a, b, c] = [10, 100, 10].map(|n| heap.allocate(n).unwrap());
        assert!(a < b && b < c && a % ALIGN == 0);
        assert!(heap.free(b) && !heap.free(b) && !heap.free(b + 16));
        assert_eq!(heap.allocate(60), Some(b));
        assert_eq!(heap.allocate(BYTES), None);
        assert_eq!(heap.allocate(u64::MAX), None);
    }
}
