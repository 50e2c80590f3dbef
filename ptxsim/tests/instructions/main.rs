//! Every instruction against a definition written from the PTX ISA, over edge values.
//!
//! A row is an instruction, the types of its operands and results, and a Rust function that
//! defines the results; `harness` makes a kernel of it, runs it in the simulator with all checks
//! on and compares bit for bit, or within the error that PTX states for approximate functions.
//! Floating point is defined by `exact`, in big integers, rounded once.
//!
//! `PTXSIM_TEST_DUMP=DIR` leaves the kernels' texts in a folder, for `ptxas` to confirm that they
//! are what it accepts too.

mod approximate32;
mod approximate64;
mod atomic;
mod atomic_vector;
mod bits;
mod bulk;
mod cluster;
mod collective;
mod compare;
mod control;
mod convert;
mod convert_narrow;
mod coverage;
mod exact;
mod float;
mod half;
mod harness;
mod integer;
mod kernel;
mod matrix;
mod matrix_moves;
mod mbarrier;
mod memory;
mod packed;
mod products;
mod tensor_copy;
mod values;
