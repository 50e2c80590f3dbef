//! A CUDA driver that executes PTX on the CPU, with sanitizer checks and counters.
//!
//! Data flows one way:
//!
//! ```text
//! image    fatbin or PTX text -> the PTX that suits the simulated architecture
//! ptx      text -> syntax tree, names resolved, nothing interpreted
//! program  syntax tree -> decoded instructions over register slots
//! memory   address space, allocations, valid bits
//! exec     grid, clusters, blocks, warps, lanes; one launch from start to end
//! tensor   arithmetic and layouts of mma, wgmma, swizzles and tensor maps: pure functions
//! checks   races, barriers, uninitialised values: what is wrong, where
//! report   counters and findings of a launch, as values and as JSON
//! sim      the facade: load a module, launch a kernel
//! driver   the exported CUDA driver API, over sim
//! client   for test programs: load the shared library, read its reports
//! ```

pub mod checks;
pub mod client;
pub mod driver;
pub mod exec;
pub mod image;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod report;
pub mod sim;
pub mod tensor;
