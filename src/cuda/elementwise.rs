//! Activations, image normalisation, embeddings and position terms on CUDA: a thread for each 16
//! bytes of the output. There is nothing to plan.

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, OptionalArgument};
use super::span::Spans;
use super::{Buffer, Context};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::params::Activation;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};

const IMAGE: &str = "dense/elementwise";
const ACTIVATION: [&str; 3] = ["activation_f32", "activation_f16", "activation_bf16"];
const NORMALIZE: [&str; 3] = [
    "normalize_image_f32",
    "normalize_image_f16",
    "normalize_image_bf16",
];
const EMBEDDING: [&str; 3] = ["embedding_f32", "embedding_f16", "embedding_bf16"];
const POSITIONS: [&str; 3] = [
    "add_positions_f32",
    "add_positions_f16",
    "add_positions_bf16",
];

/// Every kernel of the ops.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = [ACTIVATION, NORMALIZE, EMBEDDING, POSITIONS]
        .into_iter()
        .flatten();
    symbols.map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// The kernels' scalars. Mirrors `Scalars` in `kernels/dense/elementwise.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    vectors: i64,
    row_vectors: i64,
    rows: i64,
    prefix: i64,
    by_row_vectors: Divisor,
    by_rows: Divisor,
    activation: i32,
    wide: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 56);
    assert!(std::mem::offset_of!(Scalars, wide) == 52);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

impl Scalars {
    fn new(spans: &Spans) -> Self {
        Self {
            vectors: spans.vectors,
            row_vectors: spans.row_vectors,
            rows: 0,
            prefix: 0,
            by_row_vectors: Divisor::of(spans.row_vectors),
            by_rows: Divisor::of(1),
            activation: 0,
            wide: i32::from(spans.wide),
        }
    }
}

/// `out = activation(x)`. Queued on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when there are no elements or a length does not fit; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn activation<T: Float>(
    context: &Context,
    x: &CudaView<'_, T>,
    activation: Activation,
    out: &mut CudaViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "activation";
    check::lengths(OP, &[("out", out.len(), x.len())])?;
    let stream = context.stream();
    let addresses = [x.device_ptr(stream).0, out.device_ptr(stream).0];
    let spans = Spans::new(x.len(), x.len(), T::DTYPE, &addresses);
    let scalars = Scalars {
        activation: activation.code(),
        ..Scalars::new(&spans)
    };
    let launch = spans.launch(OP, kernel(OP, ACTIVATION, T::DTYPE, x.len())?)?;
    let function = context.function_for(&launch)?;
    let mut builder = stream.launch_builder(&function);
    builder.arg(&scalars).arg(x).arg(out);
    // SAFETY: the kernel takes (Scalars, const T*, T*) and touches `vectors` spans of both, which are
    // of one length.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// `out = (x - mean) * scale`, channel by channel, the channels last. Queued as [`activation`] is.
