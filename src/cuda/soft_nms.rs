//! Soft non-maximum suppression on CUDA: one launch, a block an image.

use super::check;
use super::context::driver_error;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::workspace::{self, piece};
use super::{Buffer, Context};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::nms::MAX_BOXES;
use crate::params::{SoftNms, SoftNmsMethod};
use cudarc::driver::{CudaView, CudaViewMut, DeviceRepr, PushKernelArg};
use std::fmt;

const REGISTERS: Kernel = kernel("soft_nms_registers_f32");
const MEMORY: Kernel = kernel("soft_nms_memory_f32");

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "soft_nms",
        symbol,
    }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    [REGISTERS, MEMORY].into_iter()
}

const OP: &str = "soft_nms";
/// Threads of a block of `kernels/soft_nms.cu`.
const THREADS: u32 = 512;
/// Boxes that a thread holds in registers.
const BOXES_A_THREAD: usize = 10;
/// Images are blocks in x; as many as [`nms`](super::nms) takes.
const MAX_IMAGES: usize = 65_535;

/// Scalars, laid out as in `kernels/soft_nms.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    sigma: f32,
    iou_threshold: f32,
    score_threshold: f32,
    extra: f32,
    gaussian: i32,
    boxes_per_image: i32,
    max_output: i32,
}
const _: () = assert!(size_of::<Scalars>() == 28);

// SAFETY: `repr(C)`, no padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// What one call launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    images: usize,
    boxes_per_image: usize,
    max_output: usize,
    launch: Launch,
}

impl Plan {
    /// Plans for `images` of `boxes_per_image` boxes.
    ///
    /// # Errors
    /// When one of the three is 0, for which there is nothing to launch, or there are more than 65535 images or 2^20 boxes.
    pub fn new(images: usize, boxes_per_image: usize, max_output: usize) -> Result<Self> {
        let extents = [
            ("images", images, MAX_IMAGES),
            ("boxes", boxes_per_image, MAX_BOXES),
            ("max_output", max_output, boxes_per_image),
        ];
        for (argument, extent, most) in extents {
            if extent == 0 || extent > most {
                let rule = format!("in [1, {most}]");
                return Err(Error::input(OP, argument, rule, extent));
            }
        }
        let on_chip = boxes_per_image <= BOXES_A_THREAD * THREADS as usize;
        let launch = Launch {
            kernel: if on_chip { REGISTERS } else { MEMORY },
            grid: [images as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        Ok(Self {
            images,
            boxes_per_image,
            max_output,
            launch,
        })
    }

    fn in_memory(&self) -> bool {
        self.launch.kernel == MEMORY
    }

    /// Bytes of workspace: a score a box where they do not stay in registers.
    pub fn workspace_bytes(&self) -> usize {
        if self.in_memory() {
            piece(4 * self.images * self.boxes_per_image)
        } else {
            0
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let where_to = if self.in_memory() {
            format!(
                "scores in {} bytes of workspace (more than {BOXES_A_THREAD} boxes a thread would spill)",
                self.workspace_bytes()
            )
        } else {
            format!("at most {BOXES_A_THREAD} boxes a thread in registers (more would spill)")
        };
        write!(
            f,
            "{OP} [{}, {}], at most {} kept: {} bytes at least\n  {}: a block an image (every kept box \
             changes the next choice), {where_to}",
            self.images,
            self.boxes_per_image,
            self.max_output,
            self.images * (24 * self.boxes_per_image + 8 * self.max_output + 4),
            self.launch,
        )
    }
}

/// Device buffers of one call. Shapes as in [`ops::soft_nms`](crate::ops::soft_nms), for the plan's images and boxes.
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
    /// `[B, max_output]`, written whole.
    pub kept_scores: CudaViewMut<'a, f32>,
    /// `[B]`, written whole.
    pub kept: CudaViewMut<'a, i32>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment, or the scalars' `max_output`, does not fit the plan;
/// [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch(
    context: &Context,
    plan: &Plan,
    params: &SoftNms,
    arguments: &mut Arguments<'_>,
) -> Result<()> {
    let max_output = params.check(plan.boxes_per_image)?;
    if max_output != plan.max_output {
        let rule = format!("the plan's {}", plan.max_output);
        return Err(Error::input(OP, "max_output", rule, max_output));
    }
    check(context, plan, arguments)?;
    let scalars = Scalars {
        sigma: params.sigma,
        iou_threshold: params.iou_threshold,
        score_threshold: params.score_threshold,
        extra: params.extra(),
        gaussian: i32::from(params.method == SoftNmsMethod::Gaussian),
        boxes_per_image: plan.boxes_per_image as i32,
        max_output: plan.max_output as i32,
    };
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.boxes)
        .arg(&arguments.scores);
    builder
        .optional(&arguments.classes)
        .optional(&arguments.counts);
    if plan.in_memory() {
        builder.arg(&mut arguments.workspace);
    }
    builder
        .arg(&mut arguments.indices)
        .arg(&mut arguments.kept_scores)
        .arg(&mut arguments.kept);
    // SAFETY: the arguments are those of the planned kernel in its order; `check` saw that each view holds what the
    // grid indexes, and the workspace a score a box where that kernel takes one.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching soft_nms"))?;
    Ok(())
}

/// Queues the op on buffers of its own: indices, scores and counts.
pub(crate) fn run(
    context: &Context,
    [images, boxes_per_image, max_output]: [usize; 3],
    params: &SoftNms,
    [boxes, scores]: [&Buffer; 2],
    classes: Option<&Buffer>,
    counts: Option<&Buffer>,
) -> Result<[Buffer; 3]> {
    let plan = Plan::new(images, boxes_per_image, max_output)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut indices = Buffer::uninitialised(context, DType::I32, images * max_output)?;
    let mut kept_scores = Buffer::uninitialised(context, DType::F32, images * max_output)?;
    let mut kept = Buffer::uninitialised(context, DType::I32, images)?;
    let mut arguments = Arguments {
        boxes: boxes.view()?,
        scores: scores.view()?,
        classes: classes.map(Buffer::view).transpose()?,
        counts: counts.map(Buffer::view).transpose()?,
        indices: indices.view_mut()?,
        kept_scores: kept_scores.view_mut()?,
        kept: kept.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok([indices, kept_scores, kept])
}

fn check(context: &Context, plan: &Plan, arguments: &Arguments<'_>) -> Result<()> {
    let (images, all) = (plan.images, plan.images * plan.boxes_per_image);
    let outputs = images * plan.max_output;
    let classes = arguments.classes.as_ref().map(CudaView::len);
    let counts = arguments.counts.as_ref().map(CudaView::len);
    let lengths = [
        ("boxes", Some(arguments.boxes.len()), 4 * all),
        ("scores", Some(arguments.scores.len()), all),
        ("classes", classes, all),
        ("counts", counts, images),
        ("indices", Some(arguments.indices.len()), outputs),
        ("kept_scores", Some(arguments.kept_scores.len()), outputs),
        ("kept", Some(arguments.kept.len()), images),
    ];
    check::given_lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}
