//! Corner pooling on CUDA: one launch, each map read or written once.

use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, Launch};
use super::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Scan;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "corner_pool";
const COLUMNS: &str = "corner_pool/columns";
const LINES: &str = "corner_pool/lines";

/// Symbols by type: f32, f16, bf16.
const COLUMNS_FORWARD: [&str; 3] = [
    "corner_pool_forward_columns_f32",
    "corner_pool_forward_columns_f16",
    "corner_pool_forward_columns_bf16",
];
const COLUMNS_BACKWARD: [&str; 3] = [
    "corner_pool_backward_columns_f32",
    "corner_pool_backward_columns_f16",
    "corner_pool_backward_columns_bf16",
];
const LINES_FORWARD: [&str; 3] = [
    "corner_pool_forward_lines_f32",
    "corner_pool_forward_lines_f16",
    "corner_pool_forward_lines_bf16",
];
const LINES_BACKWARD: [&str; 3] = [
    "corner_pool_backward_lines_f32",
    "corner_pool_backward_lines_f16",
    "corner_pool_backward_lines_bf16",
];

/// Threads of a block.
const THREADS: usize = 256;
/// Bytes of one load: the widest there is.
const VECTOR_BYTES: usize = 16;
/// Steps that a thread of the kernel for columns holds: one byte of bits a column.
const STEPS: usize = 8;
/// Segments of a column in a block: 128 steps, a CornerNet map at once, and 16 lanes, 256 bytes of a
/// row.
const MAX_SEGMENTS: usize = 16;
/// Threads a line: 8 share a byte of bits where each has one element, and a warp shuffles.
const LANES_OF_LINE: (usize, usize) = (8, 32);
/// Columns are numbered in 31 bits, those of the last, partly empty block too.
const MAX_COLUMNS: usize = (1 << 31) - (1 << 12);
/// Blocks of a launch in x (CUDA C++ Programming Guide, compute capabilities).
const MAX_BLOCKS: usize = (1 << 31) - 1;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let columns = COLUMNS_FORWARD.into_iter().chain(COLUMNS_BACKWARD);
    let lines = LINES_FORWARD.into_iter().chain(LINES_BACKWARD);
    let kernel = |image| move |symbol| Kernel { image, symbol };
    columns.map(kernel(COLUMNS)).chain(lines.map(kernel(LINES)))
}

/// Which of the two passes a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// From input to maxima.
    Forward,
    /// From the gradient of the maxima to that of the input.
    Backward,
}

/// How a scan is laid over the GPU. It depends on shape and type alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    scan: Scan,
    dtype: DType,
    pass: Pass,
    /// Rows of columns, or lines, are whole vectors of 16 bytes.
    whole_vectors: bool,
    /// Neighbouring threads that hold the same steps (columns), or share a line.
    lanes: usize,
    launch: Launch,
}

impl Plan {
    /// Plans a pass over a map of type `dtype`.
    ///
    /// # Errors
    /// When `dtype` is no float type, or the map has more than 2^31 - 4096 columns or lines, or 2^48
    /// elements.
    pub fn new(scan: Scan, dtype: DType, pass: Pass) -> Result<Self> {
        scan.check(OP)?;
        let of_type = match dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::BF16 => 2,
            DType::I32 => {
                let rule = "of type f32, f16 or bf16";
                return Err(Error::input(OP, "input", rule, dtype));
            }
        };
        let columns = scan.outer * scan.inner;
        if columns > MAX_COLUMNS {
            let rule = format!("at most {MAX_COLUMNS}");
            return Err(Error::input(OP, "columns", rule, columns));
        }
        let vector = VECTOR_BYTES / dtype.size();
        let lines = scan.inner == 1;
        let (whole_vectors, lanes, of_block) = if lines {
            let whole = scan.length.is_multiple_of(vector);
            let threads = scan.length.div_ceil(if whole { vector } else { 1 });
            let (low, high) = LANES_OF_LINE;
            let lanes = threads.next_power_of_two().clamp(low, high);
            (whole, lanes, THREADS / lanes)
        } else {
            let segments = scan.length.div_ceil(STEPS).next_power_of_two();
            let lanes = THREADS / segments.clamp(1, MAX_SEGMENTS);
            (scan.inner.is_multiple_of(vector), lanes, lanes * vector)
        };
        let symbols = match (lines, pass) {
            (false, Pass::Forward) => COLUMNS_FORWARD,
            (false, Pass::Backward) => COLUMNS_BACKWARD,
            (true, Pass::Forward) => LINES_FORWARD,
            (true, Pass::Backward) => LINES_BACKWARD,
        };
        let blocks = columns.div_ceil(of_block).min(MAX_BLOCKS);
        let launch = Launch {
            kernel: Kernel {
                image: if lines { LINES } else { COLUMNS },
                symbol: symbols[of_type],
            },
            grid: [blocks as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
        };
        Ok(Self {
            scan,
            dtype,
            pass,
            whole_vectors,
            lanes,
            launch,
        })
    }

