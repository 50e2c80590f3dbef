//! Addresses of a warp's lanes, and the places in memory that they mean.

use super::lanes::mapped;
use super::observe::Access;
use super::step::Reason;
use super::warp::Warp;
use crate::memory::{
    AccessError, Buffer, LANES, LOCAL_WINDOW, LaneError, PARAM_WINDOW, Row, SHARED_RANK_SHIFT,
    SHARED_WINDOW, Window, window_of,
};
use crate::program::operands::{Address, Base, Place};
use crate::report::FindingKind;
use crate::sim::LaunchError;

/// State space that an instruction names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.global`, and `.const`, which lies in global memory here.
    Global,
    /// `.shared`, of the block or of the cluster.
    Shared,
    /// `.local`, and parameters of calls, which lie in the frame.
    Local,
    /// The kernel's parameters.
    Param,
    /// None: the address says.
    Generic,
}

/// Where lanes access memory: one buffer, or global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Global memory.
    Global,
    /// Shared memory of the block with this rank in the cluster.
    Shared(u32),
    /// Local memory.
    Local,
    /// The kernel's parameters.
    Param,
}

impl<'a> Warp<'a> {
    /// The address of each lane. An undefined one is reported.
    #[inline(always)]
    pub fn addresses(&mut self, address: &Address, mask: u32) -> [u64; LANES] {
        match address.base {
            Base::Long(source) => {
                self.check_defined(source, mask, "an address");
                mapped(self.read(source), |base| {
                    base.wrapping_add(address.offset as u64)
                })
            }
            Base::Word(source) => {
                self.check_defined(source, mask, "an address");
                let offset = address.offset as u32;
                mapped(self.read(source), |base| {
                    u64::from(base.wrapping_add(offset))
                })
            }
            Base::Fixed(place) => [self.fixed(place).wrapping_add(address.offset as u64); LANES],
        }
    }

    /// The address, in its own space, of a place known when the kernel was decoded.
    #[inline(always)]
    pub fn fixed(&self, place: Place) -> u64 {
        match place {
            Place::Global(address) | Place::Param(address) => address,
            Place::Shared(offset) => self.shared_base() + offset,
            Place::Frame(offset) => u64::from(self.state.local_base) + offset,
        }
    }

    /// Address of the first byte of the block's shared memory.
    #[inline(always)]
    pub fn shared_base(&self) -> u64 {
        (self.rank as u64) << SHARED_RANK_SHIFT
    }

    /// Which memory the first lanes of `mask` access, their mask, and what to subtract from their
    /// addresses to get offsets in it.
    #[inline(always)]
    pub fn home(&self, space: Space, addresses: &[u64; LANES], mask: u32) -> (Home, u32, u64) {
        match space {
            Space::Global => (Home::Global, mask, 0),
            Space::Local => (Home::Local, mask, 0),
            Space::Param => (Home::Param, mask, 0),
            Space::Shared => shared_home(addresses, mask, 0),
            Space::Generic => {
                let first = window_of(addresses[mask.trailing_zeros() as usize % LANES]);
                let same = same_lanes(addresses, mask, |a| window_of(a) == first);
                match first {
                    Window::Global => (Home::Global, same, 0),
                    Window::Local => (Home::Local, same, LOCAL_WINDOW),
                    Window::Param => (Home::Param, same, PARAM_WINDOW),
                    Window::Shared => shared_home(addresses, same, SHARED_WINDOW),
                }
            }
        }
    }

    /// The places of the lanes of `mask`, which `home` found; `base` is to be subtracted from their
    /// addresses. What is out of bounds or misaligned is reported and ends the launch.
    ///
    /// # Errors
    /// [`LaunchError::IllegalAddress`] and [`LaunchError::MisalignedAddress`].
    #[inline(always)]
    pub fn row(
        &mut self,
        home: Home,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<Row<'a>, LaunchError> {
        let row = match home {
            Home::Global => self
                .view
                .resolve_row(addresses, mask, size, &mut self.state.hint),
            Home::Shared(rank) => self.shared_row_of(rank, base, addresses, mask, size),
            Home::Local => self.local_row(base, addresses, mask, size),
            Home::Param => {
                let params: &'a Buffer = self.params;
                let outside =
                    |a: u64| outside("the kernel's parameters", params.len(), a - base, size);
                Row::in_span(params.span(), base, addresses, mask, size, outside)
            }
        };
        row.map_err(|error| self.access_error(&error))
    }

