//! Sigmoid focal loss on CUDA: one pass over the logits by persistent blocks, then one small block
//! that adds their sums.

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, Launch};
use super::{Buffer, Context, Properties, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::SigmoidFocalLoss;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "sigmoid_focal_loss";
const IMAGE: &str = "sigmoid_focal_loss";

const FORWARD: [&str; 3] = [
    "sigmoid_focal_loss_forward_f32",
    "sigmoid_focal_loss_forward_f16",
    "sigmoid_focal_loss_forward_bf16",
];
const GRADIENT: [&str; 3] = [
    "sigmoid_focal_loss_gradient_f32",
    "sigmoid_focal_loss_gradient_f16",
    "sigmoid_focal_loss_gradient_bf16",
];
const FINISH: &str = "sigmoid_focal_loss_finish_f32";

/// Threads of a block: 8 warps, so that several blocks share a multiprocessor and their reductions
/// overlap.
const THREADS: u32 = 256;
/// Bytes of one load: the widest there is.
const VECTOR_BYTES: usize = 16;
/// Loads of a thread in a tile: enough work to pay for a tile's start, few enough to balance
/// blocks.
const VECTORS_PER_TILE: usize = 2;
/// Resident blocks aimed at: what the register file holds, as the kernels' launch bounds promise.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 5;
/// So many rows start at a multiple of 16 bytes, whatever the number of classes.
const ROW_GROUP: usize = 8;
/// The kernel numbers the elements of one tile, at least 8 rows, in 31 bits.
const MAX_CLASSES: usize = 1 << 27;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = FORWARD.into_iter().chain(GRADIENT).chain([FINISH]);
    symbols.map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How a problem is laid over the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    rows: usize,
    classes: usize,
    dtype: DType,
    gradient: bool,
    rows_per_tile: usize,
    pass: Launch,
    finish: Launch,
}

