//! Anchor decoding on CUDA: blocks that each keep the best keys of their part of the logits, then one block an image
//! and level that merges and decodes.

mod plan;

pub use plan::Plan;

use super::anchors::{Addresses, AnchorTable, addresses, views};
use super::check;
use super::context::driver_error;
use super::launch::{Kernel, OptionalArgument};
use super::workspace;
use super::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::params::anchors::MAX_LEVELS;
use crate::params::{AnchorDecode, Anchors};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};

const OP: &str = "anchor_decode";

const FILTER: [Kernel; 3] = [
    kernel("anchor_decode_filter_f32"),
    kernel("anchor_decode_filter_f16"),
    kernel("anchor_decode_filter_bf16"),
];
const SELECT: [Kernel; 3] = [
    kernel("anchor_decode_select_f32"),
    kernel("anchor_decode_select_f16"),
    kernel("anchor_decode_select_bf16"),
];

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "anchor_decode",
        symbol,
    }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    FILTER.into_iter().chain(SELECT)
}

/// Scalars, laid out as in `kernels/anchor_decode.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Scalars {
    classes: i32,
    topk: i32,
    capacity: i32,
    tiles_per_part: i32,
    parts: i32,
    max_output: i32,
    logit_threshold: f32,
    image_height: f32,
    image_width: f32,
    first_part: [i32; MAX_LEVELS + 1],
}
const _: () = assert!(size_of::<Scalars>() == 72);

// SAFETY: `repr(C)`, 4-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// Where the levels lie, as in `kernels/anchor_decode.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Heads {
    logits: Addresses,
    deltas: Addresses,
}

// SAFETY: `repr(C)`, 8-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Heads {}

/// Device buffers of one call. Shapes as in [`ops::anchor_decode`](crate::ops::anchor_decode).
pub struct Arguments<'a, T> {
    /// `[B, H, W, A * K]` of each level. Any alignment.
    pub logits: &'a [CudaView<'a, T>],
    /// `[B, H, W, A * 4]` of each level. Any alignment.
    pub deltas: &'a [CudaView<'a, T>],
    /// `[B, 2]`: height and width that the boxes of an image are clipped to; none for the anchors' image.
    pub image_sizes: Option<CudaView<'a, i32>>,
    /// `[B, M, 4]`, written whole, aligned to 16 bytes.
    pub boxes: CudaViewMut<'a, f32>,
    /// `[B, M]`, written whole.
    pub scores: CudaViewMut<'a, f32>,
    /// `[B, M]`, written whole.
    pub classes: CudaViewMut<'a, i32>,
    /// `[B]`, written whole.
    pub count: CudaViewMut<'a, i32>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: two launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when a buffer's length, type or alignment does not fit the plan; [`Error::ImageUnfit`](crate::Error::ImageUnfit) or
/// [`Error::Driver`](crate::Error::Driver).
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let heads = check(context, plan, arguments)?;
    let table = AnchorTable::new(&plan.anchors);
    // The stream orders both launches; the guard's events would add nothing.
    let (lists, _) = arguments.workspace.device_ptr_mut(context.stream());
    let found = lists + plan.list_bytes() as u64;

    let scalars = plan.scalars(&plan.filter);
    let function = context.function_for(&plan.filter)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&table).arg(&heads);
    builder.arg(&found).arg(&lists);
    // SAFETY: the arguments are those of anchor_decode_filter_T in its order; `check` saw that each level holds the
    // elements that the table's extents give, and the workspace a list of topk keys and a length a part.
    unsafe { builder.launch(plan.filter.config()) }.map_err(driver_error("launching a kernel"))?;

    let scalars = plan.scalars(&plan.select);
    let function = context.function_for(&plan.select)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&table).arg(&heads);
    builder
        .arg(&found)
        .arg(&lists)
        .optional(&arguments.image_sizes);
    builder.arg(&mut arguments.boxes).arg(&mut arguments.scores);
    builder
        .arg(&mut arguments.classes)
        .arg(&mut arguments.count);
    // SAFETY: the arguments are those of anchor_decode_select_T in its order; besides, `check` saw that the outputs
    // hold M candidates an image, and keys in the lists are indices of logits.
    unsafe { builder.launch(plan.select.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<Heads> {
    check::planned_dtype::<T>(OP, "logits", plan.dtype)?;
    let lengths = |channels: usize| {
        let levels = plan.anchors.levels().iter();
        levels.map(move |level| plan.images * level.count() * channels)
    };
    let (logits, deltas) = (arguments.logits, arguments.deltas);
    let heads = Heads {
        logits: addresses(OP, "logits", context, logits, lengths(plan.classes))?,
        deltas: addresses(OP, "deltas", context, deltas, lengths(4))?,
    };
    let all = plan.images * plan.max_output;
    let sizes = arguments.image_sizes.as_ref().map(CudaView::len);
    let lengths = [
        ("image_sizes", sizes, 2 * plan.images),
        ("boxes", Some(arguments.boxes.len()), 4 * all),
        ("scores", Some(arguments.scores.len()), all),
        ("classes", Some(arguments.classes.len()), all),
        ("count", Some(arguments.count.len()), plan.images),
    ];
    check::given_lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())?;
    Ok(heads)
}

/// Candidates in buffers of their own.
pub(crate) struct Decoded {
    pub boxes: Buffer,
    pub scores: Buffer,
    pub classes: Buffer,
    pub count: Buffer,
}

/// Queues the op on buffers of its own.
pub(crate) fn run<T: Float>(
    context: &Context,
    anchors: &Anchors,
    [images, classes]: [usize; 2],
    params: &AnchorDecode,
    [logits, deltas]: [&[&Buffer]; 2],
    image_sizes: Option<&Buffer>,
) -> Result<Decoded> {
    let gpu = context.properties();
    let plan = Plan::new(gpu, anchors, images, classes, T::DTYPE, params)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let all = images * plan.max_output;
    let mut decoded = Decoded {
        boxes: Buffer::uninitialised(context, DType::F32, 4 * all)?,
        scores: Buffer::uninitialised(context, DType::F32, all)?,
        classes: Buffer::uninitialised(context, DType::I32, all)?,
        count: Buffer::uninitialised(context, DType::I32, images)?,
    };
    let (logits, deltas) = (views::<T>(logits)?, views::<T>(deltas)?);
    let mut arguments = Arguments {
        logits: &logits,
        deltas: &deltas,
        image_sizes: image_sizes.map(Buffer::view).transpose()?,
        boxes: decoded.boxes.view_mut()?,
        scores: decoded.scores.view_mut()?,
        classes: decoded.classes.view_mut()?,
        count: decoded.count.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok(decoded)
}
