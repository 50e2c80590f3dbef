//! The places that the lanes of a warp access at once.

mod validity;

use super::{AccessError, Scalar, Span};
use std::marker::PhantomData;
use validity::Validity;

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
        if self.contiguous && size_of::<T>() == self.size {
            let all = out.as_mut_ptr().cast::<u8>();
            // SAFETY: all lanes are active and each follows the one before it, so the values of all
            // lie in a row from that of lane 0 on, inside by the row's invariant; every pattern of
            // bits is a `T`, and `out` is no simulated memory. Another launch that writes there
            // races as its kernel does.
            unsafe { self.data[0].copy_to_nonoverlapping(all, LANES * size_of::<T>()) }
            return;
        }
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
        if self.contiguous && size_of::<T>() == self.size {
            let all = values.as_ptr().cast::<u8>();
            // SAFETY: as in `load`.
            unsafe { self.data[0].copy_from_nonoverlapping(all, LANES * size_of::<T>()) }
            return;
        }
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
mod tests;
