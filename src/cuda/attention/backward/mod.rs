//! The backward pass: statistics of the queries, then a kernel that owns keys and one that owns
//! queries, so that no sum crosses blocks; see DESIGN.md for why the scores are computed in each.

mod families;
mod hopper;
mod scalars;
mod stages;

use super::super::check;
use super::OP;
use super::buffers::{check_alignment, check_length, check_span, from_offset};
use crate::cuda::context::driver_error;
use crate::cuda::launch::{Kernel, OptionalArgument};
use crate::cuda::{Buffer, Context, Properties, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, GradientLayouts, Mask, Qkv};
use cudarc::driver::{
    CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, PushKernelArg, SyncOnDrop,
};
use families::Role;
use scalars::{BackwardScalars, statistics};
use stages::Stage;
use std::fmt;

/// Every kernel of the backward pass.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    stages::kernels()
}

/// How a problem is laid over the GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    geometry: Geometry,
    gradients: GradientLayouts,
    dtype: DType,
    dbias: bool,
    scalars: BackwardScalars,
    stages: Vec<Stage>,
    /// Why the GPU's own kernels are left out.
    left_out: Option<&'static str>,
}

impl Plan {
    /// Plans for this geometry, with the gradient of the bias or without.
    ///
    /// # Errors
    /// When `geometry`, `gradients` or `params` break a rule of theirs, `dtype` is no float type,
    /// the gradient of a bias is wanted where there is none, or the GPU's blocks have too little
    /// shared memory.
    pub fn new(
        gpu: &Properties,
        geometry: &Geometry,
        gradients: &GradientLayouts,
        params: &Attention,
        dtype: DType,
        dbias: bool,
    ) -> Result<Self> {
        if !dtype.is_float() {
            return Err(Error::input(OP, "q", "of type f32, f16 or bf16", dtype));
        }
        geometry.check(dtype.size())?;
        gradients.check(geometry, dtype.size())?;
        params.check()?;
        if dbias && geometry.bias.is_none() {
            return Err(Error::input(OP, "dbias", "wanted only of a bias", dbias));
        }
        let (stages, left_out) = Stage::all(gpu, geometry, gradients, params, dtype, dbias)?;
        let shared = stages.iter().map(|stage| stage.launch.shared_bytes).max();
        let (shared, has) = (shared.unwrap_or(0), gpu.shared_bytes_per_block);
        if shared > has {
            let rule = format!("at least {shared} bytes a block");
            return Err(Error::input(OP, "the GPU's shared memory", rule, has));
        }
        Ok(Self {
            geometry: *geometry,
            gradients: *gradients,
            dtype,
            dbias,
            scalars: BackwardScalars::new(geometry, gradients, params),
            stages,
            left_out,
        })
    }

    /// Bytes of workspace: two statistics a query and head.
    pub fn workspace_bytes(&self) -> usize {
        2 * self.piece()
    }

    /// Bytes of one kind of statistics.
    fn piece(&self) -> usize {
        workspace::piece(statistics(&self.geometry) * size_of::<f32>())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, queries, heads, dim] = self.geometry.query_extents();
        let [_, keys, kv_heads, _] = self.geometry.key_extents();
        write!(
            f,
            "{OP} backward [{batch}, {queries}, {heads}, {dim}] on [{batch}, {keys}, {kv_heads}, \
             {dim}] {}",
            self.dtype
        )?;
        if let Some(reason) = self.left_out {
            write!(f, "; not the kernels for sm_90a: {reason}")?;
        }
        self.stages
            .iter()
            .try_for_each(|stage| write!(f, "\n  {stage}"))
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// Queries, keys and values, laid out as the geometry says, at multiples of 16 bytes.
    pub qkv: Qkv<CudaView<'a, T>>,
    /// Bias exactly where the geometry has one; offsets exactly where sequences are packed.
    pub mask: Mask<CudaView<'a, T>, CudaView<'a, i32>>,
    /// The forward pass's output.
    pub out: CudaView<'a, T>,
    /// The forward pass's log-sum-exps, `[B, H, Nq]` or, of packed sequences, `[H, Tq]`.
    pub lse: CudaView<'a, f32>,
    /// Gradient of the output, laid out as the gradients' layouts say.
    pub dout: CudaView<'a, T>,
    /// Gradient of the log-sum-exps; zeros where there is none.
    pub dlse: Option<CudaView<'a, f32>>,
    /// Takes the gradients of queries, keys and values, laid out as the gradients' layouts say.
    pub dqkv: Qkv<CudaViewMut<'a, T>>,
    /// Takes the gradient of the bias, as long as the bias, where the plan has one.
    pub dbias: Option<CudaViewMut<'a, T>>,
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
    check_buffers(context, plan, arguments)?;
    if plan.geometry.batch == 0 && plan.geometry.packed.is_none() {
        return Ok(());
    }
    plan.stages
        .iter()
        .try_for_each(|stage| launch_stage(context, plan, stage, arguments))
}

