//! Places in memory that asynchronous operations name, one lane at a time.

use super::access::Space;
use super::warp::Warp;
use crate::memory::{
    AccessError, LANES, LaneError, SHARED_RANK_SHIFT, SHARED_WINDOW, Span, Window, window_of,
};
use crate::program::modifiers::Modifiers;
use crate::program::operands::Address;
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// Bits of a shared address that are the offset in a block's memory.
const OFFSET_MASK: u32 = (1 << SHARED_RANK_SHIFT) - 1;

/// An address operand that must lie in shared memory.
#[derive(Debug, Clone, Copy)]
pub struct SharedAddress {
    /// The operand.
    pub address: Address,
    /// [`Space::Shared`] or [`Space::Generic`].
    pub space: Space,
}

/// Takes `.shared`, `.shared::cta` or `.shared::cluster`; without one the address is generic.
pub fn shared_space(m: &Modifiers<'_>) -> Space {
    let names = ["shared", "shared::cta", "shared::cluster"];
    if names.iter().any(|name| m.take(name)) {
        Space::Shared
    } else {
        Space::Generic
    }
}

/// Rank of the block that a shared address belongs to.
pub fn rank_of(address: u32) -> usize {
    (address >> SHARED_RANK_SHIFT) as usize
}

/// The same offset in the shared memory of the block of another rank.
pub fn at_rank(address: u32, rank: u32) -> u32 {
    rank << SHARED_RANK_SHIFT | address & OFFSET_MASK
}

/// Generic address of a shared one, as reports give it.
pub fn generic(address: u32) -> u64 {
    SHARED_WINDOW + u64::from(address)
}

impl<'a> Warp<'a> {
    /// Shared addresses, rank included, of the lanes of `mask`.
    ///
    /// # Errors
    /// A generic address is not in the shared window; reported.
    pub fn shared_addresses(
        &mut self,
        operand: &SharedAddress,
        mask: u32,
    ) -> Result<[u32; LANES], LaunchError> {
        let addresses = self.addresses(&operand.address, mask);
        if operand.space == Space::Generic {
            let outside = |lane: &u32| window_of(addresses[*lane as usize]) != Window::Shared;
            if let Some(lane) = bits(mask).find(outside) {
                let address = addresses[lane as usize];
                let message = format!("address {address:#x} is not in shared memory");
                return Err(self.fault(lane, address, FindingKind::OutOfBounds, message));
            }
        }
        Ok(addresses.map(|address| address as u32))
    }

    /// `len` bytes of the cluster's shared memory, at a multiple of `align`.
    ///
    /// # Errors
    /// Out of bounds, misaligned, or in a block that has ended; reported.
    pub fn shared_span(
        &mut self,
        lane: u32,
        address: u32,
        len: u32,
        align: u32,
    ) -> Result<Span<'a>, LaunchError> {
        if !address.is_multiple_of(align) {
            return Err(self.misaligned(lane, generic(address), align));
        }
        let (rank, offset) = (rank_of(address), (address & OFFSET_MASK) as usize);
        let buffer = self.shared_of(rank).map_err(|error| {
            let address = generic(address);
            self.access_error(&LaneError {
                lane,
                address,
                error,
            })
        })?;
        if offset + len as usize > buffer.len() {
            let size = buffer.len();
            let message = format!(
                "{len} bytes at offset {offset:#x} of shared memory, which has {size} bytes"
            );
            return Err(self.fault(lane, generic(address), FindingKind::OutOfBounds, message));
        }
        Ok(buffer.span().sub(offset, len as usize))
    }

    /// `len` bytes of global memory, at a multiple of `align`.
    ///
    /// # Errors
    /// Out of bounds or misaligned; reported.
    pub fn global_span(
        &mut self,
        lane: u32,
        address: u64,
        len: u32,
        align: u32,
    ) -> Result<Span<'a>, LaunchError> {
        if !address.is_multiple_of(u64::from(align)) {
            return Err(self.misaligned(lane, address, align));
        }
        let span = self
            .view
            .resolve(address, len as usize, &mut self.state.hint);
        span.map_err(|error| {
            self.access_error(&LaneError {
                lane,
                address,
                error,
            })
        })
    }

    /// Reports an access that is not allowed and gives what the launch ends with.
    #[cold]
    pub fn fault(
        &mut self,
        lane: u32,
        address: u64,
        kind: FindingKind,
        message: String,
    ) -> LaunchError {
        self.access_error(&LaneError {
            lane,
            address,
            error: AccessError { kind, message },
        })
    }

    fn misaligned(&mut self, lane: u32, address: u64, align: u32) -> LaunchError {
        let message = format!("address {address:#x} must be a multiple of {align}");
        self.fault(lane, address, FindingKind::Misaligned, message)
    }

    /// Reports an operand that breaks a rule of its instruction and gives what the launch ends with.
    #[cold]
    pub fn bad_operand(&mut self, lane: u32, message: String) -> LaunchError {
        self.find(FindingKind::Operand, message, lane, None);
        LaunchError::LaunchFailed
    }
}

/// Lanes of a mask in ascending order.
pub fn bits(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}
