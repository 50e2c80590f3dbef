//! A checked range of a buffer.

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Integers that move between registers and memory.
pub trait Scalar: Copy + Default + private::Sealed {
    /// Reads from `source` with a relaxed atomic load.
    ///
    /// # Safety
    /// `source` must be valid for reads of this type and aligned for it.
    unsafe fn read(source: *mut u8) -> Self;
    /// Writes to `target` with a relaxed atomic store.
    ///
    /// # Safety
    /// `target` must be valid for writes of this type and aligned for it.
    unsafe fn write(target: *mut u8, value: Self);
}

mod private {
    pub trait Sealed {}
}

macro_rules! scalar {
    ($($int:ty, $atomic:ty);*) => {$(
        impl private::Sealed for $int {}
        impl Scalar for $int {
            #[inline(always)]
            unsafe fn read(source: *mut u8) -> $int {
                // SAFETY: valid and aligned by the caller's promise; any bit pattern is a value.
                unsafe { <$atomic>::from_ptr(source.cast()) }.load(Relaxed)
            }
            #[inline(always)]
            unsafe fn write(target: *mut u8, value: $int) {
                // SAFETY: valid and aligned by the caller's promise.
                unsafe { <$atomic>::from_ptr(target.cast()) }.store(value, Relaxed)
            }
        }
    )*};
}
scalar!(u8, AtomicU8; u16, AtomicU16; u32, AtomicU32; u64, AtomicU64);

/// `len` bytes of a [`Buffer`](super::Buffer) and their valid bytes.
///
/// Offsets count from the start of the span. An offset out of range or misaligned is a mistake of
/// the simulator, not of the kernel, and panics: addresses are checked when a span is made.
#[derive(Debug, Clone, Copy)]
pub struct Span<'m> {
    data: *mut u8,
    valid: *mut u8,
    len: usize,
    allocation: u32,
    memory: PhantomData<&'m u8>,
}

impl<'m> Span<'m> {
    /// A span over raw memory.
    ///
    /// # Safety
    /// For `'m`, `data` must be valid for reads and writes of `len` bytes, and `valid` must be too
    /// or be null.
    #[inline]
    pub(super) unsafe fn from_raw(
        data: *mut u8,
        valid: *mut u8,
        len: usize,
        allocation: u32,
    ) -> Self {
        Span {
            data,
            valid,
            len,
            allocation,
            memory: PhantomData,
        }
    }

    /// Bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of the allocation.
    #[inline]
    pub fn allocation(&self) -> u32 {
        self.allocation
    }

    /// The first byte.
    #[inline]
    pub fn data_ptr(&self) -> *mut u8 {
        self.data
    }

    /// The first valid byte; null where validity is not tracked.
    #[inline]
    pub fn valid_ptr(&self) -> *mut u8 {
        self.valid
    }