///
/// # Errors
/// As [`activation`].
pub fn normalize_image<T: Float>(
    context: &Context,
    x: &CudaView<'_, T>,
    [mean, scale]: [&CudaView<'_, f32>; 2],
    out: &mut CudaViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "normalize_image";
    let channels = mean.len();
    let whole = x.len().checked_div(channels).unwrap_or(0) * channels;
    let pairs = [
        ("scale", scale.len(), channels),
        ("x", x.len(), whole),
        ("out", out.len(), x.len()),
    ];
    check::lengths(OP, &pairs)?;
    let spans = Spans {
        vectors: x.len() as i64,
        row_vectors: channels as i64,
        wide: false,
    };
    let scalars = Scalars::new(&spans);
    let launch = spans.launch(OP, kernel(OP, NORMALIZE, T::DTYPE, x.len())?)?;
    let function = context.function_for(&launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(x).arg(mean).arg(scale).arg(out);
    // SAFETY: the kernel takes (Scalars, const T*, const float* mean, scale, T*), and touches
    // `vectors` elements of x and out and `row_vectors` of mean and scale, as was just checked.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// `out[i] = table[indices[i]]`, rows of `width`; zeros for an index that `table` does not have. Queued
/// as [`activation`] is.
///
/// # Errors
/// As [`activation`].
pub fn embedding<T: Float>(
    context: &Context,
    table: &CudaView<'_, T>,
    width: usize,
    indices: &CudaView<'_, i32>,
    out: &mut CudaViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "embedding";
    let rows = table.len().checked_div(width).unwrap_or(0);
    let pairs = [
        ("table", table.len(), rows * width),
        ("out", out.len(), indices.len() * width),
    ];
    check::lengths(OP, &pairs)?;
    let stream = context.stream();
    let addresses = [table.device_ptr(stream).0, out.device_ptr(stream).0];
    let spans = Spans::new(out.len(), width, T::DTYPE, &addresses);
    let scalars = Scalars {
        rows: rows as i64,
        ..Scalars::new(&spans)
    };
    let launch = spans.launch(OP, kernel(OP, EMBEDDING, T::DTYPE, out.len())?)?;
    let function = context.function_for(&launch)?;
    let mut builder = stream.launch_builder(&function);
    builder.arg(&scalars).arg(table).arg(indices).arg(out);
    // SAFETY: the kernel takes (Scalars, const T*, const int*, T*), reads an index for each row of the
    // output, and of the table only rows below `rows`.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// `out = concat(prefix, x) + positions`, sequence by sequence. Queued as [`activation`] is.
///
/// # Errors
/// As [`activation`].
pub fn add_positions<T: Float>(
    context: &Context,
    x: &CudaView<'_, T>,
    prefix: &Option<CudaView<'_, T>>,
    positions: &CudaView<'_, T>,
    width: usize,
    out: &mut CudaViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "add_positions";
    let before = prefix.as_ref().map_or(0, |prefix| prefix.len());
    let own = positions.len().saturating_sub(before);
    let sequences = out.len().checked_div(positions.len()).unwrap_or(0);
    let rows = |len: usize| len.checked_div(width).unwrap_or(0);
    let pairs = [
        ("prefix", before, rows(before) * width),
        ("positions", positions.len(), rows(before + own) * width),
        ("out", out.len(), sequences * positions.len()),
        ("x", x.len(), sequences * own),
    ];
    check::lengths(OP, &pairs)?;
    let stream = context.stream();
    let addresses = [
        x.device_ptr(stream).0,
        prefix
            .as_ref()
            .map_or(0, |prefix| prefix.device_ptr(stream).0),
        positions.device_ptr(stream).0,
        out.device_ptr(stream).0,
    ];
    let spans = Spans::new(out.len(), width, T::DTYPE, &addresses);
    let scalars = Scalars {
        rows: rows(positions.len()) as i64,
        prefix: rows(before) as i64,
        by_rows: Divisor::of(rows(positions.len()) as i64),
        ..Scalars::new(&spans)
    };
    let launch = spans.launch(OP, kernel(OP, POSITIONS, T::DTYPE, out.len())?)?;
    let function = context.function_for(&launch)?;
    let mut builder = stream.launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(x)
        .optional(prefix)
        .arg(positions)
        .arg(out);
    // SAFETY: the kernel takes (Scalars, const T* x, prefix, positions, T* out). A token of the output
    // is one of the `prefix` first, of which there are as many in the prefix, or one of x, which has
    // the others of each sequence; positions has one for each token of a sequence.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// The kernel for a type; an error where there is nothing to do, which cannot be launched.
fn kernel(
    op: &'static str,
    symbols: [&'static str; 3],
    dtype: crate::DType,
    elements: usize,
) -> Result<Kernel> {
    if elements == 0 {
        return Err(Error::input(op, "out", "not empty", elements));
    }
    Ok(Kernel {
        image: IMAGE,
        symbol: check::of_dtype(op, "x", symbols, dtype)?,
    })
}

/// [`activation`] of a whole buffer.
pub(crate) fn run_activation<T: Float>(
    context: &Context,
    x: &Buffer,
    function: Activation,
) -> Result<Buffer> {
    let mut out = Buffer::uninitialised(context, T::DTYPE, x.len())?;
    activation::<T>(context, &x.view()?, function, &mut out.view_mut()?)?;
    Ok(out)
}

/// [`normalize_image`] of a whole buffer.
pub(crate) fn run_normalize_image<T: Float>(
    context: &Context,
    x: &Buffer,
    mean: &[f32],
    scale: &[f32],
) -> Result<Buffer> {
    let (mean, scale) = (
        Buffer::from_slice(context, mean)?,
        Buffer::from_slice(context, scale)?,
    );
    let mut out = Buffer::uninitialised(context, T::DTYPE, x.len())?;
    normalize_image::<T>(
        context,
        &x.view()?,
        [&mean.view()?, &scale.view()?],
        &mut out.view_mut()?,
    )?;
    Ok(out)
}

/// [`embedding`] of whole buffers.
pub(crate) fn run_embedding<T: Float>(
    context: &Context,
    table: &Buffer,
    width: usize,
    indices: &Buffer,
) -> Result<Buffer> {
    let mut out = Buffer::uninitialised(context, T::DTYPE, indices.len() * width)?;
    embedding::<T>(
        context,
        &table.view()?,
        width,
        &indices.view()?,
        &mut out.view_mut()?,
    )?;
    Ok(out)
}

/// [`add_positions`] of whole buffers, for `sequences` sequences.
pub(crate) fn run_add_positions<T: Float>(
    context: &Context,
    x: &Buffer,
    prefix: Option<&Buffer>,
    positions: &Buffer,
    [sequences, width]: [usize; 2],
) -> Result<Buffer> {
    let mut out = Buffer::uninitialised(context, T::DTYPE, sequences * positions.len())?;
    let prefix = prefix.map(Buffer::view).transpose()?;
    add_positions::<T>(
        context,
        &x.view()?,
        &prefix,
        &positions.view()?,
        width,
        &mut out.view_mut()?,
    )?;
    Ok(out)
}
