//! Layer norm on CUDA: a warp a row, which it keeps in shared memory.

use super::check;
use super::context::driver_error;
use super::launch::{Kernel, Launch};
use super::span::Spans;
use super::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "layer_norm";
const IMAGE: &str = "dense/layer_norm";
const SYMBOLS: [&str; 3] = ["layer_norm_f32", "layer_norm_f16", "layer_norm_bf16"];

/// Warps of a block, where their rows fit.
const WARPS: usize = 8;
/// Shared memory that a block may use without asking.
const SHARED_BYTES: usize = 48 * 1024;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    SYMBOLS.into_iter().map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How rows are laid over the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    rows: usize,
    width: usize,
    dtype: DType,
    launch: Launch,
}

impl Plan {
    /// Plans for `rows` rows of `width` elements, at least one of each.
    ///
    /// # Errors
    /// When a row does not fit a block's shared memory (12,288 elements), there is nothing to do or
    /// too much, or `dtype` is no float type.
    pub fn new(rows: usize, width: usize, dtype: DType) -> Result<Self> {
        let most = SHARED_BYTES / size_of::<f32>();
        if !(1..=most).contains(&width) {
            return Err(Error::input(
                OP,
                "x",
                format!("rows of 1 to {most} elements"),
                width,
            ));
        }
        let warps = WARPS.min(most / width);
        let blocks = i32::try_from(rows.div_ceil(warps))
            .ok()
            .filter(|&blocks| blocks > 0);
        let Some(blocks) = blocks else {
            return Err(Error::input(OP, "x", "1 to 2^31 rows", rows));
        };
        let launch = Launch {
            kernel: Kernel {
                image: IMAGE,
                symbol: check::of_dtype(OP, "x", SYMBOLS, dtype)?,
            },
            grid: [blocks as u32, 1, 1],
            block: [32 * warps as u32, 1, 1],
            shared_bytes: (warps * width * size_of::<f32>()) as u32,
        };
        Ok(Self {
            rows,
            width,
            dtype,
            launch,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows, width, dtype, ..
        } = self;
        let bytes = (2 * rows + 2) * width * dtype.size();
        writeln!(f, "{OP} [{rows}, {width}] {dtype}: {bytes} bytes at least")?;
        write!(
            f,
            "  {}: a warp a row, as many warps as rows fit 48 KiB, at most {WARPS}",
            self.launch
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// `rows * width` elements.
    pub x: CudaView<'a, T>,
    /// `width` elements.
    pub weight: CudaView<'a, T>,
    /// `width` elements.
    pub bias: CudaView<'a, T>,
    /// As long as `x`.
    pub out: CudaViewMut<'a, T>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/dense/layer_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    rows: i64,
    width: i32,
    epsilon: f32,
    wide: i32,
    padding: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 24);
    assert!(std::mem::offset_of!(Scalars, wide) == 16);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues the op on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or the scalar does not fit; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    epsilon: f32,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    crate::params::norm::epsilon(OP, epsilon)?;
    check::planned_dtype::<T>(OP, "x", plan.dtype)?;
    let elements = plan.rows * plan.width;
    check::lengths(
        OP,
        &[
            ("x", arguments.x.len(), elements),
            ("weight", arguments.weight.len(), plan.width),
            ("bias", arguments.bias.len(), plan.width),
            ("out", arguments.out.len(), elements),
        ],
    )?;
    let stream = context.stream();
    let address = |view: &CudaView<'_, T>| view.device_ptr(stream).0;
    let addresses = [
        address(&arguments.x),
        address(&arguments.weight),
        address(&arguments.bias),
        arguments.out.device_ptr(stream).0,
    ];
    let scalars = Scalars {
        rows: plan.rows as i64,
        width: plan.width as i32,
        epsilon,
        wide: i32::from(Spans::new(elements, plan.width, T::DTYPE, &addresses).wide),
        padding: 0,
    };
    let function = context.function_for(&plan.launch)?;
    let mut builder = stream.launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.x)
        .arg(&arguments.weight);
    builder.arg(&arguments.bias).arg(&mut arguments.out);
    // SAFETY: the kernel takes (Scalars, const T* x, weight, bias, T* out), and `plan` chose the one
    // for `T`; the lengths were just checked, and its shared memory holds a row a warp.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// The norm of whole buffers. See [`ops::layer_norm`](crate::ops::layer_norm()).
pub(crate) fn run<T: Float>(
    context: &Context,
    [x, weight, bias]: [&Buffer; 3],
    epsilon: f32,
) -> Result<Buffer> {
    let plan = Plan::new(x.len() / weight.len().max(1), weight.len(), T::DTYPE)?;
    let mut out = Buffer::uninitialised(context, T::DTYPE, x.len())?;
    let mut arguments = Arguments::<T> {
        x: x.view()?,
        weight: weight.view()?,
        bias: bias.view()?,
        out: out.view_mut()?,
    };
    launch(context, &plan, epsilon, &mut arguments)?;
    Ok(out)
}
