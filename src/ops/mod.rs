//! The ops: each checks its arguments, returns early where there is nothing to do, and runs on the device of its
//! tensors.

mod check;
mod nms;

pub use nms::{Kept, NMS_MAX_BOXES, NmsParams, nms};

/// Runs the arm of `$device`. Without the feature `cuda` no context exists, and its arm is not compiled.
macro_rules! on_device {
    ($device:expr, cpu => $cpu:expr, cuda($context:ident) => $cuda:expr $(,)?) => {
        match $device {
            crate::Device::Cpu => $cpu,
            #[cfg(feature = "cuda")]
            crate::Device::Cuda($context) => $cuda,
            #[cfg(not(feature = "cuda"))]
            crate::Device::Cuda($context) => match *$context {},
        }
    };
}

/// Runs `$body` with the type `$T` standing for the float type `$dtype`, or returns `$otherwise`.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr, else => $otherwise:expr $(,)?) => {
        match $dtype {
            crate::DType::F32 => {
                type $T = f32;
                $body
            }
            crate::DType::F16 => {
                type $T = half::f16;
                $body
            }
            crate::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            crate::DType::I32 => $otherwise,
        }
    };
}

use {on_device, with_float};
