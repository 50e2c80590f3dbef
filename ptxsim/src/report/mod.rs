//! What a launch did: counters and findings.
//!
//! Counters are taken at PTX level and are the same on every run. They are not GPU measurements:
//! ptxas merges, hoists and spills instructions, and caches are not modelled. The rules by which
//! addresses become sectors and wavefronts are in [`traffic`]. A [`LaunchReport`] is one line of
//! JSON by `serde_json`; field names are those of the types here.

mod text;
pub mod traffic;

use serde::{Deserialize, Serialize};

pub use traffic::{Passes, atomic_wavefronts, matrix_wavefronts, sectors, wavefronts};

/// Global-memory traffic of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Warp-level instructions with at least one active lane.
    pub requests: u64,
    /// Bytes asked for, by active lanes.
    pub bytes: u64,
    /// Distinct 32-byte sectors of each request, summed; 32 bytes move for each.
    pub sectors: u64,
}

/// Shared-memory traffic of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTraffic {
    /// Warp-level instructions with at least one active lane.
    pub requests: u64,
    /// Bytes asked for, by active lanes.
    pub bytes: u64,
    /// Passes over the 32 banks of 4 bytes.
    pub wavefronts: u64,
    /// Passes beyond those that the bytes need at best.
    pub conflicts: u64,
}

/// Counters of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Instructions issued by warps.
    pub warp_instructions: u64,
    /// The same, times their active lanes.
    pub thread_instructions: u64,
    /// Conditional branches at which the active lanes of a warp parted.
    pub divergent_branches: u64,
    /// `ld.global` and generic loads that hit global memory.
    pub global_loads: Traffic,
    /// `st.global` and generic stores that hit global memory.
    pub global_stores: Traffic,
    /// `atom` and `red` on global memory.
    pub global_atomics: Traffic,
    /// Global side of `cp.async`.
    pub async_copies: Traffic,
    /// Global side of bulk copies, tensor copies included, to shared memory.
    pub bulk_loads: Traffic,
    /// Global side of bulk copies and reductions from shared memory.
    pub bulk_stores: Traffic,
    /// `ld.shared`.
    pub shared_loads: SharedTraffic,
    /// `st.shared`, and the shared side of `cp.async`.
    pub shared_stores: SharedTraffic,
    /// `atom` and `red` on shared memory.
    pub shared_atomics: SharedTraffic,
    /// `ldmatrix`.
    pub matrix_loads: SharedTraffic,
    /// `stmatrix`.
    pub matrix_stores: SharedTraffic,
    /// Shared side of bulk copies that read shared memory, tensor copies and reductions included.
    pub bulk_shared_loads: SharedTraffic,
    /// Shared side of bulk copies that write shared memory: once for each block that they write to.
    pub bulk_shared_stores: SharedTraffic,
    /// Bytes of `ld.local` and `st.local`.
    pub local_bytes: u64,
    /// Multiply-adds of `mma` and `wgmma`, times two.
    pub tensor_flops: u64,
    /// `mma` instructions of warps.
    pub mma_instructions: u64,
    /// `wgmma` instructions of warpgroups.
    pub wgmma_instructions: u64,
    /// Block-wide barriers passed, per block.
    pub barriers: u64,
    /// Largest shared memory of a block, static and dynamic.
    pub shared_bytes_per_block: u64,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Outside any live allocation, or past the end of one.
    OutOfBounds,
    /// Address not a multiple of the access size.
    Misaligned,
    /// In memory already freed.
    UseAfterFree,
    /// A host address that the device cannot see.
    HostPointer,
    /// A value that nothing wrote reaches an address, a predicate or arithmetic that is stored.
    Uninitialized,
    /// Two accesses of a block or cluster to shared memory, not ordered, one of them a write.
    SharedRace,
    /// Two blocks access global memory, not ordered, one of them a write, not both atomic.
    GlobalRace,
    /// A generic write read through the async proxy, or the reverse, without a proxy fence.
    ProxyFence,
    /// Divergent barrier, wrong count, exit while others wait.
    Barrier,
    /// Lanes missing from a warp-wide instruction.
    WarpSync,
    /// A phase, count or life-cycle rule of an mbarrier.
    Mbarrier,
    /// A register of an asynchronous operation touched before its wait.
    AsyncRegister,
    /// A rule of an instruction's operands, such as a descriptor's alignment.
    Operand,
    /// No warp can go on.
    Deadlock,
    /// `trap`, or a failed assertion of the kernel.
    Trap,
    /// Allocated and never freed.
    Leak,
}

/// One finding; repeats from the same place are counted, not listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// One sentence with sizes and the other party, where there is one.
    pub message: String,
    /// Kernel.
    pub kernel: String,
    /// CUDA source file and line, where the image has line information.
    pub source: Option<(String, u32)>,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index.
    pub thread: [u32; 3],
    /// Address, where one is involved.
    pub address: Option<u64>,
    /// The allocation that the address is in or nearest to.
    pub allocation: Option<String>,
    /// How often it was seen at this instruction.
    pub count: u64,
}

/// What a launch left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchReport {
    /// Kernel.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Counters.
    pub counters: Counters,
    /// Findings, in the order of their first sight.
    pub findings: Vec<Finding>,
}
