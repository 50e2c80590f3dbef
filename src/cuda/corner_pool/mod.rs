//! Corner pooling on CUDA: one launch, each map read or written once.

mod plan;

pub(super) use plan::kernels;
pub use plan::{Pass, Plan};

use super::check;
use super::context::driver_error;
use super::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Scan;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, PushKernelArg};
use plan::VECTOR_BYTES;

const OP: &str = "corner_pool";
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
    check::length(OP, "input", arguments.input.len(), elements)?;
    check::length(OP, "output", arguments.output.len(), elements)?;
    if let Some(bits) = &arguments.bits {
        check::length(OP, "bits", bits.len(), plan.scan.bit_words())?;
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
    check::length(OP, "upstream", arguments.upstream.len(), elements)?;
    check::length(OP, "bits", arguments.bits.len(), plan.scan.bit_words())?;
    check::length(OP, "gradient", arguments.gradient.len(), elements)?;
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