    /// What is planned.
    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Whether there is nothing to launch.
    fn is_empty(&self) -> bool {
        self.scan.elements() == 0
    }

    fn scalars(&self, aligned: bool, accumulate: bool) -> Scalars {
        let Scan {
            outer,
            length,
            inner,
            from_end,
        } = self.scan;
        let wide = self.whole_vectors && aligned;
        let by_inner = if wide && inner > 1 {
            inner * self.dtype.size() / VECTOR_BYTES
        } else {
            inner
        };
        Scalars {
            length: length as i64,
            inner: inner as i64,
            columns: (outer * inner) as i64,
            by_inner: Divisor::new(by_inner as u32),
            lanes_log2: self.lanes.ilog2() as i32,
            from_end: i32::from(from_end),
            wide: i32::from(wide),
            accumulate: i32::from(accumulate),
            padding: (4 * self.scan.bit_words() - outer * self.scan.groups() * inner) as i32,
            end: 0,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scan {
            outer,
            length,
            inner,
            ..
        } = self.scan;
        let bits = outer * self.scan.groups() * inner;
        let maps = 2 * self.scan.elements() * self.dtype.size();
        writeln!(
            f,
            "{OP} [{outer}, {length}, {inner}] {} {:?}: {maps} bytes at least, {bits} more with bits",
            self.dtype, self.pass
        )?;
        if inner == 1 {
            write!(
                f,
                "  {}: {} threads a line, to hold most of it at once",
                self.launch, self.lanes
            )
        } else {
            write!(
                f,
                "  {}: {} segments of {STEPS} steps (one byte of bits) by {} vectors of a row; a block \
                 has whole columns, so that carries stay in it",
                self.launch,
                THREADS / self.lanes,
                self.lanes
            )
        }
    }
}

/// Device buffers of a forward pass, contiguous; 16-byte alignment is fastest.
pub struct Forward<'a, T> {
    /// The map.
    pub input: CudaView<'a, T>,
    /// Takes the maxima, or their sum with what it holds where `accumulate`.
    pub output: CudaViewMut<'a, T>,
    /// Takes [`Scan::bit_words`] words of new maxima, for a backward pass to come.
    pub bits: Option<CudaViewMut<'a, i32>>,
    /// Adds to the output instead of overwriting it.
    pub accumulate: bool,
}

/// Device buffers of a backward pass, contiguous; 16-byte alignment is fastest.
pub struct Backward<'a, T> {
    /// Gradient of the maxima.
    pub upstream: CudaView<'a, T>,
    /// What the forward pass wrote.
    pub bits: CudaView<'a, i32>,
    /// Takes the gradient of the input.
    pub gradient: CudaViewMut<'a, T>,
}

