//! Allocations, as the device knows and reports name them.

use super::{Buffer, Span};

/// Where an allocation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocationKind {
    /// Allocated by the program on the device.
    Device,
    /// Pinned, managed or registered: device address and host pointer are the same.
    Host,
    /// A module's variables.
    Module,
}

/// An allocation as reports name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationInfo {
    /// Counts from 1 in the order of allocation.
    pub id: u32,
    /// First address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Where it comes from.
    pub kind: AllocationKind,
    /// The variable's name for one of a module.
    pub name: Option<String>,
    /// No longer live.
    pub freed: bool,
}

impl AllocationInfo {
    /// Bytes between `address` and the allocation: 0 inside, 1 for the byte just past the end.
    pub(super) fn distance(&self, address: u64) -> u64 {
        if address < self.address {
            self.address - address
        } else {
            (address - self.address).saturating_sub(self.len.saturating_sub(1))
        }
    }

    /// Where `address` is with respect to this allocation.
    pub(super) fn relation(&self, address: u64) -> String {
        if address < self.address {
            return format!(
                "{} bytes before the start of {self}",
                self.address - address
            );
        }
        match address - self.address {
            offset if offset < self.len => format!("{offset} bytes into {self}"),
            offset => format!("{} bytes past the end of {self}", offset - self.len),
        }
    }
}

impl std::fmt::Display for AllocationInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let freed = if self.freed { "freed " } else { "" };
        match (&self.name, self.kind) {
            (Some(name), _) => write!(f, "{freed}variable {name}")?,
            (None, AllocationKind::Host) => write!(f, "{freed}host allocation {}", self.id)?,
            (None, _) => write!(f, "{freed}allocation {}", self.id)?,
        }
        write!(f, ", {} bytes at {:#x}", self.len, self.address)
    }
}

/// A live allocation and its bytes.
#[derive(Debug)]
pub struct Allocation {
    pub(super) info: AllocationInfo,
    pub(super) backing: Backing,
}

#[derive(Debug)]
pub(super) enum Backing {
    /// Memory of its own.
    Owned(Buffer),
    /// Memory of the program's own: its address.
    Registered(u64),
}

impl Allocation {
    #[inline]
    pub(super) fn buffer_span(&self) -> Span<'_> {
        match &self.backing {
            Backing::Owned(buffer) => buffer.span(),
            Backing::Registered(address) => {
                let data = std::ptr::with_exposed_provenance_mut(*address as usize);
                // SAFETY: `Memory::register_host`'s caller vouched for these bytes until they are
                // unregistered and no launch uses them.
                unsafe {
                    Span::from_raw(
                        data,
                        std::ptr::null_mut(),
                        self.info.len as usize,
                        self.info.id,
                    )
                }
            }
        }
    }
}
