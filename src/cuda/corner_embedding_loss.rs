//! Pull and push losses of corner embeddings on CUDA: a block an image, then one that adds their sums.

use super::check;
use super::context::driver_error;
pub use super::corner_losses::Extents;
use super::corner_losses::{launches, queue_finish};
use super::launch::{Kernel, Launch, OptionalArgument};
use super::{Buffer, Context, workspace};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::params::CornerEmbeddingLoss;
use cudarc::driver::{CudaView, CudaViewMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "corner_embedding_loss";
const IMAGE: &str = "corner_embedding_loss";
/// By type: f32, f16, bf16.
const LOSSES: [&str; 3] = [
    "corner_embedding_loss_image_f32",
    "corner_embedding_loss_image_f16",
    "corner_embedding_loss_image_bf16",
];
const FINISH: &str = "corner_embedding_loss_finish_f32";

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = LOSSES.into_iter().chain([FINISH]);
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
    losses: Launch,
    finish: Launch,
}

impl Plan {
    /// Plans for maps of type `dtype`.
    ///
    /// # Errors
    /// When `dtype` is no float type, or an extent is beyond what is numbered: 1024 boxes, 2^21 - 1
    /// images, 2^31 - 1 cells.
    pub fn new(extents: Extents, dtype: DType) -> Result<Self> {
        extents.check(OP)?;
        let symbol = check::of_dtype(OP, "map", LOSSES, dtype)?;
        let [losses, finish] = launches(IMAGE, [symbol, FINISH], extents.images);
        Ok(Self {
            extents,
            dtype,
            losses,
            finish,
        })
    }

    /// Bytes of workspace: two sums an image.
    pub fn workspace_bytes(&self) -> usize {
        workspace::piece(2 * size_of::<f64>() * self.extents.images)
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
             with gradients",
            self.dtype
        )?;
        writeln!(
            f,
            "  {}: a block an image, which holds its boxes in shared memory",
            self.losses
        )?;
        write!(
            f,
            "  {}: one thread a loss, so that the order of the sum is fixed",
            self.finish
        )
    }
}

/// Device buffers of one call. Pairs are of the top-left and of the bottom-right corners.
pub struct Arguments<'a, T> {
    /// Embeddings, `[B, H, W, 1]`.
    pub maps: [CudaView<'a, T>; 2],
    /// Cells, `[B, M]`.
    pub indices: [CudaView<'a, i32>; 2],
    /// One scalar that multiplies the gradients; 1 where there is none.
    pub upstream: Option<CudaView<'a, f32>>,
    /// Takes the pull and the push loss.
    pub losses: CudaViewMut<'a, f32>,
    /// Take the gradients, as long as the maps.
    pub gradients: Option<[CudaViewMut<'a, T>; 2]>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/corner_embedding_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    cells: i64,
    boxes: i32,
    pull_weight: f32,
    push_weight: f32,
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
    params: &CornerEmbeddingLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    params.check()?;
    check(context, plan, arguments)?;
    if plan.extents.images > 0 {
        queue_losses(context, plan, params, arguments)?;
    }
    let (images, workspace) = (plan.extents.images, &mut arguments.workspace);
    queue_finish(
        context,
        &plan.finish,
        images,
        workspace,
        &mut arguments.losses,
    )
}

fn queue_losses<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &CornerEmbeddingLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let scalars = Scalars {
        cells: plan.extents.cells as i64,
        boxes: plan.extents.boxes as i32,
        pull_weight: params.pull_weight,
        push_weight: params.push_weight,
        end: 0,
    };
    let function = context.function_for(&plan.losses)?;
    let mut builder = context.stream().launch_builder(&function);
    let null = 0u64;
    builder.arg(&scalars);
    builder.arg(&arguments.maps[0]).arg(&arguments.maps[1]);
    builder
        .arg(&arguments.indices[0])
        .arg(&arguments.indices[1]);
    builder
        .arg(&mut arguments.workspace)
        .optional(&arguments.upstream);
    match &mut arguments.gradients {
        Some([first, last]) => builder.arg(first).arg(last),
        None => builder.arg(&null).arg(&null),
    };
    // SAFETY: the kernel takes (Scalars, const T* twice, const int* twice, double*, const float*, T*
    // twice), upstream and gradients null or not; `plan` chose the one for `T`. `check` held every
    // length: a block touches its image's cells and boxes, and indices that are no cells are left out.
    unsafe { builder.launch(plan.losses.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "maps", plan.dtype)?;
    let Extents {
        images,
        cells,
        boxes,
    } = plan.extents;
    for corner in 0..2 {
        check::length(OP, "maps", arguments.maps[corner].len(), images * cells)?;
        check::length(
            OP,
            "indices",
            arguments.indices[corner].len(),
            images * boxes,
        )?;
        if let Some(gradients) = &arguments.gradients {
            check::length(OP, "gradients", gradients[corner].len(), images * cells)?;
        }
    }
    if let Some(upstream) = &arguments.upstream {
        check::length(OP, "upstream", upstream.len(), 1)?;
    }
    check::length(OP, "losses", arguments.losses.len(), 2)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// The losses of whole buffers, and their gradients where asked for, times `upstream`. See
/// [`ops::corner_embedding_loss`](crate::ops::corner_embedding_loss()).
pub(crate) fn run<T: Float>(
    context: &Context,
    maps: [&Buffer; 2],
    (indices, extents): ([&Buffer; 2], Extents),
    params: &CornerEmbeddingLoss,
    upstream: Option<&Buffer>,
    gradients: Option<&mut [Buffer; 2]>,
) -> Result<Buffer> {
    let plan = Plan::new(extents, T::DTYPE)?;
    let mut losses = Buffer::uninitialised(context, DType::F32, 2)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let gradients = match gradients {
        Some([first, last]) => Some([first.view_mut()?, last.view_mut()?]),
        None => None,
    };
    let mut arguments = Arguments::<T> {
        maps: [maps[0].view()?, maps[1].view()?],
        indices: [indices[0].view()?, indices[1].view()?],
        upstream: upstream.map(Buffer::view).transpose()?,
        losses: losses.view_mut()?,
        gradients,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok(losses)
}
