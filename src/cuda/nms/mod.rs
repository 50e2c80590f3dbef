//! Non-maximum suppression on CUDA: one launch where the boxes of an image fit on chip; sorted runs and chunks otherwise.

mod plan;

pub use plan::Plan;
pub(super) use plan::kernels;

use super::check;
use super::context::driver_error;
use super::launch::{Launch, OptionalArgument};
use super::workspace;
use super::{Buffer, Context};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Nms;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};
use plan::Route;

const OP: &str = "nms";

/// Scalars, laid out as in `kernels/nms.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Scalars {
    iou_threshold: f32,
    score_threshold: f32,
    boxes_per_image: i32,
    max_output: i32,
    run_length: i32,
    chunk: i32,
}
const _: () = assert!(size_of::<Scalars>() == 24);

// SAFETY: `repr(C)`, no padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// Device buffers of one call. Shapes as in [`ops::nms`](crate::ops::nms), for the plan's images and boxes.
pub struct Arguments<'a> {
    /// `[B, N, 4]`, aligned to 16 bytes.
    pub boxes: CudaView<'a, f32>,
    /// `[B, N]`.
    pub scores: CudaView<'a, f32>,
    /// `[B, N]`, or none for one class.
    pub classes: Option<CudaView<'a, i32>>,
    /// `[B]`: boxes of each image that take part, or none for all.
    pub counts: Option<CudaView<'a, i32>>,
    /// `[B, max_output]`, written whole.
    pub indices: CudaViewMut<'a, i32>,
    /// `[B]`, written whole.
    pub kept: CudaViewMut<'a, i32>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment does not fit the plan; [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch(
    context: &Context,
    plan: &Plan,
    params: &Nms,
    arguments: &mut Arguments<'_>,
) -> Result<()> {
    let max_output = params.check(plan.boxes_per_image)?;
    if max_output != plan.max_output {
        let rule = format!("the plan's {}", plan.max_output);
        return Err(Error::input(OP, "max_output", rule, max_output));
    }
    check(context, plan, arguments)?;
    let scalars = Scalars {
        iou_threshold: params.iou_threshold,
        score_threshold: params.score_threshold.unwrap_or(f32::NAN),
        boxes_per_image: plan.boxes_per_image as i32,
        max_output: plan.max_output as i32,
        run_length: 0,
        chunk: 0,
    };
    match &plan.route {
        Route::Block(block) => run_block(context, block, scalars, arguments),
        Route::Chunks { sort, merge, chunk } => {
            // The stream orders all launches; the guard's events would add nothing.
            let (address, _) = arguments.workspace.device_ptr_mut(context.stream());
            let buffers = [address, address + plan.key_bytes() as u64];
            let chunk_kept = address + 2 * plan.key_bytes() as u64;
            run_sort(context, sort, scalars, arguments, buffers[0], chunk_kept)?;
            let sorted = run_merges(context, merge, scalars, plan.merges(), buffers)?;
            let chunks = plan.chunks() as i32;
            (0..chunks).try_for_each(|index| {
                let scalars = Scalars {
                    chunk: index,
                    ..scalars
                };
                run_chunk(
                    context, chunk, scalars, arguments, chunks, sorted, chunk_kept,
                )
            })
        }
    }
}

/// Queues the op on buffers of its own: indices and counts.
pub(crate) fn run(
    context: &Context,
    [images, boxes_per_image, max_output]: [usize; 3],
    params: &Nms,
    [boxes, scores]: [&Buffer; 2],
    classes: Option<&Buffer>,
    counts: Option<&Buffer>,
) -> Result<(Buffer, Buffer)> {
    let plan = Plan::new(context.properties(), images, boxes_per_image, max_output)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut indices = Buffer::uninitialised(context, DType::I32, images * max_output)?;
    let mut kept = Buffer::uninitialised(context, DType::I32, images)?;
    let mut arguments = Arguments {
        boxes: boxes.view()?,
        scores: scores.view()?,
        classes: classes.map(Buffer::view).transpose()?,
        counts: counts.map(Buffer::view).transpose()?,
        indices: indices.view_mut()?,
        kept: kept.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok((indices, kept))
}

fn check(context: &Context, plan: &Plan, arguments: &Arguments<'_>) -> Result<()> {
    let (images, all) = (plan.images, plan.images * plan.boxes_per_image);
    let lengths = [
        ("boxes", Some(arguments.boxes.len()), 4 * all),
        ("scores", Some(arguments.scores.len()), all),
        (
            "classes",
            arguments.classes.as_ref().map(CudaView::len),
            all,
        ),
        (
            "counts",
            arguments.counts.as_ref().map(CudaView::len),
            images,
        ),
        (
            "indices",
            Some(arguments.indices.len()),
            images * plan.max_output,
        ),
        ("kept", Some(arguments.kept.len()), images),
    ];
    check::given_lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

fn run_block(
    context: &Context,
    launch: &Launch,
    scalars: Scalars,
    arguments: &mut Arguments<'_>,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.boxes)
        .arg(&arguments.scores);
    builder
        .optional(&arguments.classes)
        .optional(&arguments.counts);
    builder.arg(&mut arguments.indices).arg(&mut arguments.kept);
    // SAFETY: the arguments are those of nms_block_f32 in its order; `check` saw that each view holds what the plan's
    // grid indexes, and the shared memory holds the next power of two of keys.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}

fn run_sort(
    context: &Context,
    launch: &Launch,
    scalars: Scalars,
    arguments: &mut Arguments<'_>,
    keys: u64,
    chunk_kept: u64,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.boxes)
        .arg(&arguments.scores)
        .optional(&arguments.counts);
    builder
        .arg(&keys)
        .arg(&mut arguments.indices)
        .arg(&chunk_kept);
    // SAFETY: the arguments are those of nms_sort_f32 in its order; the two addresses are pieces of the workspace,
    // as long as `workspace_bytes` counts them.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}

/// Returns the buffer that holds the sorted keys in the end.
fn run_merges(
    context: &Context,
    launch: &Launch,
    scalars: Scalars,
    runs: impl Iterator<Item = usize>,
    [mut from, mut to]: [u64; 2],
) -> Result<u64> {
    let function = context.function_for(launch)?;
    for run in runs {
        let scalars = Scalars {
            run_length: run as i32,
            ..scalars
        };
        let mut builder = context.stream().launch_builder(&function);
        builder.arg(&scalars).arg(&from).arg(&to);
        // SAFETY: the arguments are those of nms_merge_keys in its order; the buffers are distinct pieces of the
        // workspace with a key a thread.
        unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
        (from, to) = (to, from);
    }
    Ok(from)
}

fn run_chunk(
    context: &Context,
    launch: &Launch,
    scalars: Scalars,
    arguments: &mut Arguments<'_>,
    chunks: i32,
    keys: u64,
    chunk_kept: u64,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&arguments.boxes);
    builder
        .optional(&arguments.classes)
        .optional(&arguments.counts);
    builder.arg(&chunks).arg(&keys).arg(&chunk_kept);
    builder.arg(&mut arguments.indices).arg(&mut arguments.kept);
    // SAFETY: the arguments are those of nms_chunk_f32 in its order; keys in the workspace are indices below the
    // image's count, or none.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}
