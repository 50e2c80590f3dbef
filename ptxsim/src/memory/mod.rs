//! The device's address space: allocations, their bytes, and which bytes were ever written.
//!
//! [`Memory`] is the space of one device and what the host side of the driver works on. A launch
//! works on a [`View`], a snapshot in which memory freed meanwhile stays backed. [`Buffer`] is a
//! piece of zeroed memory with one *valid* byte beside each data byte; allocations have one, and
//! so have the shared, local and parameter memory of running kernels. [`Span`] is a checked range
//! of a buffer, and [`Row`] the 32 places that the lanes of a warp access at once.
//!
//! This module and its children hold all raw pointers of the simulated memory. Kernels may race on
//! their data as they may on a GPU, so aligned scalars move by relaxed atomic accesses.

mod allocation;
mod buffer;
mod error;
mod row;
mod space;
mod span;
mod view;

pub use allocation::{AllocationInfo, AllocationKind};
pub use buffer::Buffer;
pub use error::AccessError;
pub use row::{LANES, LaneError, Row, lanes};
pub use space::Memory;
pub use span::{Scalar, Span};
pub use view::{Hint, View};

/// Generic addresses of shared memory start here; a block of cluster rank `r` sees its own bytes,
/// and its peers see them, at `SHARED_WINDOW + (r << SHARED_RANK_SHIFT)`.
pub const SHARED_WINDOW: u64 = 0x80_0000_0000;
/// Bits of a shared address below the cluster rank.
pub const SHARED_RANK_SHIFT: u32 = 24;
/// Generic addresses of the thread's own local memory start here.
pub const LOCAL_WINDOW: u64 = 0x81_0000_0000;
/// Generic addresses of the kernel's parameters start here.
pub const PARAM_WINDOW: u64 = 0x82_0000_0000;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 1 << 32;
/// Device allocations start here. Linux gives user programs no mappings near it, so that device
/// and host addresses never meet.
pub const DEVICE_BASE: u64 = 0x100_0000_0000;

/// The state space that a generic address falls in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// Shared memory of the cluster.
    Shared,
    /// The thread's local memory.
    Local,
    /// The kernel's parameters.
    Param,
    /// Everything else.
    Global,
}

/// The state space that the generic address `address` falls in.
#[inline]
pub fn window_of(address: u64) -> Window {
    match address >> 32 {
        0x80 => Window::Shared,
        0x81 => Window::Local,
        0x82 => Window::Param,
        _ => Window::Global,
    }
}
