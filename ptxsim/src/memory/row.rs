//! The places that the lanes of a warp access at once.

use super::{AccessError, Scalar, Span};
use std::marker::PhantomData;
use std::ops::BitAnd;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// An access error and the first lane that met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneError {
    /// The lane.
    pub lane: u32,
    /// Its address.
    pub address: u64,
    /// What is wrong with it.
    pub error: AccessError,
}

/// Where the valid bytes of a row lie.
#[derive(Debug, Clone)]
enum Validity {
    /// Not tracked.
    Always,
    /// At a constant distance from the data: one allocation.
    Delta(isize),
    /// Several allocations; null where not tracked.
    Lanes(Box<[*mut u8; LANES]>),
}

/// The checked places of a warp's access: `size` bytes for each lane of `mask`.
///
/// Invariant: for every lane in `mask`, `data[lane]` is valid for reads and writes of `size` bytes
/// and aligned to `size`, and so are its valid bytes, for `'m`.
#[derive(Debug, Clone)]
pub struct Row<'m> {
    data: [*mut u8; LANES],
    validity: Validity,
    mask: u32,
    size: usize,
    /// All lanes are active and each follows the one before it.
    contiguous: bool,
    memory: PhantomData<&'m u8>,
}

/// Lanes of `mask` in ascending order.
#[inline]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            lane
        })
    })
}

/// First lane of `mask` whose address is not a multiple of `size`, a power of two.
#[inline(always)]
fn misaligned_lane(addresses: &[u64; LANES], mask: u32, size: usize) -> Option<usize> {
    let low = size as u64 - 1;
    if addresses.iter().fold(0, |all, a| all | a) & low == 0 {
        return None;
    }
    first_misaligned(addresses, mask, low)
}

#[cold]
fn first_misaligned(addresses: &[u64; LANES], mask: u32, low: u64) -> Option<usize> {
    lanes(mask).find(|&lane| addresses[lane] & low != 0)
}

/// Whether lane `i` is at `addresses[0] + i * size` for all lanes.
#[inline(always)]
fn is_contiguous(addresses: &[u64; LANES], mask: u32, size: usize) -> bool {
    let first = addresses[0];
    mask == u32::MAX
        && addresses.iter().enumerate().fold(0, |d, (i, &a)| {
            d | a.wrapping_sub(first.wrapping_add((i * size) as u64))
        }) == 0
}

/// Lowest and highest address of the lanes of `mask`, which must not be 0.
#[inline(always)]
pub(super) fn extremes(addresses: &[u64; LANES], mask: u32) -> (u64, u64) {
    let any = addresses[mask.trailing_zeros() as usize % LANES];
    let (mut low, mut high) = (any, any);
    for (lane, &address) in addresses.iter().enumerate() {
        let address = if mask >> lane & 1 != 0 { address } else { any };
        low = low.min(address);
        high = high.max(address);
    }
    (low, high)
}

