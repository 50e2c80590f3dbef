//! State of one launch.

use crate::memory::View;
use crate::program::{Kernel, Program};
use crate::report::{Counters, Finding};
use crate::sim::{Checks, LaunchConfig};
use std::sync::Arc;

/// State of one launch, shared by all its blocks.
pub struct Launch {
    /// The module's code.
    pub program: Arc<Program>,
    /// What is launched.
    pub kernel: Arc<Kernel>,
    /// Its shape.
    pub config: LaunchConfig,
    /// Which checks run.
    pub checks: Checks,
    /// Global memory.
    pub view: Arc<View>,
    /// Kernel parameters, as laid out by the kernel.
    pub params: Vec<u8>,
    /// Counters.
    pub counters: Counters,
    /// Findings so far.
    pub findings: Vec<Finding>,
}
