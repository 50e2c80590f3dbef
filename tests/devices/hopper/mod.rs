//! The vocabulary of kernels for compute capability 9.0 (`kernels/common`), word by word, through the kernels of
//! `kernels/testing/hopper_sm90.cu`. All numbers are whole and small, so that results are exact.

mod barriers;
mod copies;
mod launch;
mod products;
mod registers;
