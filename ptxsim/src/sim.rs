//! The facade: what the driver needs of the simulator.

use crate::report::LaunchReport;

/// A simulated architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 8.0.
    #[default]
    Sm80,
    /// Compute capability 9.0 with its architecture-specific instructions.
    Sm90a,
}

/// Which checks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Checks {
    /// None but the bounds without which execution would be unsafe.
    Off,
    /// Bounds, alignment, lifetime, initialisation.
    Memory,
    /// All.
    #[default]
    All,
}

/// Shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; all ones without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// All blocks are resident together.
    pub cooperative: bool,
}

/// Why a launch failed, as the driver reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchError {
    /// Bad shape or parameter.
    InvalidValue,
    /// More threads, registers or shared memory than a block may have.
    OutOfResources,
    /// Access outside live memory.
    IllegalAddress,
    /// Misaligned access.
    MisalignedAddress,
    /// `trap` and other failures of the kernel.
    LaunchFailed,
    /// Failed device assertion.
    Assert,
    /// Deadlock.
    Timeout,
}

/// Result of a launch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Counters and findings, also where the launch failed.
    pub report: LaunchReport,
    /// What the driver returns.
    pub result: Result<(), LaunchError>,
}