fn launch_stage<T: Float>(
    context: &Context,
    plan: &Plan,
    stage: &Stage,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let Plan {
        geometry,
        gradients,
        ..
    } = plan;
    if stage.role == Role::Bias && geometry.bias_len() == 0 {
        return Ok(());
    }
    let stream = context.stream();
    let [q, k, v] = arguments.qkv.parts();
    let q = from_offset(q, &geometry.q);
    let k = from_offset(k, &geometry.k);
    let v = from_offset(v, &geometry.v);
    let out = from_offset(&arguments.out, &geometry.out);
    let dout = from_offset(&arguments.dout, &gradients.dout);
    let [offsets_q, offsets_k] = match &arguments.mask.offsets {
        Some([q, k]) => [Some(q.slice(..)), Some(k.slice(..))],
        None => [None, None],
    };
    let piece = plan.piece();
    let (mut log_sum_exps, mut rest) = arguments.workspace.split_at_mut(piece);
    let mut deltas = rest.slice_mut(..piece);
    let ([dq, dk, dv], _written) = addresses(&mut arguments.dqkv, gradients, stream);

    let maps = match stage.boxes {
        Some(boxes) => {
            let starts = [&q, &k, &v, &dout].map(|view| view.device_ptr(stream).0);
            Some(hopper::maps(geometry, gradients, T::DTYPE, boxes, starts)?)
        }
        None => None,
    };
    let function = context.function_for(&stage.launch)?;
    let mut builder = stream.launch_builder(&function);
    for map in maps.iter().flatten() {
        builder.arg(map);
    }
    builder.arg(&plan.scalars).arg(&stage.blocks);
    if stage.role == Role::Rows {
        builder.arg(&out).arg(&dout).arg(&arguments.lse);
        builder.optional(&arguments.dlse).optional(&offsets_q);
        builder.arg(&mut log_sum_exps).arg(&mut deltas);
    } else {
        builder.arg(&q).arg(&k).arg(&v).arg(&dout);
        builder.optional(&arguments.mask.bias);
        builder.arg(&mut log_sum_exps).arg(&mut deltas);
        builder.optional(&arguments.mask.kv_lengths);
        builder.optional(&offsets_q).optional(&offsets_k);
    }
    match (stage.role, &mut arguments.dbias) {
        (Role::Rows, _) => &mut builder,
        (Role::Keys, _) => builder.arg(&dk).arg(&dv),
        (Role::Queries, _) => builder.arg(&dq),
        (Role::All, _) => builder.arg(&dq).arg(&dk).arg(&dv),
        (Role::Bias, Some(dbias)) => builder.arg(dbias),
        (Role::Bias, None) => return Ok(()),
    };
    // SAFETY: each kernel takes the maps where it has boxes, and the two structs, by value, and then
    // the pointers of its role, in this order. They, and the copy engine, stay within the layouts,
    // whose spans the buffers were checked to hold at 16-byte alignment; bias, lengths, offsets,
    // log-sum-exps and their gradient have the lengths that the geometry gives, the workspace holds
    // both kinds of statistics, and what the integers say is clamped to the extents. The gradients'
    // addresses are those of `dqkv`, borrowed here.
    unsafe { builder.launch(stage.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// Addresses of the gradients of queries, keys and values, and what keeps their buffers in use.
fn addresses<'a, T: Float>(
    dqkv: &'a mut Qkv<CudaViewMut<'_, T>>,
    gradients: &GradientLayouts,
    stream: &'a CudaStream,
) -> ([u64; 3], [Option<SyncOnDrop<'a>>; 3]) {
    let offsets = [gradients.dq, gradients.dk, gradients.dv]
        .map(|layout| (layout.offset * T::DTYPE.size()) as u64);
    let (starts, guards) = match dqkv {
        Qkv::Separate { q, k, v } => {
            let (q, of_q) = q.device_ptr_mut(stream);
            let (k, of_k) = k.device_ptr_mut(stream);
            let (v, of_v) = v.device_ptr_mut(stream);
            ([q, k, v], [Some(of_q), Some(of_k), Some(of_v)])
        }
        Qkv::Packed(all) => {
            let (all, guard) = all.device_ptr_mut(stream);
            ([all; 3], [Some(guard), None, None])
        }
    };
    let address = |part: usize| starts[part] + offsets[part];
    ([address(0), address(1), address(2)], guards)
}

/// Checks the buffers against the plan.
fn check_buffers<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let Plan {
        geometry,
        gradients,
        ..
    } = plan;
    check::planned_dtype::<T>(OP, "q", plan.dtype)?;
    let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
    let stream = context.stream();
    let [q, k, v] = arguments.qkv.parts();
    for (argument, view, layout, extents) in [
        ("q", q, &geometry.q, queries),
        ("k", k, &geometry.k, keys),
        ("v", v, &geometry.v, keys),
        ("out", &arguments.out, &geometry.out, queries),
        ("dout", &arguments.dout, &gradients.dout, queries),
    ] {
        check_span(argument, view.len(), layout, extents)?;
        check_alignment(argument, view.device_ptr(stream).0)?;
    }
    if let Qkv::Packed(_) = arguments.dqkv {
        gradients.check_packed(geometry)?;
    }
    let [dq, dk, dv] = arguments.dqkv.parts().map(|view| view.len());
    check_span("dq", dq, &gradients.dq, queries)?;
    check_span("dk", dk, &gradients.dk, keys)?;
    check_span("dv", dv, &gradients.dv, keys)?;
    let (starts, _) = addresses(&mut arguments.dqkv, gradients, stream);
    for (argument, start) in ["dq", "dk", "dv"].into_iter().zip(starts) {
        check_alignment(argument, start)?;
    }
    check_small(plan, arguments)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// Checks the buffers that have no layout.
fn check_small<T: Float>(plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    let geometry = &plan.geometry;
    let Mask {
        bias,
        kv_lengths,
        offsets,
    } = &arguments.mask;
    let rows = Some(geometry.rows());
    check_length("lse", Some(arguments.lse.len()), rows)?;
    if let Some(dlse) = &arguments.dlse {
        check_length("dlse", Some(dlse.len()), rows)?;
    }
    let bias_len = geometry.bias.map(|_| geometry.bias_len());
    check_length("bias", bias.as_ref().map(CudaView::len), bias_len)?;
    let dbias_len = bias_len.filter(|_| plan.dbias);
    check_length(
        "dbias",
        arguments.dbias.as_ref().map(CudaViewMut::len),
        dbias_len,
    )?;
    if let Some(lengths) = kv_lengths {
        check_length("kv_lengths", Some(lengths.len()), Some(geometry.batch))?;
    }
    let expected = geometry.packed.map(|_| geometry.batch + 1);
    for (argument, place) in [("offsets_q", 0), ("offsets_k", 1)] {
        let length = offsets.as_ref().map(|offsets| offsets[place].len());
        check_length(argument, length, expected)?;
    }
    Ok(())
}

/// What came of the forward pass, and the gradients that come from above.
pub(crate) struct Upstream<'a> {
    /// Output.
    pub out: &'a Buffer,
    /// Log-sum-exps.
    pub lse: &'a Buffer,
    /// Gradient of the output.
    pub dout: &'a Buffer,
    /// Gradient of the log-sum-exps, where there is one.
    pub dlse: Option<&'a Buffer>,
}

/// Gradients of queries, keys and values, each in a buffer as long as its input, and of the bias,
/// of whole buffers. See `ops::attention_backward`.
#[allow(clippy::too_many_arguments, reason = "the op's own arguments")]
pub(crate) fn run<T: Float>(
    context: &Context,
    geometry: &Geometry,
    gradients: &GradientLayouts,
    params: &Attention,
    qkv: Qkv<&Buffer>,
    mask: &Mask<&Buffer, &Buffer>,
    upstream: &Upstream<'_>,
    dbias: bool,
) -> Result<(Qkv<Buffer>, Option<Buffer>)> {
    let gpu = context.properties();
    let plan = Plan::new(gpu, geometry, gradients, params, T::DTYPE, dbias)?;
    let like = |buffer: &Buffer| Buffer::uninitialised(context, T::DTYPE, buffer.len());
    let mut dqkv = qkv.try_map(like)?;
    let mut of_bias = match mask.bias {
        Some(bias) if dbias => Some(like(bias)?),
        _ => None,
    };
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let offsets = match mask.offsets {
        Some([q, k]) => Some([q.view()?, k.view()?]),
        None => None,
    };
    let dqkv_views = match &mut dqkv {
        Qkv::Separate { q, k, v } => Qkv::Separate {
            q: q.view_mut()?,
            k: k.view_mut()?,
            v: v.view_mut()?,
        },
        Qkv::Packed(all) => Qkv::Packed(all.view_mut()?),
    };
    let mut arguments = Arguments::<T> {
        qkv: qkv.try_map(|buffer| buffer.view())?,
        mask: Mask {
            bias: mask.bias.map(Buffer::view).transpose()?,
            kv_lengths: mask.kv_lengths.map(Buffer::view).transpose()?,
            offsets,
        },
        out: upstream.out.view()?,
        lse: upstream.lse.view()?,
        dout: upstream.dout.view()?,
        dlse: upstream.dlse.map(Buffer::view).transpose()?,
        dqkv: dqkv_views,
        dbias: of_bias.as_mut().map(Buffer::view_mut).transpose()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok((dqkv, of_bias))
}
