//! The device memory that a launch sees.

use super::allocation::{Allocation, AllocationInfo};
use super::row::{LANES, LaneError, Row, extremes, lanes};
use super::{AccessError, DEVICE_BASE, Span};
use crate::report::FindingKind;
use std::sync::Arc;

/// The allocation that an access hit last; accesses of one instruction tend to stay in one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hint(u32);

/// A snapshot of the allocations. What is freed later stays backed while the view lives.
#[derive(Debug, Default)]
pub struct View {
    /// Live allocations by address.
    pub(super) live: Vec<Arc<Allocation>>,
    /// First address and length of each, side by side for the search.
    pub(super) ranges: Vec<(u64, u64)>,
    /// Freed allocations.
    pub(super) freed: Arc<Vec<AllocationInfo>>,
}

impl View {
    pub(super) fn new(live: Vec<Arc<Allocation>>, freed: Arc<Vec<AllocationInfo>>) -> View {
        let ranges = live.iter().map(|a| (a.info.address, a.info.len)).collect();
        View {
            live,
            ranges,
            freed,
        }
    }

    /// Index of the allocation that holds all `len` bytes at `address`.
    #[inline(always)]
    fn index_of(&self, address: u64, len: u64, hint: &mut Hint) -> Option<usize> {
        let inside = |&(start, size): &(u64, u64)| {
            address >= start && size >= len && address - start <= size - len
        };
        if self.ranges.get(hint.0 as usize).is_some_and(inside) {
            return Some(hint.0 as usize);
        }
        let index = self
            .ranges
            .partition_point(|r| r.0 <= address)
            .checked_sub(1)?;
        hint.0 = index as u32;
        inside(&self.ranges[index]).then_some(index)
    }

    /// The `len` bytes at `address`.
    ///
    /// # Errors
    /// When they are not all inside one live allocation.
    #[inline]
    pub fn resolve(
        &self,
        address: u64,
        len: usize,
        hint: &mut Hint,
    ) -> Result<Span<'_>, AccessError> {
        match self.index_of(address, len as u64, hint) {
            Some(i) => {
                let offset = (address - self.ranges[i].0) as usize;
                Ok(self.live[i].buffer_span().sub(offset, len))
            }
            None => Err(self.error(address, len)),
        }
    }

    /// The `size` bytes, a power of two, at the address of each lane of `mask`.
    ///
    /// # Errors
    /// The first lane that is misaligned, otherwise the first outside of live memory.
    #[inline(always)]
    pub fn resolve_row(
        &self,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
        hint: &mut Hint,
    ) -> Result<Row<'_>, LaneError> {
        Row::check_alignment(addresses, mask, size)?;
        if mask == 0 {
            return Ok(Row::from_lanes(&[None; LANES], 0, size));
        }
        let (low, high) = extremes(addresses, mask);
        let bytes = (high - low).saturating_add(size as u64);
        match self.index_of(low, bytes, hint) {
            Some(i) => {
                let span = self.live[i].buffer_span();
                Ok(Row::new_unchecked(
                    span,
                    self.ranges[i].0,
                    addresses,
                    mask,
                    size,
                ))
            }
            None => self.resolve_lanes(addresses, mask, size, hint),
        }
    }

    /// A row whose lanes lie in several allocations, or in none.
    #[cold]
    fn resolve_lanes(
        &self,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
        hint: &mut Hint,
    ) -> Result<Row<'_>, LaneError> {
        let mut spans = [None; LANES];
        for lane in lanes(mask) {
            let address = addresses[lane];
            let span = self.resolve(address, size, hint);
            spans[lane] = Some(span.map_err(|error| LaneError {
                lane: lane as u32,
                address,
                error,
            })?);
        }
        Ok(Row::from_lanes(&spans, mask, size))
    }

    /// The live allocation that holds `address`.
    pub fn find(&self, address: u64) -> Option<&AllocationInfo> {
        let index = self.index_of(address, 1, &mut Hint::default())?;
        Some(&self.live[index].info)
    }

    /// The allocation that `address` is in or nearest to, in words.
    pub fn describe(&self, address: u64) -> Option<String> {
        let all = self.live.iter().map(|a| &a.info).chain(self.freed.iter());
        let nearest = all.min_by_key(|info| (info.distance(address), !info.freed))?;
        Some(nearest.relation(address))
    }

    /// Why the `len` bytes at `address` may not be accessed.
    #[cold]
    fn error(&self, address: u64, len: usize) -> AccessError {
        let freed = self.freed.iter().find(|info| info.distance(address) == 0);
        let near = self
            .describe(address)
            .map(|text| format!(": {text}"))
            .unwrap_or_default();
        let (kind, message) = if let Some(freed) = freed {
            let message = format!("{len} bytes at {address:#x}: {}", freed.relation(address));
            (FindingKind::UseAfterFree, message)
        } else if address < 0x1000 {
            (
                FindingKind::OutOfBounds,
                format!("{len} bytes at {address:#x}: a null pointer"),
            )
        } else if address < DEVICE_BASE || !is_host_memory(address) {
            (
                FindingKind::OutOfBounds,
                format!("{len} bytes at {address:#x}{near}"),
            )
        } else {
            let message = format!("{len} bytes at {address:#x}, which is the host's own memory");
            (FindingKind::HostPointer, message)
        };
        AccessError { kind, message }
    }
}

/// Whether this process has memory at `address`.
fn is_host_memory(address: u64) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return false;
    };
    maps.lines().any(|line| {
        let range = line
            .split_whitespace()
            .next()
            .and_then(|range| range.split_once('-'));
        let parse = |text| u64::from_str_radix(text, 16).ok();
        range
            .and_then(|(a, b)| Some((parse(a)?..parse(b)?).contains(&address)))
            .unwrap_or(false)
    })
}