    #[inline(always)]
    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "simulated access outside of its span"
        );
    }

    /// The `len` bytes at `offset`.
    #[inline]
    pub fn sub(&self, offset: usize, len: usize) -> Span<'m> {
        self.check(offset, len);
        let valid = if self.valid.is_null() {
            self.valid
        } else {
            self.valid.wrapping_add(offset)
        };
        Span {
            data: self.data.wrapping_add(offset),
            valid,
            len,
            ..*self
        }
    }

    /// The scalar at `offset`.
    #[inline]
    pub fn load<T: Scalar>(&self, offset: usize) -> T {
        self.check(offset, size_of::<T>());
        let source = self.data.wrapping_add(offset);
        assert!(
            source.cast::<T>().is_aligned(),
            "simulated access misaligned"
        );
        // SAFETY: inside the span and aligned, both just checked.
        unsafe { T::read(source) }
    }

    /// Stores a scalar at `offset`; validity is the caller's business.
    #[inline]
    pub fn store<T: Scalar>(&self, offset: usize, value: T) {
        self.check(offset, size_of::<T>());
        let target = self.data.wrapping_add(offset);
        assert!(
            target.cast::<T>().is_aligned(),
            "simulated access misaligned"
        );
        // SAFETY: inside the span and aligned, both just checked.
        unsafe { T::write(target, value) }
    }

    /// The atomic 16-bit word at `offset`.
    #[inline]
    pub fn atomic16(&self, offset: usize) -> &'m AtomicU16 {
        self.check(offset, 2);
        let word = self.data.wrapping_add(offset).cast::<u16>();
        assert!(word.is_aligned(), "simulated access misaligned");
        // SAFETY: inside the span, aligned, and alive for 'm.
        unsafe { AtomicU16::from_ptr(word) }
    }

    /// The atomic 32-bit word at `offset`.
    #[inline]
    pub fn atomic32(&self, offset: usize) -> &'m AtomicU32 {
        self.check(offset, 4);
        let word = self.data.wrapping_add(offset).cast::<u32>();
        assert!(word.is_aligned(), "simulated access misaligned");
        // SAFETY: inside the span, aligned, and alive for 'm.
        unsafe { AtomicU32::from_ptr(word) }
    }

    /// The atomic 64-bit word at `offset`.
    #[inline]
    pub fn atomic64(&self, offset: usize) -> &'m AtomicU64 {
        self.check(offset, 8);
        let word = self.data.wrapping_add(offset).cast::<u64>();
        assert!(word.is_aligned(), "simulated access misaligned");
        // SAFETY: inside the span, aligned, and alive for 'm.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// Copies the bytes at `offset` out.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        self.check(offset, out.len());
        // SAFETY: inside the span; `out` is exclusive, so the two cannot overlap.
        unsafe { ptr::copy_nonoverlapping(self.data.add(offset), out.as_mut_ptr(), out.len()) }
    }

    /// Copies `bytes` to `offset` and marks them valid.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: inside the span; `copy` allows `bytes` to come from simulated memory, too.
        unsafe { ptr::copy(bytes.as_ptr(), self.data.add(offset), bytes.len()) }
        self.set_valid(offset, bytes.len(), true);
    }

    /// Copies `len` bytes, and their validity, from `source`.
    pub fn copy_from(&self, offset: usize, source: &Span<'_>, source_offset: usize, len: usize) {
        self.check(offset, len);
        source.check(source_offset, len);
        // SAFETY: both ranges are inside their spans; `copy` allows overlap.
        unsafe { ptr::copy(source.data.add(source_offset), self.data.add(offset), len) }
        if source.valid.is_null() || self.valid.is_null() {
            self.set_valid(offset, len, true);
        } else {
            // SAFETY: as above, for the valid bytes beside the data.
            unsafe { ptr::copy(source.valid.add(source_offset), self.valid.add(offset), len) }
        }
    }

    /// Whether all `len` bytes at `offset` were written.
    #[inline]
    pub fn is_valid(&self, offset: usize, len: usize) -> bool {
        self.first_invalid(offset, len).is_none()
    }

    /// Offset of the first of `len` bytes at `offset` that was never written.
    #[inline]
    pub fn first_invalid(&self, offset: usize, len: usize) -> Option<usize> {
        self.check(offset, len);
        if self.valid.is_null() {
            return None;
        }
        // SAFETY: the range is inside the span; concurrent launches only ever store 0 or 1 bytes.
        let valid = unsafe { std::slice::from_raw_parts(self.valid.add(offset), len) };
        valid.iter().position(|&v| v == 0).map(|i| offset + i)
    }

    /// Marks `len` bytes at `offset` as written or not.
    #[inline]
    pub fn set_valid(&self, offset: usize, len: usize, valid: bool) {
        self.check(offset, len);
        if !self.valid.is_null() {
            // SAFETY: the range is inside the span.
            unsafe { ptr::write_bytes(self.valid.add(offset), u8::from(valid), len) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Buffer;

    #[test]
    fn scalars_are_little_endian() {
        let buffer = Buffer::new(16, 0).unwrap();
        let span = buffer.span();
        span.store(8, 0x0102_0304u32);
        assert_eq!(span.load::<u8>(8), 4);
        assert_eq!(span.load::<u16>(10), 0x0102);
        assert_eq!(
            span.atomic32(8).load(std::sync::atomic::Ordering::Relaxed),
            0x0102_0304
        );
    }

    #[test]
    fn copies_move_validity() {
        let (a, b) = (Buffer::new(8, 0).unwrap(), Buffer::new(8, 1).unwrap());
        a.span().write(2, &[9; 3]);
        b.span().set_valid(0, 8, true);
        b.span().copy_from(0, &a.span(), 0, 8);
        let valid: Vec<bool> = (0..8).map(|i| b.span().is_valid(i, 1)).collect();
        assert_eq!(valid, [false, false, true, true, true, false, false, false]);
        assert_eq!(b.span().first_invalid(2, 6), Some(5));
    }

    #[test]
    #[should_panic(expected = "outside of its span")]
    fn out_of_range_panics() {
        Buffer::new(8, 0).unwrap().span().load::<u32>(5);
    }

    #[test]
    #[should_panic(expected = "outside of its span")]
    fn huge_offset_panics() {
        Buffer::new(8, 0).unwrap().span().sub(usize::MAX, 2);
    }
}
