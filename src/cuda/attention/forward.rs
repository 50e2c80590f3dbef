//! The forward pass.

mod hopper;
mod hopper_short;
mod method;
mod symbols;

use super::super::check;
use super::OP;
use super::buffers::{check_alignment, check_length, check_span, from_offset};
use super::scalars::{Blocks, Scalars};
use super::schedule::Schedule;
use crate::cuda::context::driver_error;
use crate::cuda::launch::{Launch, OptionalArgument};
use crate::cuda::{Buffer, Context, Properties, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, Mask, Qkv};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, PushKernelArg};
use method::Method;
use std::fmt;
pub(super) use symbols::kernels;

/// How a problem is laid over the GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    geometry: Geometry,
    params: Attention,
    dtype: DType,
    scalars: Scalars,
    blocks: Blocks,
    method: Method,
    launch: Launch,
    /// Of blocks that stay.
    schedule: Option<Schedule>,
    combine: Option<(Blocks, Launch)>,
    /// Why the GPU's own kernels are left out.
    left_out: Option<&'static str>,
}

impl Plan {
    /// Plans for this geometry.
    ///
    /// # Errors
    /// When `geometry` or `params` break a rule of theirs, `dtype` is no float type, or the GPU's
    /// blocks have too little shared memory.
    pub fn new(
        gpu: &Properties,
        geometry: &Geometry,
        params: &Attention,
        dtype: DType,
    ) -> Result<Self> {
        if !dtype.is_float() {
            return Err(Error::input(OP, "q", "of type f32, f16 or bf16", dtype));
        }
        geometry.check(dtype.size())?;
        params.check()?;
        let (method, left_out) = Method::choose(gpu, geometry, params, dtype);
        let (blocks, mut launch) = method.launch(geometry, dtype)?;
        let schedule = match method {
            Method::Hopper(tiles) => Some(hopper::schedule(gpu, geometry, params, tiles)),
            _ => None,
        };
        match (method, &schedule) {
            (Method::HopperShort(tiles), _) => launch.grid = [tiles.blocks(), 1, 1],
            (_, Some(schedule)) => launch.grid = [schedule.blocks(gpu), 1, 1],
            _ => {}
        }
        if launch.shared_bytes > gpu.shared_bytes_per_block {
            let rule = format!("at least {} bytes a block", launch.shared_bytes);
            let value = gpu.shared_bytes_per_block;
            return Err(Error::input(OP, "the GPU's shared memory", rule, value));
        }
        Ok(Self {
            geometry: *geometry,
            params: *params,
            dtype,
            scalars: Scalars::new(geometry, params),
            blocks,
            method,
            launch,
            schedule,
            combine: method.combine(geometry, dtype)?,
            left_out,
        })
    }

    /// Bytes of workspace: the results of shares of the keys, where these are split.
    pub fn workspace_bytes(&self) -> usize {
        self.method.partial_bytes(&self.geometry).iter().sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, queries, heads, dim] = self.geometry.query_extents();
        let [_, keys, kv_heads, _] = self.geometry.key_extents();
        writeln!(
            f,
            "{OP} forward [{batch}, {queries}, {heads}, {dim}] on [{batch}, {keys}, {kv_heads}, \
             {dim}] {}",
            self.dtype
        )?;
        write!(f, "  {}: {}", self.launch, self.method)?;
        if let Some(schedule) = &self.schedule {
            write!(f, ", {schedule}")?;
        }
        if let Some(reason) = self.left_out {
            write!(f, "; not the kernels for sm_90a: {reason}")?;
        }
        match &self.combine {
            Some((_, combine)) => write!(f, "\n  {combine}: adds the shares in order"),
            None => Ok(()),
        }
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// Queries, keys and values, laid out as the geometry says, at multiples of 16 bytes.
    pub qkv: Qkv<CudaView<'a, T>>,
    /// Bias exactly where the geometry has one; offsets exactly where sequences are packed.
    pub mask: Mask<CudaView<'a, T>, CudaView<'a, i32>>,
    /// Takes the output, laid out as the geometry says, at a multiple of 16 bytes.
    pub out: CudaViewMut<'a, T>,
    /// Takes the log-sum-exps, `[B, H, Nq]` or, of packed sequences, `[H, Tq]`.
    pub lse: CudaViewMut<'a, f32>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](crate::cuda::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream, without allocation or waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment does not fit the plan;
/// [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    check(context, plan, arguments)?;
    let geometry = &plan.geometry;
    if geometry.batch == 0 && geometry.packed.is_none() {
        return Ok(());
    }
    if let (Method::Hopper(tiles), Some(schedule)) = (plan.method, &plan.schedule) {
        return hopper::launch(context, plan, schedule, tiles, arguments);
    }
    if let Method::HopperShort(tiles) = &plan.method {
        return hopper_short::launch(context, plan, tiles, arguments);
    }
    let [q, k, v] = arguments.qkv.parts();
    let q = from_offset(q, &geometry.q);
    let k = from_offset(k, &geometry.k);
    let v = from_offset(v, &geometry.v);
    let start = geometry.out.offset.min(arguments.out.len());
    let mut out = arguments.out.slice_mut(start..);
    let [offsets_q, offsets_k] = offsets(&arguments.mask);
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&plan.scalars).arg(&plan.blocks);
    builder.optional(&arguments.mask.kv_lengths);
    builder.optional(&offsets_q).optional(&offsets_k);
    builder.arg(&q).arg(&k).arg(&v);
    builder.optional(&arguments.mask.bias);
    let [partial_bytes, _] = plan.method.partial_bytes(geometry);
    let (mut partial, mut weights) = arguments.workspace.split_at_mut(partial_bytes);
    let (key_rows, splits);
    match plan.method {
        Method::Tiled { .. } | Method::F32 { .. } | Method::Hopper(_) | Method::HopperShort(_) => {
            builder.arg(&mut out).arg(&mut arguments.lse);
        }
        Method::Short { key_rows: rows, .. } => {
            key_rows = rows as i32;
            builder.arg(&mut out).arg(&mut arguments.lse).arg(&key_rows);
        }
        Method::Split { splits: count, .. } => {
            splits = count as i32;
            builder.arg(&mut partial).arg(&mut weights).arg(&splits);
        }
    }
    // SAFETY: the kernels take these structs, by value, then these pointers, and what their method
    // adds. They read queries, keys and values, and write the output, within their layouts, whose
    // spans the buffers were checked to hold at 16-byte alignment; bias, lengths, offsets and
    // log-sum-exps have the lengths that the geometry gives, what the integers say is clamped to
    // the extents, and the workspace was checked to hold both pieces that are written to it.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    match &plan.combine {
        Some((blocks, combine)) => launch_combine(context, plan, blocks, combine, arguments),
        None => Ok(()),
    }
}

