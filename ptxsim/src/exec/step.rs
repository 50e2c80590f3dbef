//! What an instruction tells the scheduler.

use crate::memory::LANES;
use crate::sim::LaunchError;
use std::fmt;

/// What happens to the lanes that executed an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// They go on to the next instruction.
    Next,
    /// They go on at this instruction; lanes whose guard was false fall through.
    Jump(u32),
    /// Each goes on at its own instruction, given in [`WarpState::targets`](super::warp::WarpState::targets).
    Scatter,
    /// They enter the function with this index; the call instruction has prepared its frame.
    Call(u32),
    /// They return to their caller, or end in a kernel.
    Return,
    /// They end.
    Exit,
    /// They execute the same instruction again later; [`Warp::wait`](super::warp::Warp::wait) makes it and says why.
    Wait,
    /// They go on to the next instruction, after other lanes and warps had a turn.
    Yield,
    /// The launch ends with this error.
    Trap(LaunchError),
}

impl From<Result<Step, LaunchError>> for Step {
    fn from(result: Result<Step, LaunchError>) -> Step {
        result.unwrap_or_else(Step::Trap)
    }
}

/// Why lanes wait. It is only reported; the condition is asked again by executing the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Other lanes of the warp must reach the same instruction.
    Lanes(u32),
    /// A named barrier of the block and the threads it expects.
    Barrier {
        /// Which of the 16.
        id: u32,
        /// Threads that must arrive.
        expected: u32,
        /// Threads that have.
        arrived: u32,
    },
    /// The barrier of the cluster.
    ClusterBarrier,
    /// A phase of the mbarrier at a shared address.
    Mbarrier {
        /// Its address.
        address: u32,
        /// The parity or phase waited for.
        phase: u64,
    },
    /// Anything else, in words.
    Other(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Lanes(mask) => write!(f, "lanes {mask:#010x} of its warp"),
            Reason::Barrier {
                id,
                expected,
                arrived,
            } => {
                write!(f, "barrier {id} ({arrived} of {expected} threads arrived)")
            }
            Reason::ClusterBarrier => f.write_str("the cluster barrier"),
            Reason::Mbarrier { address, phase } => {
                write!(f, "phase {phase} of the mbarrier at shared {address:#x}")
            }
            Reason::Other(text) => f.write_str(text),
        }
    }
}

/// Targets of [`Step::Scatter`].
pub type Targets = [u32; LANES];
