//! Heatmap focal loss on CUDA: one pass over the logits, a block a tile, then one small block that adds
//! their sums.

use super::check;
use super::context::driver_error;
use super::corner_targets::{self, Extents, Heatmap};
use super::launch::{Kernel, Launch, OptionalArgument};
use super::{Buffer, Context, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::{Corner, CornerTargets, HeatmapFocalLoss};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "heatmap_focal_loss";
const IMAGE: &str = "heatmap_focal_loss";

/// Symbols by type: f32, f16, bf16.
const FROM_MAP: [&str; 3] = [
    "heatmap_focal_loss_map_f32",
    "heatmap_focal_loss_map_f16",
    "heatmap_focal_loss_map_bf16",
];
const FROM_BUMPS: [&str; 3] = [
    "heatmap_focal_loss_bumps_f32",
    "heatmap_focal_loss_bumps_f16",
    "heatmap_focal_loss_bumps_bf16",
];
const FINISH: &str = "heatmap_focal_loss_finish_f32";

const THREADS: usize = 256;
/// Bytes of one load: the widest there is.
const VECTOR_BYTES: usize = 16;
/// Loads of a thread in a tile: the boxes of an image are read once a tile.
const VECTORS_PER_TILE: usize = 8;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = FROM_MAP.into_iter().chain(FROM_BUMPS).chain([FINISH]);
    symbols.map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How a problem is laid over the GPU. It depends on shape and type alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    extents: Extents,
    from_boxes: bool,
    dtype: DType,
    tile: usize,
    pass: Launch,
    finish: Launch,
}

impl Plan {
    /// Plans for logits of `shape` `[B, H, W, K]` and type `dtype`, with targets from a map, or from
    /// so many boxes an image.
    ///
    /// # Errors
    /// When `dtype` is no float type, or there are more than 1024 boxes, 2^14 rows or columns, or
    /// 2^31 - 2^15 elements an image.
    pub fn new(shape: [usize; 4], dtype: DType, boxes: Option<usize>) -> Result<Self> {
        let extents = Extents::new(OP, shape, boxes.unwrap_or(0))?;
        let symbols = if boxes.is_some() {
            FROM_BUMPS
        } else {
            FROM_MAP
        };
        let symbol = check::of_dtype(OP, "logits", symbols, dtype)?;
        let tile = VECTORS_PER_TILE * THREADS * VECTOR_BYTES / dtype.size();
        let kernel = |symbol| Kernel {
            image: IMAGE,
            symbol,
        };
        Ok(Self {
            extents,
            from_boxes: boxes.is_some(),
            dtype,
            tile,
            pass: extents.launch(kernel(symbol), tile)?,
            finish: Launch {
                kernel: kernel(FINISH),
                grid: [1, 1, 1],
                block: [THREADS as u32, 1, 1],
                shared_bytes: 0,
            },
        })
    }

    /// Bytes of workspace: one sum a block, and with boxes their bumps.
    pub fn workspace_bytes(&self) -> usize {
        self.sum_bytes()
            + if self.from_boxes {
                self.extents.bump_bytes()
            } else {
                0
            }
    }

    fn sum_bytes(&self) -> usize {
        workspace::piece(self.pass.grid[0] as usize * size_of::<f64>())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = self.extents.elements();
        let targets = if self.from_boxes {
            20 * self.extents.all_boxes()
        } else {
            4 * elements
        };
        let bytes = elements * self.dtype.size() + targets;
        writeln!(
            f,
            "{OP} {:?} {}: {bytes} bytes at least, {} more with the gradient",
            self.extents.shape,
            self.dtype,
            elements * self.dtype.size()
        )?;
        writeln!(
            f,
            "  {}: {} elements a tile ({VECTORS_PER_TILE} vectors a thread, to spread the reading of \
             boxes)",
            self.pass, self.tile
        )?;
        write!(
            f,
            "  {}: one block, so that the order of the sum is fixed",
            self.finish
        )
    }
}

