//! Why an access is not allowed.

use crate::report::FindingKind;

/// Why an access is not allowed: bounds, lifetime or alignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// [`FindingKind::OutOfBounds`], `UseAfterFree`, `HostPointer` or `Misaligned`.
    pub kind: FindingKind,
    /// What is wrong, with the allocation nearby: "4 bytes past the end of allocation 3, ...".
    pub message: String,
}

impl AccessError {
    /// `address` is not a multiple of `size`.
    pub fn misaligned(address: u64, size: usize) -> AccessError {
        AccessError {
            kind: FindingKind::Misaligned,
            message: format!("address {address:#x} is not aligned to the {size} bytes accessed"),
        }
    }
}

impl std::fmt::Display for AccessError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AccessError {}
