//! Zeroed memory with a valid byte beside each data byte.

use super::Span;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};

/// Alignment of a buffer's first byte: that of device allocations.
const ALIGN: usize = 256;
/// Alignment asked of the allocator: up to this it hands out untouched zero pages.
const REQUEST_ALIGN: usize = 16;

/// Zeroed bytes, each with a valid byte: 0 never written, 1 written.
///
/// Both parts are backed lazily by the operating system. The first byte is 256-byte aligned.
#[derive(Debug)]
pub struct Buffer {
    block: NonNull<u8>,
    layout: Layout,
    data: *mut u8,
    /// Null where validity is not tracked: every byte counts as written.
    valid: *mut u8,
    len: usize,
    id: u32,
}

// SAFETY: a Buffer owns its block; `data` and `valid` point into it (or are null) and never change.
unsafe impl Send for Buffer {}
// SAFETY: shared access goes through Span and Row, which use relaxed atomics for aligned scalars;
// other racing accesses are data races of the simulated program, on bytes that hold no Rust values
// and whose every bit pattern is valid.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeroed bytes, none of them valid, or `None` when the host has no memory for them.
    /// `id` comes back from [`Span::allocation`].
    pub fn new(len: usize, id: u32) -> Option<Buffer> {
        Buffer::allocate(len, id, true)
    }

    /// `len` zeroed bytes whose validity is not tracked: all of them count as valid.
    pub fn untracked(len: usize, id: u32) -> Option<Buffer> {
        Buffer::allocate(len, id, false)
    }

    fn allocate(len: usize, id: u32, tracked: bool) -> Option<Buffer> {
        let padded = len.checked_next_multiple_of(ALIGN)?;
        let copies = if tracked { 2 } else { 1 };
        let bytes = padded.checked_mul(copies)?.checked_add(ALIGN)?;
        let layout = Layout::from_size_align(bytes, REQUEST_ALIGN).ok()?;
        // SAFETY: the layout has a size of at least ALIGN bytes.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let start = block.as_ptr();
        let data = start.wrapping_add(start.align_offset(ALIGN));
        let valid = if tracked {
            data.wrapping_add(padded)
        } else {
            ptr::null_mut()
        };
        Some(Buffer {
            block,
            layout,
            data,
            valid,
            len,
            id,
        })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole buffer.
    #[inline]
    pub fn span(&self) -> Span<'_> {
        // SAFETY: `data` is followed by `len` bytes of the block, `valid`, unless null, likewise,
        // and both live as long as `self`.
        unsafe { Span::from_raw(self.data, self.valid, self.len, self.id) }
    }

    /// Marks all bytes as never written and clears them: shared memory at the start of a block.
    pub fn reset(&mut self) {
        // SAFETY: `&mut self` excludes any other access; both ranges lie inside the block.
        unsafe {
            ptr::write_bytes(self.data, 0, self.len);
            if !self.valid.is_null() {
                ptr::write_bytes(self.valid, 0, self.len);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this layout and not freed since.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_zero_invalid_and_aligned() {
        let buffer = Buffer::new(1000, 7).unwrap();
        let span = buffer.span();
        assert_eq!(span.data_ptr() as usize % 256, 0);
        assert_eq!((span.len(), span.allocation()), (1000, 7));
        assert!((0..1000).all(|i| span.load::<u8>(i) == 0 && !span.is_valid(i, 1)));
    }

    #[test]
    fn reset_clears_data_and_validity() {
        let mut buffer = Buffer::new(8, 0).unwrap();
        buffer.span().write(0, &[1; 8]);
        buffer.reset();
        assert_eq!(buffer.span().load::<u64>(0), 0);
        assert!(!buffer.span().is_valid(0, 1));
    }

    #[test]
    fn too_large_is_none() {
        assert!(Buffer::new(usize::MAX - 100, 0).is_none());
        assert!(Buffer::new(1 << 62, 0).is_none());
    }

    #[test]
    fn untracked_is_always_valid() {
        let buffer = Buffer::untracked(8, 0).unwrap();
        assert!(buffer.span().is_valid(0, 8));
    }
}
