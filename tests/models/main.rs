//! Each model at a tiny size against PyTorch, on the CPU and on one CUDA device.
//!
//! One program, because a process settles on one CUDA driver. See [`device`] for how the device is chosen.

#[cfg_attr(
    feature = "cuda",
    expect(dead_code, reason = "only ops are captured in graphs")
)]
#[path = "../devices/device.rs"]
mod device;
#[cfg(feature = "cuda")]
#[path = "../devices/simulator.rs"]
mod simulator;
mod suite;
