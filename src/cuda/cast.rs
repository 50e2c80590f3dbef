//! Conversion between float types on CUDA.

use super::context::driver_error;
use super::launch::{Kernel, Launch};
use super::{Buffer, Context, Properties};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, PushKernelArg};
use half::{bf16, f16};
use std::fmt;

const OP: &str = "cast";
/// Kernels by the types that they convert from and to.
const KERNELS: [(DType, DType, &str); 6] = [
    (DType::F32, DType::F16, "cast_f32_f16"),
    (DType::F32, DType::BF16, "cast_f32_bf16"),
    (DType::F16, DType::F32, "cast_f16_f32"),
    (DType::F16, DType::BF16, "cast_f16_bf16"),
    (DType::BF16, DType::F32, "cast_bf16_f32"),
    (DType::BF16, DType::F16, "cast_bf16_f16"),
];

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    KERNELS.into_iter().map(|(_, _, symbol)| kernel(symbol))
}

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel { image: OP, symbol }
}

/// Threads of a block of `kernels/cast.cu`, and elements that one converts at once.
const THREADS: usize = 256;
const ELEMENTS: usize = 8;
/// Blocks that fill a multiprocessor's 2048 threads.
const BLOCKS_A_MULTIPROCESSOR: usize = 2048 / THREADS;

/// What one call launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    from: DType,
    to: DType,
    len: usize,
    launch: Launch,
}

impl Plan {
    /// Plans for `len` elements.
    ///
    /// # Errors
    /// When `len` is 0, for which there is nothing to launch, or the types are not two different float types.
    pub fn new(gpu: &Properties, from: DType, to: DType, len: usize) -> Result<Self> {
        let found = KERNELS.into_iter().find(|&(s, d, _)| (s, d) == (from, to));
        let Some((_, _, symbol)) = found else {
            let rule = format!("a float type other than {from}, which is one");
            return Err(Error::input(OP, "to", rule, to));
        };
        if len == 0 {
            return Err(Error::input(OP, "from", "at least one element", len));
        }
        let most = BLOCKS_A_MULTIPROCESSOR * gpu.multiprocessors as usize;
        let blocks = len.div_ceil(THREADS * ELEMENTS).min(most.max(1));
        Ok(Self {
            from,
            to,
            len,
            launch: Launch {
                kernel: kernel(symbol),
                grid: [blocks as u32, 1, 1],
                block: [THREADS as u32, 1, 1],
                shared_bytes: 0,
            },
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.len * (self.from.size() + self.to.size());
        write!(
            f,
            "{OP} [{}] {} to {}: {bytes} bytes at least\n  {}: {ELEMENTS} elements a thread at once (16 bytes of a \
             16-bit type), at most {BLOCKS_A_MULTIPROCESSOR} blocks a multiprocessor (its threads)",
            self.len, self.from, self.to, self.launch
        )
    }
}

/// Device buffers of one call, as long as planned. Any alignment; 16 bytes are fastest.
pub struct Arguments<'a, S, D> {
    /// The elements.
    pub from: CudaView<'a, S>,
    /// Takes them converted.
    pub to: CudaViewMut<'a, D>,
}

/// Queues the op on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's type or length does not fit the plan; [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch<S: Float, D: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, S, D>,
) -> Result<()> {
    let sides = [
        ("from", S::DTYPE, plan.from, arguments.from.len()),
        ("to", D::DTYPE, plan.to, arguments.to.len()),
    ];
    for (argument, is, expected, len) in sides {
        if is != expected {
            let rule = format!("of the plan's type {expected}");
            return Err(Error::input(OP, argument, rule, is));
        }
        if len != plan.len {
            let rule = format!("{} elements", plan.len);
            return Err(Error::input(OP, argument, rule, len));
        }
    }
    let aligned = {
        let (from, _from) = arguments.from.device_ptr(context.stream());
        let (to, _to) = arguments.to.device_ptr(context.stream());
        i32::from((from | to).is_multiple_of(16))
    };
    let count = plan.len as i64;
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&count).arg(&aligned);
    builder.arg(&arguments.from).arg(&mut arguments.to);
    // SAFETY: the kernel takes (long long, int, const S*, D*), of the types just compared with the plan's, and touches
    // the `count` elements that both views were seen to hold, in vectors only where `aligned`.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching cast"))?;
    Ok(())
}

/// The elements of a buffer as another float type, or `None` where one of the two is no float type.
pub(super) fn run(from: &Buffer, dtype: DType) -> Result<Option<Buffer>> {
    match from.dtype() {
        DType::F32 => run_from::<f32>(from, dtype),
        DType::F16 => run_from::<f16>(from, dtype),
        DType::BF16 => run_from::<bf16>(from, dtype),
        DType::I32 => Ok(None),
    }
}

fn run_from<S: Float>(from: &Buffer, dtype: DType) -> Result<Option<Buffer>> {
    match dtype {
        DType::F32 => run_types::<S, f32>(from).map(Some),
        DType::F16 => run_types::<S, f16>(from).map(Some),
        DType::BF16 => run_types::<S, bf16>(from).map(Some),
        DType::I32 => Ok(None),
    }
}

fn run_types<S: Float, D: Float>(from: &Buffer) -> Result<Buffer> {
    let context = from.context();
    let mut to = Buffer::uninitialised(context, D::DTYPE, from.len())?;
    if !from.is_empty() {
        let plan = Plan::new(context.properties(), S::DTYPE, D::DTYPE, from.len())?;
        let mut arguments = Arguments::<S, D> {
            from: from.view()?,
            to: to.view_mut()?,
        };
        launch(context, &plan, &mut arguments)?;
    }
    Ok(to)
}
