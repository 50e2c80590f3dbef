//! Which lanes of a row hold values that were written.

use super::{LANES, Row, lanes};
use std::ops::BitAnd;

/// Where the valid bytes of a row lie.
#[derive(Debug, Clone)]
pub(super) enum Validity {
    /// Not tracked.
    Always,
    /// At a constant distance from the data: one allocation.
    Delta(isize),
    /// Several allocations; null where not tracked.
    Lanes(Box<[*mut u8; LANES]>),
}

impl Row<'_> {
    #[inline(always)]
    pub(super) fn valid(&self, lane: usize) -> *mut u8 {
        match &self.validity {
            Validity::Always => std::ptr::null_mut(),
            Validity::Delta(delta) => self.data[lane].wrapping_offset(*delta),
            Validity::Lanes(pointers) => pointers[lane],
        }
    }

    /// Active lanes of which all `len` bytes at `offset` were written.
    #[inline(always)]
    pub fn defined(&self, offset: usize, len: usize) -> u32 {
        assert!(offset + len <= self.size, "element outside of the access");
        let delta = match self.validity {
            Validity::Always => return self.mask,
            Validity::Delta(delta) => delta,
            Validity::Lanes(_) => return self.defined_by_lane(offset, len),
        };
        if self.contiguous && len == self.size {
            let bytes = LANES * self.size;
            let first = self.data[0].wrapping_offset(delta);
            // SAFETY: the lanes are contiguous, so their valid bytes are, too.
            let valid = unsafe { std::slice::from_raw_parts(first, bytes) };
            if valid.iter().fold(1, |all, v| all & v) == 1 {
                return self.mask;
            }
        }
        let all = match len {
            1 => self.all_valid::<u8>(delta, offset, 1),
            2 => self.all_valid::<u16>(delta, offset, u16::from_ne_bytes([1; 2])),
            4 => self.all_valid::<u32>(delta, offset, u32::from_ne_bytes([1; 4])),
            8 => self.all_valid::<u64>(delta, offset, u64::from_ne_bytes([1; 8])),
            16 => self.all_valid::<u128>(delta, offset, u128::from_ne_bytes([1; 16])),
            _ => false,
        };
        if all {
            self.mask
        } else {
            self.defined_by_lane(offset, len)
        }
    }

    /// Whether the valid bytes at `offset` of all active lanes are `valid`.
    #[inline(always)]
    fn all_valid<T: Copy + Eq + BitAnd<Output = T>>(
        &self,
        delta: isize,
        offset: usize,
        valid: T,
    ) -> bool {
        assert!(
            offset + size_of::<T>() <= self.size,
            "element outside of the access"
        );
        let read = |lane: usize| {
            let place = self.data[lane].wrapping_offset(delta).wrapping_add(offset);
            // SAFETY: active lane; inside by the assertion.
            unsafe { place.cast::<T>().read_unaligned() }
        };
        let mut all = valid;
        if self.mask == u32::MAX {
            (0..LANES).for_each(|lane| all = all & read(lane));
        } else {
            lanes(self.mask).for_each(|lane| all = all & read(lane));
        }
        all == valid
    }

    #[cold]
    fn defined_by_lane(&self, offset: usize, len: usize) -> u32 {
        let mut defined = 0;
        for lane in lanes(self.mask) {
            let valid = self.valid(lane);
            let all = valid.is_null() || {
                // SAFETY: active lane; `offset + len` is inside by the caller's check.
                let bytes = unsafe { std::slice::from_raw_parts(valid.wrapping_add(offset), len) };
                bytes.iter().all(|&v| v != 0)
            };
            defined |= u32::from(all) << lane;
        }
        defined
    }

    /// Marks `len` bytes at `offset` of each active lane: written for lanes in `defined`,
    /// otherwise not.
    #[inline(always)]
    pub fn set_defined(&self, offset: usize, len: usize, defined: u32) {
        assert!(offset + len <= self.size, "element outside of the access");
        if matches!(self.validity, Validity::Always) {
            return;
        }
        if let Validity::Delta(delta) = self.validity
            && self.contiguous
            && len == self.size
            && defined == u32::MAX
        {
            let first = self.data[0].wrapping_offset(delta);
            // SAFETY: the lanes are contiguous, so their valid bytes are, too.
            unsafe { std::ptr::write_bytes(first, 1, LANES * self.size) }
            return;
        }
        for lane in lanes(self.mask) {
            let valid = self.valid(lane);
            if !valid.is_null() {
                let value = (defined >> lane & 1) as u8;
                // SAFETY: active lane; inside by the assertion.
                unsafe { std::ptr::write_bytes(valid.wrapping_add(offset), value, len) }
            }
        }
    }
}