/// Where the targets of a call come from.
pub enum Targets<'a> {
    /// One a logit, for a plan without boxes. 16-byte alignment is fastest.
    Map(CudaView<'a, f32>),
    /// Boxes `[B, M, 4]` and classes `[B, M]`, for a plan with boxes.
    Boxes {
        /// Corners in pixels.
        boxes: CudaView<'a, f32>,
        /// Their classes.
        classes: CudaView<'a, i32>,
        /// Which corner the heatmaps are of.
        corner: Corner,
        /// How boxes become bumps.
        rule: CornerTargets,
    },
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// `[B, H, W, K]`. Any alignment; 16 bytes are fastest.
    pub logits: CudaView<'a, T>,
    /// The targets.
    pub targets: Targets<'a>,
    /// One scalar that multiplies the gradient; 1 where there is none.
    pub upstream: Option<CudaView<'a, f32>>,
    /// Takes the loss, one element.
    pub loss: CudaViewMut<'a, f32>,
    /// Takes the gradient, as long as `logits`.
    pub gradient: Option<CudaViewMut<'a, T>>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/heatmap_focal_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    map: Heatmap,
    boxes: i32,
    per_image: i32,
    tiles: i32,
    aligned: i32,
    alpha: f32,
    beta: f32,
    scale: f32,
    bound: f32,
    low: f32,
    high: f32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 64);
    assert!(std::mem::offset_of!(Scalars, alpha) == 40);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues the op on the context's stream: two launches, with boxes three; no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer or a scalar does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &HeatmapFocalLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    params.check()?;
    check(context, plan, arguments)?;
    if plan.extents.elements() > 0 {
        let bumps = queue_bumps(context, plan, arguments)?;
        queue_pass(context, plan, params, bumps, arguments)?;
    }
    let function = context.function_for(&plan.finish)?;
    let mut builder = context.stream().launch_builder(&function);
    let blocks = plan.pass.grid[0] as i32;
    builder.arg(&blocks).arg(&params.normalizer);
    builder
        .arg(&mut arguments.workspace)
        .arg(&mut arguments.loss);
    // SAFETY: the kernel takes (int, float, const double*, float*); it reads `blocks` sums, with which
    // the workspace starts, and writes one element of the loss, checked to be there.
    unsafe { builder.launch(plan.finish.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// Makes bumps of boxes, and returns where in the workspace those of the corner start.
fn queue_bumps<T>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<usize> {
    let Targets::Boxes {
        boxes,
        classes,
        corner,
        rule,
    } = &arguments.targets
    else {
        return Ok(0);
    };
    let start = plan.sum_bytes();
    let mut bumps = arguments.workspace.slice_mut(start..);
    let inputs = (boxes, classes);
    corner_targets::queue_boxes(context, &plan.extents, rule, inputs, &mut bumps, None)?;
    let of_corner = plan.extents.all_boxes() * corner_targets::BUMP_BYTES;
    Ok(match corner {
        Corner::TopLeft => start,
        Corner::BottomRight => start + of_corner,
    })
}

fn queue_pass<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &HeatmapFocalLoss,
    bumps: usize,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let stream = context.stream();
    let extents = &plan.extents;
    let mut addresses = arguments.logits.device_ptr(stream).0;
    if let Targets::Map(map) = &arguments.targets {
        addresses |= map.device_ptr(stream).0;
    }
    if let Some(gradient) = &mut arguments.gradient {
        addresses |= gradient.device_ptr_mut(stream).0;
    }
    let bytes = extents.per_image() * plan.dtype.size();
    let aligned = (addresses | bytes as u64).is_multiple_of(VECTOR_BYTES as u64);
    let clamp = params.clamped();
    let scalars = Scalars {
        map: extents.heatmap(),
        boxes: extents.boxes as i32,
        per_image: extents.per_image() as i32,
        tiles: extents.tiles(plan.tile) as i32,
        aligned: i32::from(aligned),
        alpha: params.alpha,
        beta: params.beta,
        scale: 1.0 / params.normalizer,
        bound: clamp.bound,
        low: clamp.low,
        high: clamp.high,
    };
    let function = context.function_for(&plan.pass)?;
    let mut builder = stream.launch_builder(&function);
    let null = 0u64;
    let (mut sums, rest) = arguments.workspace.split_at_mut(plan.sum_bytes());
    let bumps = rest.slice(bumps.saturating_sub(plan.sum_bytes())..);
    builder.arg(&scalars).arg(&arguments.logits);
    match &arguments.targets {
        Targets::Map(map) => builder.arg(map),
        Targets::Boxes { .. } => builder.arg(&bumps),
    };
    builder.arg(&mut sums).optional(&arguments.upstream);
    match &mut arguments.gradient {
        Some(gradient) => builder.arg(gradient),
        None => builder.arg(&null),
    };
    // SAFETY: the kernel takes (Scalars, const T*, const float* or const Bump*, double*, const float*,
    // T*), and `plan` chose the one for `T` and for where targets come from. `check` held every length:
    // it touches `elements` logits, targets and gradients, an image's bumps, a sum a block and one
    // upstream scalar; upstream and gradient may be null.
    unsafe { builder.launch(plan.pass.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "logits", plan.dtype)?;
    let elements = plan.extents.elements();
    check::length(OP, "logits", arguments.logits.len(), elements)?;
    check::length(OP, "loss", arguments.loss.len(), 1)?;
    if let Some(upstream) = &arguments.upstream {
        check::length(OP, "upstream", upstream.len(), 1)?;
    }
    if let Some(gradient) = &arguments.gradient {
        check::length(OP, "gradient", gradient.len(), elements)?;
    }
    let name = |boxes| if boxes { "boxes" } else { "a map" };
    let from_boxes = matches!(arguments.targets, Targets::Boxes { .. });
    if from_boxes != plan.from_boxes {
        let rule = format!("{}, as planned", name(plan.from_boxes));
        return Err(Error::input(OP, "targets", rule, name(from_boxes)));
    }
    match &arguments.targets {
        Targets::Map(map) => check::length(OP, "target", map.len(), elements)?,
        Targets::Boxes {
            boxes,
            classes,
            rule,
            ..
        } => {
            let [_, height, width, _] = plan.extents.shape;
            rule.check(OP, [height, width])?;
            check::length(OP, "boxes", boxes.len(), 4 * plan.extents.all_boxes())?;
            check::length(OP, "classes", classes.len(), plan.extents.all_boxes())?;
        }
    }
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// Targets in whole buffers.
pub(crate) enum TargetBuffers<'a> {
    Map(&'a Buffer),
    Boxes {
        boxes: &'a Buffer,
        classes: &'a Buffer,
        corner: Corner,
        rule: CornerTargets,
    },
}

/// The loss of whole buffers, and its gradient where asked for, times `upstream`. See
/// [`ops::heatmap_focal_loss`](crate::ops::heatmap_focal_loss()).
pub(crate) fn run<T: Float>(
    context: &Context,
    (logits, shape): (&Buffer, [usize; 4]),
    targets: TargetBuffers<'_>,
    params: &HeatmapFocalLoss,
    upstream: Option<&Buffer>,
    gradient: Option<&mut Buffer>,
) -> Result<Buffer> {
    let (boxes, targets) = match targets {
        TargetBuffers::Map(map) => (None, Targets::Map(map.view()?)),
        TargetBuffers::Boxes {
            boxes,
            classes,
            corner,
            rule,
        } => {
            let targets = Targets::Boxes {
                boxes: boxes.view()?,
                classes: classes.view()?,
                corner,
                rule,
            };
            (Some(classes.len() / shape[0].max(1)), targets)
        }
    };
    let plan = Plan::new(shape, T::DTYPE, boxes)?;
    let mut loss = Buffer::uninitialised(context, DType::F32, 1)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut arguments = Arguments::<T> {
        logits: logits.view()?,
        targets,
        upstream: upstream.map(Buffer::view).transpose()?,
        loss: loss.view_mut()?,
        gradient: gradient.map(Buffer::view_mut).transpose()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok(loss)
}
