//! Attention on CUDA: forward and backward.

mod scalars;
