//! Smooth-L1 loss of corner offsets on CUDA: a block an image, then one that adds their sums.

use super::check;
use super::context::driver_error;
pub use super::corner_losses::Extents;
use super::corner_losses::{launches, queue_finish};
use super::launch::{Kernel, Launch, OptionalArgument};
use super::{Buffer, Context, workspace};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::params::CornerOffsetLoss;
use cudarc::driver::{CudaView, CudaViewMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "corner_offset_loss";
const IMAGE: &str = "corner_offset_loss";
/// By type: f32, f16, bf16.
const LOSS: [&str; 3] = [
    "corner_offset_loss_image_f32",
    "corner_offset_loss_image_f16",
    "corner_offset_loss_image_bf16",
];
const FINISH: &str = "corner_offset_loss_finish_f32";

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = LOSS.into_iter().chain([FINISH]);
    symbols.map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How a batch is laid over the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    extents: Extents,
    dtype: DType,
    loss: Launch,
    finish: Launch,
}

impl Plan {
    /// Plans for a map of type `dtype`.
    ///
    /// # Errors
    /// When `dtype` is no float type, or an extent is beyond what is numbered: 1024 boxes, 2^21 - 1
    /// images, 2^31 - 1 cells.
    pub fn new(extents: Extents, dtype: DType) -> Result<Self> {
        extents.check(OP)?;
        let symbol = check::of_dtype(OP, "map", LOSS, dtype)?;
        let [loss, finish] = launches(IMAGE, [symbol, FINISH], extents.images);
        Ok(Self {
            extents,
            dtype,
            loss,
            finish,
        })
    }

    /// Bytes of workspace: one sum an image.
    pub fn workspace_bytes(&self) -> usize {
        workspace::piece(size_of::<f64>() * self.extents.images)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extents {
            images,
            cells,
            boxes,
        } = self.extents;
        let gradient = 2 * images * cells * self.dtype.size();
        writeln!(
            f,
            "{OP} {images} images of {cells} cells and {boxes} boxes, {}: {gradient} bytes at least \
             with the gradient",
            self.dtype
        )?;
        writeln!(
            f,
            "  {}: a block an image, each counting the batch's boxes",
            self.loss
        )?;
        write!(
            f,
            "  {}: one thread, so that the order of the sum is fixed",
            self.finish
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// Offsets, `[B, H, W, 2]`.
    pub offsets: CudaView<'a, T>,
    /// Cells, `[B, M]`.
    pub indices: CudaView<'a, i32>,
    /// `[B, M, 2]`.
    pub targets: CudaView<'a, f32>,
    /// One scalar that multiplies the gradient; 1 where there is none.
    pub upstream: Option<CudaView<'a, f32>>,
    /// Takes the loss, one element.
    pub loss: CudaViewMut<'a, f32>,
    /// Takes the gradient, as long as the offsets.
    pub gradient: Option<CudaViewMut<'a, T>>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/corner_offset_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    cells: i64,
    boxes: i32,
    images: i32,
    weight: f32,
    /// Fills the struct to its alignment.
    end: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 24);
    assert!(std::mem::offset_of!(Scalars, boxes) == 8);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues the op on the context's stream: two launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when a buffer or a scalar does not fit the plan; [`Error::ImageUnfit`](crate::Error::ImageUnfit) or
/// [`Error::Driver`](crate::Error::Driver).
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &CornerOffsetLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    params.check()?;
    check(context, plan, arguments)?;
    if plan.extents.images > 0 {
        queue_loss(context, plan, params, arguments)?;
    }
    let (images, workspace) = (plan.extents.images, &mut arguments.workspace);
    queue_finish(
        context,
        &plan.finish,
        images,
        workspace,
        &mut arguments.loss,
    )
}

fn queue_loss<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &CornerOffsetLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let scalars = Scalars {
        cells: plan.extents.cells as i64,
        boxes: plan.extents.boxes as i32,
        images: plan.extents.images as i32,
        weight: params.weight,
        end: 0,
    };
    let function = context.function_for(&plan.loss)?;
    let mut builder = context.stream().launch_builder(&function);
    let null = 0u64;
    builder.arg(&scalars).arg(&arguments.offsets);
    builder.arg(&arguments.indices).arg(&arguments.targets);
    builder
        .arg(&mut arguments.workspace)
        .optional(&arguments.upstream);
    match &mut arguments.gradient {
        Some(gradient) => builder.arg(gradient),
        None => builder.arg(&null),
    };
    // SAFETY: the kernel takes (Scalars, const T*, const int*, const float*, double*, const float*, T*),
    // upstream and gradient null or not; `plan` chose the one for `T`. `check` held every length: a
    // block touches its image's cells and boxes and all indices, and indices that are no cells are left
    // out.
    unsafe { builder.launch(plan.loss.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "offsets", plan.dtype)?;
    let Extents {
        images,
        cells,
        boxes,
    } = plan.extents;
    check::length(OP, "offsets", arguments.offsets.len(), 2 * images * cells)?;
    check::length(OP, "indices", arguments.indices.len(), images * boxes)?;
    check::length(OP, "targets", arguments.targets.len(), 2 * images * boxes)?;
    check::length(OP, "loss", arguments.loss.len(), 1)?;
    if let Some(upstream) = &arguments.upstream {
        check::length(OP, "upstream", upstream.len(), 1)?;
    }
    if let Some(gradient) = &arguments.gradient {
        check::length(OP, "gradient", gradient.len(), 2 * images * cells)?;
    }
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// The loss of whole buffers, and its gradient where asked for, times `upstream`. See
/// [`ops::corner_offset_loss`](crate::ops::corner_offset_loss()).
pub(crate) fn run<T: Float>(
    context: &Context,
    offsets: &Buffer,
    (indices, targets, extents): (&Buffer, &Buffer, Extents),
    params: &CornerOffsetLoss,
    upstream: Option<&Buffer>,
    gradient: Option<&mut Buffer>,
) -> Result<Buffer> {
    let plan = Plan::new(extents, T::DTYPE)?;
    let mut loss = Buffer::uninitialised(context, DType::F32, 1)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut arguments = Arguments::<T> {
        offsets: offsets.view()?,
        indices: indices.view()?,
        targets: targets.view()?,
        upstream: upstream.map(Buffer::view).transpose()?,
        loss: loss.view_mut()?,
        gradient: gradient.map(Buffer::view_mut).transpose()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok(loss)
}