impl Plan {
    /// Plans for `rows` of `classes` logits of type `dtype`, with or without the gradient.
    ///
    /// # Errors
    /// When `dtype` is no float type, or there are more than 2^27 classes or 2^48 logits.
    pub fn new(
        gpu: &Properties,
        rows: usize,
        classes: usize,
        dtype: DType,
        gradient: bool,
    ) -> Result<Self> {
        if classes > MAX_CLASSES {
            return Err(Error::input(
                OP,
                "classes",
                format!("at most {MAX_CLASSES}"),
                classes,
            ));
        }
        if rows
            .checked_mul(classes)
            .is_none_or(|count| count > 1 << 48)
        {
            return Err(Error::input(
                OP,
                "rows * classes",
                "at most 2^48",
                format!("{rows} * {classes}"),
            ));
        }
        let symbols = if gradient { GRADIENT } else { FORWARD };
        let symbol = check::of_dtype(OP, "logits", symbols, dtype)?;
        let vector = VECTOR_BYTES / dtype.size();
        let tile = THREADS as usize * vector * VECTORS_PER_TILE;
        let rows_per_tile = tile.div_ceil(classes.max(1)).next_multiple_of(ROW_GROUP);
        let tiles = if classes == 0 {
            0
        } else {
            rows.div_ceil(rows_per_tile)
        };
        let resident = (gpu.multiprocessors * BLOCKS_PER_MULTIPROCESSOR).max(1);
        let blocks = u32::try_from(tiles).map_or(resident, |tiles| tiles.min(resident));
        let launch = |symbol, blocks| Launch {
            kernel: Kernel {
                image: IMAGE,
                symbol,
            },
            grid: [blocks, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        let (pass, finish) = (launch(symbol, blocks), launch(FINISH, 1));
        Ok(Self {
            rows,
            classes,
            dtype,
            gradient,
            rows_per_tile,
            pass,
            finish,
        })
    }

    /// Bytes of workspace: one sum a block.
    pub fn workspace_bytes(&self) -> usize {
        workspace::piece(self.pass.grid[0] as usize * size_of::<f64>())
    }

    fn logits(&self) -> usize {
        self.rows * self.classes
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.dtype.size();
        let moved = self.logits() * size * if self.gradient { 2 } else { 1 } + self.rows * 4;
        writeln!(
            f,
            "{OP} [{}, {}] {}: {moved} bytes at least",
            self.rows, self.classes, self.dtype
        )?;
        writeln!(
            f,
            "  {}: {} rows a tile ({VECTORS_PER_TILE} vectors a thread, 8 rows keep 16-byte \
             alignment), at most {BLOCKS_PER_MULTIPROCESSOR} blocks a multiprocessor (registers)",
            self.pass, self.rows_per_tile
        )?;
        write!(
            f,
            "  {}: one block, so that the order of the sum is fixed",
            self.finish
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// `rows * classes` logits. Any alignment; 16 bytes are fastest.
    pub logits: CudaView<'a, T>,
    /// `rows` labels.
    pub labels: CudaView<'a, i32>,
    /// One scalar that multiplies the gradient; 1 where there is none.
    pub upstream: Option<CudaView<'a, f32>>,
    /// Takes the loss, one element.
    pub loss: CudaViewMut<'a, f32>,
    /// Takes the gradient, as long as `logits`, where the plan has one.
    pub gradient: Option<CudaViewMut<'a, T>>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/sigmoid_focal_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    rows: i64,
    classes: i32,
    rows_per_tile: i32,
    by_classes: Divisor,
    positive_weight: f32,
    negative_weight: f32,
    gamma: f32,
    smoothed: f32,
    scale: f32,
    aligned: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 48);
    assert!(std::mem::offset_of!(Scalars, by_classes) == 16);
    assert!(std::mem::offset_of!(Scalars, positive_weight) == 24);
    assert!(std::mem::offset_of!(Scalars, aligned) == 44);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues the op on the context's stream: two launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment does not fit the plan;
/// [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &SigmoidFocalLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    check(context, plan, arguments)?;
    params.check()?;
    let blocks = plan.pass.grid[0];
    if blocks > 0 {
        launch_pass(context, plan, params, arguments)?;
    }
    let function = context.function_for(&plan.finish)?;
    let mut builder = context.stream().launch_builder(&function);
    let blocks = blocks as i32;
    builder.arg(&blocks).arg(&params.normalizer);
    builder
        .arg(&mut arguments.workspace)
        .arg(&mut arguments.loss);
    // SAFETY: the kernel takes (int, float, const double*, float*); it reads `blocks` sums, which
    // the workspace was checked to hold, and writes one element of the loss, checked to be there.
    unsafe { builder.launch(plan.finish.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn launch_pass<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &SigmoidFocalLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let stream = context.stream();
    let aligned = {
        let (logits, _guard) = arguments.logits.device_ptr(stream);
        let gradient = arguments
            .gradient
            .as_mut()
            .map_or(0, |gradient| gradient.device_ptr_mut(stream).0);
        (logits | gradient).is_multiple_of(VECTOR_BYTES as u64)
    };
    let scalars = Scalars {
        rows: plan.rows as i64,
        classes: plan.classes as i32,
        rows_per_tile: plan.rows_per_tile as i32,
        by_classes: Divisor::new(plan.classes as u32),
        positive_weight: params.alpha,
        negative_weight: 1.0 - params.alpha,
        gamma: params.gamma,
        smoothed: params.label_smoothing / 2.0,
        scale: 1.0 / params.normalizer,
        aligned: i32::from(aligned),
    };
    let function = context.function_for(&plan.pass)?;
    let mut builder = stream.launch_builder(&function);
    let null = 0u64;
    builder
        .arg(&scalars)
        .arg(&arguments.logits)
        .arg(&arguments.labels);
    builder.arg(&mut arguments.workspace);
    if let Some(gradient) = &mut arguments.gradient {
        match &arguments.upstream {
            Some(upstream) => builder.arg(upstream),
            None => builder.arg(&null),
        };
        builder.arg(gradient);
    }
    // SAFETY: the forward kernel takes (Scalars, const T*, const int*, double*), the gradient's
    // (.., const float*, T*) after them; `plan` chose the one for `T` and for whether there is a
    // gradient. `check` held every length: the kernel touches `rows * classes` logits and
    // gradients, `rows` labels, a sum a block and one upstream scalar.
    unsafe { builder.launch(plan.pass.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "logits", plan.dtype)?;
    check::length(OP, "logits", arguments.logits.len(), plan.logits())?;
    check::length(OP, "labels", arguments.labels.len(), plan.rows)?;
    check::length(OP, "loss", arguments.loss.len(), 1)?;
    if let Some(upstream) = &arguments.upstream {
        check::length(OP, "upstream", upstream.len(), 1)?;
    }
    let gradient = if plan.gradient { plan.logits() } else { 0 };
    check::length(
        OP,
        "gradient",
        arguments.gradient.as_ref().map_or(0, |view| view.len()),
        gradient,
    )?;
    if plan.gradient != arguments.gradient.is_some() {
        return Err(Error::input(
            OP,
            "gradient",
            "there exactly when planned",
            arguments.gradient.is_some(),
        ));
    }
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// The loss of whole buffers. See [`ops::sigmoid_focal_loss`](crate::ops::sigmoid_focal_loss()).
pub(crate) fn forward<T: Float>(
    context: &Context,
    logits: &Buffer,
    labels: &Buffer,
    classes: usize,
    params: &SigmoidFocalLoss,
) -> Result<Buffer> {
    let plan = Plan::new(context.properties(), labels.len(), classes, T::DTYPE, false)?;
    let mut loss = Buffer::uninitialised(context, DType::F32, 1)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut arguments = Arguments::<T> {
        logits: logits.view()?,
        labels: labels.view()?,
        upstream: None,
        loss: loss.view_mut()?,
        gradient: None,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok(loss)
}

/// Loss and gradient of whole buffers. See
/// [`ops::sigmoid_focal_loss_with_gradient`](crate::ops::sigmoid_focal_loss_with_gradient()).
pub(crate) fn forward_backward<T: Float>(
    context: &Context,
    logits: &Buffer,
    labels: &Buffer,
    classes: usize,
    params: &SigmoidFocalLoss,
    upstream: Option<&Buffer>,
) -> Result<(Buffer, Buffer)> {
    let plan = Plan::new(context.properties(), labels.len(), classes, T::DTYPE, true)?;
    let mut loss = Buffer::uninitialised(context, DType::F32, 1)?;
    let mut gradient = Buffer::uninitialised(context, T::DTYPE, logits.len())?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut arguments = Arguments::<T> {
        logits: logits.view()?,
        labels: labels.view()?,
        upstream: upstream.map(Buffer::view).transpose()?,
        loss: loss.view_mut()?,
        gradient: Some(gradient.view_mut()?),
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok((loss, gradient))
}