    /// Counts and checks an access of the lanes of `mask`, and calls `f` with the places, the memory
    /// that they are in and the lanes that they are of: once for each memory that lanes access.
    ///
    /// # Errors
    /// As [`Warp::row`].
    #[inline(always)]
    pub fn access(
        &mut self,
        access: Access,
        space: Space,
        address: &Address,
        mask: u32,
        mut f: impl FnMut(&mut Self, &Row<'a>, Home, u32),
    ) -> Result<(), LaunchError> {
        let addresses = self.addresses(address, mask);
        let mut left = mask;
        while left != 0 {
            let (home, lanes, base) = self.home(space, &addresses, left);
            let row = self.row(home, base, &addresses, lanes, access.bytes as usize)?;
            self.observe(access, home, base, &addresses, lanes);
            f(self, &row, home, lanes);
            left &= !lanes;
        }
        Ok(())
    }

    /// Shared memory of the block with this rank in the cluster.
    ///
    /// # Errors
    /// There is no such block, or it has ended.
    #[inline(always)]
    pub fn shared_of(&self, rank: usize) -> Result<&'a Buffer, AccessError> {
        let shared: &'a [Buffer] = self.shared;
        match shared.get(rank) {
            Some(buffer) if self.cluster.blocks[rank].live_threads > 0 => Ok(buffer),
            Some(_) => Err(AccessError {
                kind: FindingKind::UseAfterFree,
                message: format!("shared memory of the block of rank {rank}, which has ended"),
            }),
            None => Err(AccessError {
                kind: FindingKind::OutOfBounds,
                message: format!("the cluster has no block of rank {rank}"),
            }),
        }
    }

    #[inline(always)]
    fn shared_row_of(
        &mut self,
        rank: u32,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<Row<'a>, LaneError> {
        let buffer = self.shared_of(rank as usize).map_err(|error| {
            let lane = mask.trailing_zeros();
            let address = addresses[lane as usize % LANES];
            LaneError {
                lane,
                address,
                error,
            }
        })?;
        let outside = |a: u64| outside("shared memory", buffer.len(), a - base, size);
        Row::in_span(buffer.span(), base, addresses, mask, size, outside)
    }

    fn local_row(
        &mut self,
        base: u64,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<Row<'a>, LaneError> {
        let local: &'a Buffer = self.local;
        let stride = u64::from(self.launch.local_stride);
        let mut offsets = [0; LANES];
        for (lane, offset) in offsets.iter_mut().enumerate() {
            let own = addresses[lane].wrapping_sub(base);
            // An offset beyond the lane's own memory must not reach that of the next lane.
            let inside = own <= stride.wrapping_sub(size as u64) && size as u64 <= stride;
            *offset = if inside {
                own + lane as u64 * stride
            } else {
                u64::MAX - 0xffff + own % 0x1000
            };
        }
        let outside = |_| outside("local memory", stride as usize, 0, size);
        Row::in_span(local.span(), 0, &offsets, mask, size, outside).map_err(|mut error| {
            error.address = addresses[error.lane as usize];
            if error.error.kind == FindingKind::OutOfBounds {
                let own = error.address.wrapping_sub(base);
                error.error = self::outside("local memory", stride as usize, own, size);
            }
            error
        })
    }

    /// The places in shared memory, of any block of the cluster, of the lanes of `mask`. All lanes
    /// must be in the block of the first one.
    ///
    /// # Errors
    /// As [`Warp::row`].
    #[inline]
    pub fn shared_row(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<Row<'a>, LaunchError> {
        let (home, same, base) = self.home(Space::Shared, addresses, mask);
        debug_assert_eq!(same, mask, "lanes in several blocks");
        self.row(home, base, addresses, mask, size)
    }

    /// The places in global memory of the lanes of `mask`.
    ///
    /// # Errors
    /// As [`Warp::row`].
    #[inline]
    pub fn global_row(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
    ) -> Result<Row<'a>, LaunchError> {
        self.row(Home::Global, 0, addresses, mask, size)
    }

    /// Reports an access error and gives what the launch ends with.
    #[cold]
    pub fn access_error(&mut self, error: &LaneError) -> LaunchError {
        self.state.reason = Reason::Other("an access error");
        let AccessError { kind, message } = error.error.clone();
        self.find(kind, message, error.lane, Some(error.address));
        match kind {
            FindingKind::Misaligned => LaunchError::MisalignedAddress,
            _ => LaunchError::IllegalAddress,
        }
    }
}

/// Lanes of `mask` that satisfy `f`.
#[inline(always)]
fn same_lanes(addresses: &[u64; LANES], mask: u32, f: impl Fn(u64) -> bool) -> u32 {
    // Nearly always all of them do, and that is quicker to find out.
    if addresses.iter().fold(true, |all, &a| all & f(a)) {
        return mask;
    }
    let bits = addresses
        .iter()
        .enumerate()
        .fold(0, |m, (lane, &a)| m | u32::from(f(a)) << lane);
    bits & mask
}

#[inline(always)]
fn shared_home(addresses: &[u64; LANES], mask: u32, window: u64) -> (Home, u32, u64) {
    let rank = (addresses[mask.trailing_zeros() as usize % LANES] - window) >> SHARED_RANK_SHIFT;
    let same = same_lanes(addresses, mask, |a| {
        a.wrapping_sub(window) >> SHARED_RANK_SHIFT == rank
    });
    (
        Home::Shared(rank as u32),
        same,
        window + (rank << SHARED_RANK_SHIFT),
    )
}

#[cold]
fn outside(what: &str, len: usize, offset: u64, size: usize) -> AccessError {
    AccessError {
        kind: FindingKind::OutOfBounds,
        message: format!("{size} bytes at offset {offset:#x} of {what}, which has {len} bytes"),
    }
}
