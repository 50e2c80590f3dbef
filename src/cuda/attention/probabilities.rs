//! Attention probabilities of chosen queries.

use super::super::check;
use super::OP;
use super::buffers::{check_alignment, check_length, check_span, from_offset};
use super::scalars::{Blocks, Scalars};
use crate::cuda::context::driver_error;
use crate::cuda::launch::{Kernel, Launch, OptionalArgument};
use crate::cuda::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::{Geometry, Mask, Qkv};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, PushKernelArg};
use std::fmt;

const IMAGE: &str = "attention/probabilities";
const SYMBOLS: [&str; 3] = [
    "attention_probabilities_f32",
    "attention_probabilities_f16",
    "attention_probabilities_bf16",
];

/// Threads of a block: sixteen keys at a time, each by eight lanes.
const THREADS: u32 = 128;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    SYMBOLS.into_iter().map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How a problem is laid over the GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    geometry: Geometry,
    dtype: DType,
    rows: usize,
    scalars: Scalars,
    blocks: Blocks,
    launch: Launch,
}

impl Plan {
    /// Plans for `rows` queries of each sequence.
    ///
    /// # Errors
    /// When `geometry` or `params` break a rule of theirs, `dtype` is no float type, or there are 2^31 rows or more.
    pub fn new(geometry: &Geometry, params: &Attention, dtype: DType, rows: usize) -> Result<Self> {
        let symbol = check::of_dtype(OP, "q", SYMBOLS, dtype)?;
        geometry.check(dtype.size())?;
        params.check()?;
        let (blocks, count) = Blocks::new(geometry.batch, geometry.heads, rows)?;
        let launch = Launch {
            kernel: Kernel {
                image: IMAGE,
                symbol,
            },
            grid: [count, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        Ok(Self {
            geometry: *geometry,
            dtype,
            rows,
            scalars: Scalars::new(geometry, params),
            blocks,
            launch,
        })
    }

    /// Probabilities of a call.
    pub fn len(&self) -> usize {
        self.geometry.batch * self.geometry.heads * self.rows * self.geometry.keys
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Geometry {
            batch,
            heads,
            keys,
            head_dim,
            ..
        } = self.geometry;
        writeln!(
            f,
            "{OP} probabilities [{batch}, {heads}, {}, {keys}] of heads of {head_dim} {}",
            self.rows, self.dtype
        )?;
        write!(
            f,
            "  {}: a block a row, 8 lanes a key: they read a key as whole lines",
            self.launch
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// Queries, keys and values, laid out as the geometry says; values are not read.
    pub qkv: Qkv<CudaView<'a, T>>,
    /// Bias exactly where the geometry has one; offsets exactly where sequences are packed.
    pub mask: Mask<CudaView<'a, T>, CudaView<'a, i32>>,
    /// Places of the queries within each sequence.
    pub rows: CudaView<'a, i32>,
    /// Takes the probabilities, as many as [`Plan::len`].
    pub probabilities: CudaViewMut<'a, f32>,
}

/// Queues the op on the context's stream, without allocation or waiting.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when a buffer's length or alignment does not fit the plan; [`Error::ImageUnfit`](crate::Error::ImageUnfit) or
/// [`Error::Driver`](crate::Error::Driver).
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    check(context, plan, arguments)?;
    if plan.is_empty() {
        return Ok(());
    }
    let [q, k, _] = arguments.qkv.parts();
    let (q, k) = (
        from_offset(q, &plan.geometry.q),
        from_offset(k, &plan.geometry.k),
    );
    let [offsets_q, offsets_k] = match &arguments.mask.offsets {
        Some([q, k]) => [Some(q.slice(..)), Some(k.slice(..))],
        None => [None, None],
    };
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&plan.scalars).arg(&plan.blocks);
    builder.optional(&arguments.mask.kv_lengths);
    builder.optional(&offsets_q).optional(&offsets_k);
    builder.arg(&arguments.rows).arg(&q).arg(&k);
    builder.optional(&arguments.mask.bias);
    builder.arg(&mut arguments.probabilities);
    // SAFETY: the kernel takes these structs, by value, and then these pointers. It reads queries and keys within their
    // layouts, whose spans the buffers were checked to hold at 16-byte alignment; rows, bias, lengths and offsets have
    // the lengths that the plan gives, what the integers say is clamped or left out, and a block writes the
    // `keys` probabilities of its row.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    let geometry = &plan.geometry;
    check::planned_dtype::<T>(OP, "q", plan.dtype)?;
    let [q, k, _] = arguments.qkv.parts();
    let operands = [
        ("q", q, &geometry.q, geometry.query_extents()),
        ("k", k, &geometry.k, geometry.key_extents()),
    ];
    for (argument, view, layout, extents) in operands {
        check_span(argument, view.len(), layout, extents)?;
        check_alignment(argument, view.device_ptr(context.stream()).0)?;
    }
    let Mask {
        bias,
        kv_lengths,
        offsets,
    } = &arguments.mask;
    check_length("rows", Some(arguments.rows.len()), Some(plan.rows))?;
    check_length(
        "probabilities",
        Some(arguments.probabilities.len()),
        Some(plan.len()),
    )?;
    let bias_len = geometry.bias.map(|_| geometry.bias_len());
    check_length("bias", bias.as_ref().map(CudaView::len), bias_len)?;
    if let Some(lengths) = kv_lengths {
        check_length("kv_lengths", Some(lengths.len()), Some(geometry.batch))?;
    }
    for (argument, place) in [("offsets_q", 0), ("offsets_k", 1)] {
        let length = offsets.as_ref().map(|offsets| offsets[place].len());
        check_length(
            argument,
            length,
            geometry.packed.map(|_| geometry.batch + 1),
        )?;
    }
    Ok(())
}

/// Probabilities of whole buffers. See
/// [`ops::attention_probabilities`](crate::ops::attention_probabilities).
pub(crate) fn run<T: Float>(
    context: &Context,
    geometry: &Geometry,
    params: &Attention,
    qkv: Qkv<&Buffer>,
    mask: &Mask<&Buffer, &Buffer>,
    rows: &Buffer,
) -> Result<Buffer> {
    let plan = Plan::new(geometry, params, T::DTYPE, rows.len())?;
    let mut probabilities = Buffer::uninitialised(context, DType::F32, plan.len())?;
    let offsets = match mask.offsets {
        Some([q, k]) => Some([q.view()?, k.view()?]),
        None => None,
    };
    let mut arguments = Arguments::<T> {
        qkv: qkv.try_map(Buffer::view)?,
        mask: Mask {
            bias: mask.bias.map(Buffer::view).transpose()?,
            kv_lengths: mask.kv_lengths.map(Buffer::view).transpose()?,
            offsets,
        },
        rows: rows.view()?,
        probabilities: probabilities.view_mut()?,
    };
    launch(context, &plan, &mut arguments)?;
    Ok(probabilities)
}
