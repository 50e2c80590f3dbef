//! Hand-written CUDA kernels for detection and attention.