/// The kernels' scalars. Mirrors `Scalars` in `kernels/common/scan.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    length: i64,
    inner: i64,
    columns: i64,
    by_inner: Divisor,
    lanes_log2: i32,
    from_end: i32,
    wide: i32,
    accumulate: i32,
    padding: i32,
    /// Fills the struct to its alignment.
    end: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 56);
    assert!(std::mem::offset_of!(Scalars, by_inner) == 24);
    assert!(std::mem::offset_of!(Scalars, padding) == 48);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues a forward pass on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn forward<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Forward<'_, T>,
) -> Result<()> {
    check(plan, T::DTYPE, Pass::Forward)?;
    let elements = plan.scan.elements();
    length("input", arguments.input.len(), elements)?;
    length("output", arguments.output.len(), elements)?;
    if let Some(bits) = &arguments.bits {
        length("bits", bits.len(), plan.scan.bit_words())?;
    }
    if plan.is_empty() {
        return Ok(());
    }
    let stream = context.stream();
    let addresses = arguments.input.device_ptr(stream).0
        | arguments.output.device_ptr_mut(stream).0
        | arguments
            .bits
            .as_mut()
            .map_or(0, |bits| bits.device_ptr_mut(stream).0);
    let scalars = plan.scalars(is_aligned(addresses), arguments.accumulate);
    let function = context.function_for(&plan.launch)?;
    let mut builder = stream.launch_builder(&function);
    let null = 0u64;
    builder.arg(&scalars).arg(&arguments.input);
    builder.arg(&mut arguments.output);
    match &mut arguments.bits {
        Some(bits) => builder.arg(bits),
        None => builder.arg(&null),
    };
    // SAFETY: the kernel takes (Scalars, const T*, T*, unsigned char*), and `plan` chose the one for
    // `T`. It touches `elements` of input and output and the bytes of `bit_words` words, or none
    // where null: all lengths were checked.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// Queues a backward pass on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Backward<'_, T>,
) -> Result<()> {
    check(plan, T::DTYPE, Pass::Backward)?;
    let elements = plan.scan.elements();
    length("upstream", arguments.upstream.len(), elements)?;
    length("bits", arguments.bits.len(), plan.scan.bit_words())?;
    length("gradient", arguments.gradient.len(), elements)?;
    if plan.is_empty() {
        return Ok(());
    }
    let stream = context.stream();
    let addresses = arguments.upstream.device_ptr(stream).0
        | arguments.bits.device_ptr(stream).0
        | arguments.gradient.device_ptr_mut(stream).0;
    let scalars = plan.scalars(is_aligned(addresses), false);
    let function = context.function_for(&plan.launch)?;
    let mut builder = stream.launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.upstream)
        .arg(&arguments.bits);
    builder.arg(&mut arguments.gradient);
    // SAFETY: the kernel takes (Scalars, const T*, const unsigned char*, T*), and `plan` chose the
    // one for `T`. It touches `elements` of both maps and the bytes of `bit_words` words: all
    // lengths were checked. What the bits hold selects values, never addresses.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

pub(super) fn is_aligned(addresses: u64) -> bool {
    addresses.is_multiple_of(VECTOR_BYTES as u64)
}

fn check(plan: &Plan, dtype: DType, pass: Pass) -> Result<()> {
    if dtype != plan.dtype {
        let rule = format!("of the plan's type {}", plan.dtype);
        return Err(Error::input(OP, "input", rule, dtype));
    }
    if pass != plan.pass {
        let value = format!("{:?}", plan.pass);
        return Err(Error::input(OP, "plan", format!("for {pass:?}"), value));
    }
    Ok(())
}

fn length(argument: &str, is: usize, expected: usize) -> Result<()> {
    if is == expected {
        return Ok(());
    }
    let rule = format!("{expected} elements");
    Err(Error::input(OP, argument, rule, is))
}

/// The maxima of a whole buffer. See [`ops::corner_pool`](crate::ops::corner_pool()).
pub(crate) fn pool<T: Float>(context: &Context, input: &Buffer, scan: Scan) -> Result<Buffer> {
    let plan = Plan::new(scan, T::DTYPE, Pass::Forward)?;
    let mut output = Buffer::uninitialised(context, T::DTYPE, input.len())?;
    let mut arguments = Forward::<T> {
        input: input.view()?,
        output: output.view_mut()?,
        bits: None,
        accumulate: false,
    };
    forward(context, &plan, &mut arguments)?;
    Ok(output)
}

/// The maxima of a whole buffer, and their bits. See
/// [`ops::corner_pool_with_bits`](crate::ops::corner_pool_with_bits()).
pub(crate) fn pool_with_bits<T: Float>(
    context: &Context,
    input: &Buffer,
    scan: Scan,
) -> Result<(Buffer, Buffer)> {
    let plan = Plan::new(scan, T::DTYPE, Pass::Forward)?;
    let mut output = Buffer::uninitialised(context, T::DTYPE, input.len())?;
    let mut bits = Buffer::uninitialised(context, DType::I32, scan.bit_words())?;
    let mut arguments = Forward::<T> {
        input: input.view()?,
        output: output.view_mut()?,
        bits: Some(bits.view_mut()?),
        accumulate: false,
    };
    forward(context, &plan, &mut arguments)?;
    Ok((output, bits))
}

/// The gradient of a whole buffer. See
/// [`ops::corner_pool_backward`](crate::ops::corner_pool_backward()).
pub(crate) fn pool_backward<T: Float>(
    context: &Context,
    upstream: &Buffer,
    bits: &Buffer,
    scan: Scan,
) -> Result<Buffer> {
    let plan = Plan::new(scan, T::DTYPE, Pass::Backward)?;
    let mut gradient = Buffer::uninitialised(context, T::DTYPE, upstream.len())?;
    let mut arguments = Backward::<T> {
        upstream: upstream.view()?,
        bits: bits.view()?,
        gradient: gradient.view_mut()?,
    };
    backward(context, &plan, &mut arguments)?;
    Ok(gradient)
}