impl<'m> Row<'m> {
    /// Places inside one span whose first byte has the address `base`. `size` is a power of two.
    ///
    /// # Errors
    /// The first lane that is misaligned; the first outside, with an error made by `outside`.
    #[inline(always)]
    pub fn in_span(
        span: Span<'m>,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
        outside: impl Fn(u64) -> AccessError,
    ) -> Result<Row<'m>, LaneError> {
        Row::check_alignment(addresses, mask, size)?;
        let skew = (span.data_ptr() as u64).wrapping_sub(base);
        assert!(
            skew & (size as u64 - 1) == 0,
            "base less aligned than the access"
        );
        if mask != 0 {
            let (low, high) = extremes(addresses, mask);
            if low < base
                || high - base > (span.len() as u64).wrapping_sub(size as u64)
                || size > span.len()
            {
                return Err(first_outside(&span, base, addresses, mask, size, outside));
            }
        }
        Ok(Row::new_unchecked(span, base, addresses, mask, size))
    }

    /// First lane of `mask` whose address is not a multiple of `size`, a power of two.
    #[inline(always)]
    pub fn check_alignment(
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<(), LaneError> {
        assert!(size.is_power_of_two(), "access sizes are powers of two");
        match misaligned_lane(addresses, mask, size) {
            None => Ok(()),
            Some(lane) => Err(LaneError {
                lane: lane as u32,
                address: addresses[lane],
                error: AccessError::misaligned(addresses[lane], size),
            }),
        }
    }

    /// The row of lanes that were found to lie in `span`, aligned.
    #[inline(always)]
    pub(super) fn new_unchecked(
        span: Span<'m>,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Row<'m> {
        let mut data = [span.data_ptr(); LANES];
        for (pointer, &address) in data.iter_mut().zip(addresses) {
            *pointer = pointer.wrapping_add(address.wrapping_sub(base) as usize);
        }
        let validity = match span.valid_ptr() {
            valid if valid.is_null() => Validity::Always,
            valid => Validity::Delta((valid as isize).wrapping_sub(span.data_ptr() as isize)),
        };
        let contiguous = is_contiguous(addresses, mask, size);
        Row {
            data,
            validity,
            mask,
            size,
            contiguous,
            memory: PhantomData,
        }
    }

    /// A row over several allocations: one span of `size` bytes for each lane of `mask`, aligned.
    pub(super) fn from_lanes(spans: &[Option<Span<'m>>; LANES], mask: u32, size: usize) -> Row<'m> {
        let mut data = [std::ptr::null_mut(); LANES];
        let mut valid = Box::new([std::ptr::null_mut(); LANES]);
        let mut found = 0;
        for lane in lanes(mask) {
            if let Some(span) = spans[lane].filter(|span| span.len() == size) {
                data[lane] = span.data_ptr();
                valid[lane] = span.valid_ptr();
                found |= 1 << lane;
            }
        }
        assert_eq!(found, mask, "a span for each lane");
        Row {
            data,
            validity: Validity::Lanes(valid),
            mask,
            size,
            contiguous: false,
            memory: PhantomData,
        }
    }

    /// Active lanes.
    #[inline]
    pub fn mask(&self) -> u32 {
        self.mask
    }

    #[inline(always)]
    fn check<T>(&self, offset: usize) {
        assert!(
            offset + size_of::<T>() <= self.size && offset.is_multiple_of(size_of::<T>()),
            "element outside of the access"
        );
    }

    /// Loads the scalar at `offset` of each active lane; other lanes of `out` stay.
    #[inline(always)]
    pub fn load<T: Scalar>(&self, offset: usize, out: &mut [T; LANES]) {
        self.check::<T>(offset);
        if self.contiguous {
            let first = self.data[0].wrapping_add(offset);
            for (lane, value) in out.iter_mut().enumerate() {
                // SAFETY: all lanes are active and lane i is i * size bytes after lane 0, so this
                // is `data[lane] + offset`; inside by the row's invariant and the check above.
                *value = unsafe { T::read(first.wrapping_add(lane * self.size)) };
            }
            return;
        }
        if self.mask == u32::MAX {
            for (value, place) in out.iter_mut().zip(&self.data) {
                // SAFETY: all lanes are active; inside by the row's invariant and the check above.
                *value = unsafe { T::read(place.wrapping_add(offset)) };
            }
            return;
        }
        for lane in lanes(self.mask) {
            // SAFETY: active lane; inside by the row's invariant and the check above.
            out[lane] = unsafe { T::read(self.data[lane].wrapping_add(offset)) };
        }
    }

    /// Stores the scalars of the active lanes at `offset`; of lanes at one place the highest wins.
    #[inline(always)]
    pub fn store<T: Scalar>(&self, offset: usize, values: &[T; LANES]) {
        self.check::<T>(offset);
        if self.contiguous {
            let first = self.data[0].wrapping_add(offset);
            for (lane, &value) in values.iter().enumerate() {
                // SAFETY: as in `load`.
                unsafe { T::write(first.wrapping_add(lane * self.size), value) }
            }
            return;
        }
        for lane in lanes(self.mask) {
            // SAFETY: active lane; inside by the row's invariant and the check above.
            unsafe { T::write(self.data[lane].wrapping_add(offset), values[lane]) }
        }
    }

    /// The span of one active lane, for atomics and other accesses lane by lane.
    #[inline]
    pub fn lane(&self, lane: usize) -> Span<'m> {
        assert!(self.mask >> lane & 1 != 0, "inactive lane");
        // SAFETY: the row's invariant.
        unsafe { Span::from_raw(self.data[lane], self.valid(lane), self.size, 0) }
    }

    #[inline(always)]
    fn valid(&self, lane: usize) -> *mut u8 {
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

/// The error of the first lane whose access leaves the span.
#[cold]
fn first_outside(
    span: &Span<'_>,
    base: u64,
    addresses: &[u64; LANES],
    mask: u32,
    size: usize,
    outside: impl Fn(u64) -> AccessError,
) -> LaneError {
    let len = span.len() as u64;
    let is_outside = |a: u64| a < base || len < size as u64 || a - base > len - size as u64;
    let lane = lanes(mask)
        .find(|&lane| is_outside(addresses[lane]))
        .unwrap_or(0);
    LaneError {
        lane: lane as u32,
        address: addresses[lane],
        error: outside(addresses[lane]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Buffer;
    use super::*;
    use crate::report::FindingKind;

    fn row<'m>(buffer: &'m Buffer, addresses: &[u64; 32], mask: u32, size: usize) -> Row<'m> {
        Row::in_span(buffer.span(), 0x1000, addresses, mask, size, outside).unwrap()
    }

    fn outside(_: u64) -> AccessError {
        AccessError {
            kind: FindingKind::OutOfBounds,
            message: "outside".into(),
        }
    }

    fn strided(stride: u64) -> [u64; 32] {
        std::array::from_fn(|i| 0x1000 + i as u64 * stride)
    }

    #[test]
    fn contiguous_and_scattered_agree() {
        let buffer = Buffer::new(1024, 0).unwrap();
        let values: [u32; 32] = std::array::from_fn(|i| i as u32 * 3);
        row(&buffer, &strided(4), !0, 4).store(0, &values);
        let mut reversed = strided(4);
        reversed.reverse();
        let mut out = [0u32; 32];
        row(&buffer, &reversed, !0, 4).load(0, &mut out);
        assert!((0..32).all(|i| out[i] == values[31 - i]));
    }

    #[test]
    fn inactive_lanes_keep_their_values_and_are_not_checked() {
        let buffer = Buffer::new(128, 0).unwrap();
        let mut addresses = strided(4);
        addresses[5] = 3;
        let mut out = [7u32; 32];
        row(&buffer, &addresses, !(1 << 5), 4).load(0, &mut out);
        assert_eq!((out[4], out[5]), (0, 7));
    }

    #[test]
    fn bounds_are_exact() {
        let buffer = Buffer::new(128, 0).unwrap();
        let make = |last: u64, size| {
            let mut addresses = [0x1000; 32];
            addresses[31] = last;
            Row::in_span(buffer.span(), 0x1000, &addresses, !0, size, outside).err()
        };
        assert_eq!(make(0x1000 + 124, 4), None);
        assert_eq!(make(0x1000 + 128, 4).unwrap().lane, 31);
        assert_eq!(make(0x1000 + 127, 1), None);
        assert_eq!(make(0xffc, 4).unwrap().address, 0xffc);
        assert_eq!(make(u64::MAX - 3, 4).unwrap().lane, 31);
    }

    #[test]
    fn access_larger_than_the_span_is_outside() {
        let buffer = Buffer::new(8, 0).unwrap();
        let row = Row::in_span(buffer.span(), 0x1000, &[0x1000; 32], 1, 16, outside);
        assert_eq!(row.unwrap_err().error.kind, FindingKind::OutOfBounds);
    }

    #[test]
    fn misaligned_lane_is_named() {
        let buffer = Buffer::new(1024, 0).unwrap();
        let mut addresses = strided(8);
        addresses[9] += 4;
        let error = Row::in_span(buffer.span(), 0x1000, &addresses, !0, 8, outside).unwrap_err();
        assert_eq!((error.lane, error.error.kind), (9, FindingKind::Misaligned));
    }

    #[test]
    fn validity_by_lane() {
        let buffer = Buffer::new(1024, 0).unwrap();
        let all = row(&buffer, &strided(4), !0, 4);
        assert_eq!(all.defined(0, 4), 0);
        all.set_defined(0, 4, !0);
        assert_eq!(all.defined(0, 4), !0);
        all.set_defined(0, 4, !(1 << 3));
        assert_eq!(all.defined(0, 4), !(1 << 3));
        let vectors = row(&buffer, &strided(16), 0xff, 16);
        vectors.set_defined(4, 8, 0xff);
        assert_eq!(
            (vectors.defined(4, 8), vectors.defined(0, 16)),
            (0xff, 0xfe)
        );
    }

    #[test]
    fn several_allocations() {
        let (a, b) = (
            Buffer::new(64, 0).unwrap(),
            Buffer::untracked(64, 1).unwrap(),
        );
        let mut spans = [None; 32];
        spans[0] = Some(a.span().sub(8, 4));
        spans[1] = Some(b.span().sub(0, 4));
        let row = Row::from_lanes(&spans, 0b11, 4);
        row.store(0, &[5u32; 32]);
        assert_eq!((a.span().load::<u32>(8), b.span().load::<u32>(0)), (5, 5));
        assert_eq!(row.defined(0, 4), 0b10);
        row.set_defined(0, 4, !0);
        assert_eq!(row.defined(0, 4), 0b11);
    }
}
