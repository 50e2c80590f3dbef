//! Asynchronous copies, mbarriers, tensor maps and clusters, executed.
//!
//! Kernels of `tests/fixtures/async` come in clean form, which must give the right result and no
//! finding, and with one planted bug each, which must be found. `table` runs single instructions
//! against their scalar definition.

mod clusters;
mod copies;
mod harness;
mod rings;
mod table;
mod tensors;