/// Queues the kernel that adds the shares of the keys.
fn launch_combine<T: Float>(
    context: &Context,
    plan: &Plan,
    blocks: &Blocks,
    combine: &Launch,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let [offsets_q, offsets_k] = offsets(&arguments.mask);
    let [partial_bytes, _] = plan.method.partial_bytes(&plan.geometry);
    let (mut partial, mut weights) = arguments.workspace.split_at_mut(partial_bytes);
    let start = plan.geometry.out.offset.min(arguments.out.len());
    let mut out = arguments.out.slice_mut(start..);
    let parts = plan.method.parts() as i32;
    let function = context.function_for(combine)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&plan.scalars).arg(blocks);
    builder.optional(&arguments.mask.kv_lengths);
    builder.optional(&offsets_q).optional(&offsets_k);
    builder.arg(&mut partial).arg(&mut weights).arg(&parts);
    builder.arg(&mut out).arg(&mut arguments.lse);
    // SAFETY: as in `launch`; it reads what the launch before wrote, of the same parts.
    unsafe { builder.launch(combine.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// The offsets of packed queries and keys.
fn offsets<'a, T>(
    mask: &'a Mask<CudaView<'_, T>, CudaView<'_, i32>>,
) -> [Option<CudaView<'a, i32>>; 2] {
    match &mask.offsets {
        Some([q, k]) => [Some(q.slice(..)), Some(k.slice(..))],
        None => [None, None],
    }
}

/// Checks the buffers against the plan.
fn check<T: Float>(context: &Context, plan: &Plan, arguments: &mut Arguments<'_, T>) -> Result<()> {
    let geometry = &plan.geometry;
    check::planned_dtype::<T>(OP, "q", plan.dtype)?;
    let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
    let stream = context.stream();
    let [q, k, v] = arguments.qkv.parts();
    for (argument, view, layout, extents) in [
        ("q", q, &geometry.q, queries),
        ("k", k, &geometry.k, keys),
        ("v", v, &geometry.v, keys),
    ] {
        check_span(argument, view.len(), layout, extents)?;
        check_alignment(argument, view.device_ptr(stream).0)?;
    }
    check_span("out", arguments.out.len(), &geometry.out, queries)?;
    check_alignment("out", arguments.out.device_ptr_mut(stream).0)?;
    let packed = geometry.packed.is_some();
    let Mask {
        bias,
        kv_lengths,
        offsets,
    } = &arguments.mask;
    let offsets = offsets.as_ref();
    let of_batch = geometry.batch;
    check_length("lse", Some(arguments.lse.len()), Some(geometry.rows()))?;
    let bias_len = geometry.bias.map(|_| geometry.bias_len());
    check_length("bias", bias.as_ref().map(CudaView::len), bias_len)?;
    if let Some(lengths) = kv_lengths {
        check_length("kv_lengths", Some(lengths.len()), Some(of_batch))?;
    }
    for (argument, place) in [("offsets_q", 0), ("offsets_k", 1)] {
        let length = offsets.map(|offsets| offsets[place].len());
        check_length(argument, length, packed.then_some(of_batch + 1))?;
    }
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// Output, in a buffer that the geometry's layout covers, and log-sum-exp of whole buffers. See
/// `ops::attention`.
pub(crate) fn run<T: Float>(
    context: &Context,
    geometry: &Geometry,
    params: &Attention,
    qkv: Qkv<&Buffer>,
    mask: &Mask<&Buffer, &Buffer>,
) -> Result<[Buffer; 2]> {
    let plan = Plan::new(context.properties(), geometry, params, T::DTYPE)?;
    let elements = geometry.out.span(geometry.query_extents()).unwrap_or(0);
    let mut out = Buffer::uninitialised(context, T::DTYPE, elements)?;
    let mut lse = Buffer::uninitialised(context, DType::F32, geometry.rows())?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let offsets = match mask.offsets {
        Some([q, k]) => Some([q.view()?, k.view()?]),
        None => None,
    };
    let mut arguments = Arguments::<T> {
        qkv: qkv.try_map(|buffer| buffer.view())?,
        mask: Mask {
            bias: mask.bias.map(Buffer::view).transpose()?,
            kv_lengths: mask.kv_lengths.map(Buffer::view).transpose()?,
            offsets,
        },
        out: out.view_mut()?,
        lse: lse.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok([out, lse])
}
