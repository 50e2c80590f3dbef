//! The exported CUDA driver API.
//!
//! Each file holds one topic with its exported functions; [`ffi`] holds the border to C, and with
//! it nearly all `unsafe`. Calls that are not simulated are in [`unsupported`] and fail with
//! `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! - Objects are found by [`handle`]s in tables; a stale handle is an error.
//! - Work goes through a [`stream`] as an [`operation`], which is done at once, or added to a graph
//!   while the stream is in a [`capture`].
//! - No lock of the driver is held while a kernel runs: threads launch in parallel.
//! - An error of a kernel is returned by its launch and is not sticky, so that one bad launch does
//!   not fail every later test of a process; `PTXSIM_ERRORS=deferred` has it the other way.
//! - The rlib holds the exported functions as well. A program that links it for [`crate::client`]
//!   does not export them, and the library binds its own symbols first (`-Bsymbolic`), so the two
//!   do not meet. Only a program that links `libcuda` at build time, as cudarc's `dynamic-linking`
//!   does, would get the rlib's copy: it should use the runner instead of the client.

pub mod capture;
pub mod context;
pub mod control;
pub mod copy;
pub mod device;
pub mod event;
pub mod ffi;
pub mod fill;
pub mod function;
pub mod graph;
pub mod graph_nodes;
pub mod handle;
pub mod host_work;
pub mod launch;
pub mod memcpy;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod operation;
pub mod pool;
mod primary_context;
pub mod proc_address;
pub mod report;
pub mod settings;
pub mod state;
pub mod status;
pub mod stream;
pub mod tensor_map;
pub mod unsupported;
