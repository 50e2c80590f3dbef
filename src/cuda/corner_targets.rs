//! Targets of corner heatmaps on CUDA: one launch over the boxes, one a heatmap.

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::{Buffer, Context, workspace};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::CornerTargets;
use crate::params::corner_targets::{MAX_BOXES, MAX_EXTENT};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "corner_targets";
const IMAGE: &str = "corner_targets";
const BOXES: Kernel = Kernel {
    image: IMAGE,
    symbol: "corner_targets_boxes_f32",
};
const RENDER: Kernel = Kernel {
    image: IMAGE,
    symbol: "corner_targets_render_f32",
};

const THREADS: usize = 256;
/// Elements of a heatmap that a block renders: 8 vectors a thread.
const TILE: usize = 8 * THREADS * 4;
/// Bytes of a box's bump: x, y, radius and class.
pub(super) const BUMP_BYTES: usize = 16;
/// The kernels number the elements of an image, and a tile behind them, in 31 bits.
const MAX_PER_IMAGE: usize = (1 << 31) - (1 << 15);

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    [BOXES, RENDER].into_iter()
}

/// Extents of heatmaps `[B, H, W, K]` and their boxes `[B, M]`, within what the kernels number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extents {
    pub(super) shape: [usize; 4],
    pub(super) boxes: usize,
}

impl Extents {
    pub(super) fn new(op: &'static str, shape: [usize; 4], boxes: usize) -> Result<Self> {
        let [batch, height, width, kinds] = shape;
        let limit = |argument: &str, is: usize, most: usize| {
            if is <= most {
                return Ok(());
            }
            Err(Error::input(op, argument, format!("at most {most}"), is))
        };
        limit("H", height, MAX_EXTENT)?;
        limit("W", width, MAX_EXTENT)?;
        limit("K", kinds, MAX_PER_IMAGE)?;
        limit(
            "H * W * K",
            (height * width).saturating_mul(kinds),
            MAX_PER_IMAGE,
        )?;
        limit("M", boxes, MAX_BOXES)?;
        // The boxes of a batch are numbered in 31 bits, and so are its tiles.
        limit("B", batch, MAX_PER_IMAGE / MAX_BOXES)?;
        Ok(Self { shape, boxes })
    }

    pub(super) fn per_image(&self) -> usize {
        self.shape[1..].iter().product()
    }

    pub(super) fn elements(&self) -> usize {
        self.shape[0] * self.per_image()
    }

    /// Boxes of the batch.
    pub(super) fn all_boxes(&self) -> usize {
        self.shape[0] * self.boxes
    }

    /// Bytes of the bumps of both corners.
    pub(super) fn bump_bytes(&self) -> usize {
        workspace::piece(2 * BUMP_BYTES * self.all_boxes())
    }

    /// Tiles of `tile` elements an image.
    pub(super) fn tiles(&self, tile: usize) -> usize {
        self.per_image().div_ceil(tile)
    }

    /// A block a tile.
    pub(super) fn launch(&self, kernel: Kernel, tile: usize) -> Result<Launch> {
        let blocks = self.shape[0] * self.tiles(tile);
        let Ok(blocks) = i32::try_from(blocks) else {
            return Err(Error::input(OP, "tiles", "below 2^31", blocks));
        };
        Ok(Launch {
            kernel,
            grid: [blocks as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
        })
    }

    /// What kernels need to find a cell. There are elements.
    pub(super) fn heatmap(&self) -> Heatmap {
        let [_, _, width, kinds] = self.shape;
        Heatmap {
            width: width as i32,
            classes: kinds as i32,
            by_width: Divisor::new(width as u32),
            by_classes: Divisor::new(kinds as u32),
        }
    }
}

/// How a batch is laid over the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    extents: Extents,
    boxes: Launch,
    render: Launch,
}

impl Plan {
    /// Plans for heatmaps of `shape` `[B, H, W, K]` and `boxes` boxes an image.
    ///
    /// # Errors
    /// When there are more than 1024 boxes, 2^14 rows or columns, or 2^31 - 2^15 elements an image.
    pub fn new(shape: [usize; 4], boxes: usize) -> Result<Self> {
        let extents = Extents::new(OP, shape, boxes)?;
        Ok(Self {
            extents,
            boxes: boxes_launch(&extents),
            render: extents.launch(RENDER, TILE)?,
        })
    }

    /// Bytes of workspace: a bump a box and corner.
    pub fn workspace_bytes(&self) -> usize {
        self.extents.bump_bytes()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extents { shape, boxes } = self.extents;
        let bytes = 2 * 4 * self.extents.elements() + (20 + 24) * self.extents.all_boxes();
        writeln!(f, "{OP} {shape:?}, {boxes} boxes: {bytes} bytes at least")?;
        writeln!(f, "  {}: a thread a box", self.boxes)?;
        write!(
            f,
            "  {} twice: {TILE} elements a tile, over which the reading of an image's boxes is spread",
            self.render
        )
    }
}

/// Device buffers of one call. Pairs are of the top-left and of the bottom-right corners.
pub struct Arguments<'a> {
    /// `[B, M, 4]`.
    pub boxes: CudaView<'a, f32>,
    /// `[B, M]`.
    pub classes: CudaView<'a, i32>,
    /// Take `[B, H, W, K]`. 16-byte alignment is fastest.
    pub heat: [CudaViewMut<'a, f32>; 2],
    /// Take `[B, M, 2]`.
    pub offsets: [CudaViewMut<'a, f32>; 2],
    /// Take `[B, M]`.
    pub indices: [CudaViewMut<'a, i32>; 2],
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Mirrors `BoxScalars` in `kernels/corner_targets.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BoxScalars {
    ratio_x: f64,
    ratio_y: f64,
    gaussian_iou: f64,
    boxes: i32,
    height: i32,
    width: i32,
    classes: i32,
}

/// Mirrors `Heatmap` in `kernels/common/bumps.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Heatmap {
    width: i32,
    classes: i32,
    by_width: Divisor,
    by_classes: Divisor,
}

/// Mirrors `MapScalars` in `kernels/corner_targets.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapScalars {
    map: Heatmap,
    boxes: i32,
    per_image: i32,
    tiles: i32,
    aligned: i32,
}

const _: () = {
    assert!(size_of::<BoxScalars>() == 40);
    assert!(size_of::<Heatmap>() == 24);
    assert!(size_of::<MapScalars>() == 40);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for BoxScalars {}
// SAFETY: as above.
unsafe impl DeviceRepr for MapScalars {}

/// Queues the op on the context's stream: three launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer or a scalar does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch(
    context: &Context,
    plan: &Plan,
    params: &CornerTargets,
    arguments: &mut Arguments<'_>,
) -> Result<()> {
    let extents = &plan.extents;
    let [_, height, width, _] = extents.shape;
    params.check(OP, [height, width])?;
    let all = extents.all_boxes();
    check::length(OP, "boxes", arguments.boxes.len(), 4 * all)?;
    check::length(OP, "classes", arguments.classes.len(), all)?;
    for corner in 0..2 {
        check::length(OP, "heat", arguments.heat[corner].len(), extents.elements())?;
        check::length(OP, "offsets", arguments.offsets[corner].len(), 2 * all)?;
        check::length(OP, "indices", arguments.indices[corner].len(), all)?;
    }
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())?;
    let outputs = Some((&mut arguments.offsets, &mut arguments.indices));
    let (boxes, classes) = (&arguments.boxes, &arguments.classes);
    queue_boxes(
        context,
        extents,
        params,
        (boxes, classes),
        &mut arguments.workspace,
        outputs,
    )?;
    if extents.elements() == 0 {
        return Ok(());
    }
    for (corner, heat) in arguments.heat.iter_mut().enumerate() {
        let from = corner * all * BUMP_BYTES;
        let bumps = arguments.workspace.slice(from..);
        let address = heat.device_ptr_mut(context.stream()).0;
        let aligned = address.is_multiple_of(16) && extents.per_image().is_multiple_of(4);
        let scalars = MapScalars {
            map: extents.heatmap(),
            boxes: extents.boxes as i32,
            per_image: extents.per_image() as i32,
            tiles: extents.tiles(TILE) as i32,
            aligned: i32::from(aligned),
        };
        let function = context.function_for(&plan.render)?;
        let mut builder = context.stream().launch_builder(&function);
        builder.arg(&scalars).arg(&bumps).arg(heat);
        // SAFETY: the kernel takes (MapScalars, const Bump*, float*). It reads the corner's bumps, as
        // many as the workspace was checked to hold, and writes `elements` of `heat`, checked.
        unsafe { builder.launch(plan.render.config()) }
            .map_err(driver_error("launching a kernel"))?;
    }
    Ok(())
}

/// Views of both corners' offsets and of their indices.
type PointOutputs<'a, 'b> = (
    &'a mut [CudaViewMut<'b, f32>; 2],
    &'a mut [CudaViewMut<'b, i32>; 2],
);

/// Queues the launch that makes bumps of boxes, all lengths being checked: `bumps` has
/// [`Extents::bump_bytes`].
pub(super) fn queue_boxes(
    context: &Context,
    extents: &Extents,
    params: &CornerTargets,
    (boxes, classes): (&CudaView<'_, f32>, &CudaView<'_, i32>),
    bumps: &mut CudaViewMut<'_, u8>,
    outputs: Option<PointOutputs<'_, '_>>,
) -> Result<()> {
    if extents.all_boxes() == 0 {
        return Ok(());
    }
    let [_, height, width, kinds] = extents.shape;
    let [ratio_y, ratio_x] = params.ratios([height, width]);
    let scalars = BoxScalars {
        ratio_x,
        ratio_y,
        gaussian_iou: params.gaussian_iou,
        boxes: extents.all_boxes() as i32,
        height: height as i32,
        width: width as i32,
        classes: kinds as i32,
    };
    let launch = boxes_launch(extents);
    let function = context.function_for(&launch)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(boxes).arg(classes).arg(bumps);
    let (none_f32, none_i32) = (None::<CudaView<'_, f32>>, None::<CudaView<'_, i32>>);
    match outputs {
        Some(([first, last], [first_index, last_index])) => {
            builder
                .arg(first)
                .arg(first_index)
                .arg(last)
                .arg(last_index);
        }
        None => {
            builder.optional(&none_f32).optional(&none_i32);
            builder.optional(&none_f32).optional(&none_i32);
        }
    }
    // SAFETY: the kernel takes (BoxScalars, const float*, const int*, int4*, float*, int*, float*,
    // int*), the last four all null or none. A thread a box touches its 4 coordinates, its class, its
    // two bumps and its elements of the outputs, whose lengths the callers checked.
    unsafe { builder.launch(launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// A thread a box.
fn boxes_launch(extents: &Extents) -> Launch {
    Launch {
        kernel: BOXES,
        grid: [extents.all_boxes().div_ceil(THREADS) as u32, 1, 1],
        block: [THREADS as u32, 1, 1],
        shared_bytes: 0,
    }
}

/// Heatmap, offsets and indices of one corner.
pub(crate) type CornerBuffers = (Buffer, Buffer, Buffer);

/// The targets of whole buffers. See [`ops::corner_targets`](crate::ops::corner_targets()).
pub(crate) fn run(
    context: &Context,
    boxes: &Buffer,
    classes: &Buffer,
    (shape, of_image): ([usize; 4], usize),
    params: &CornerTargets,
) -> Result<[CornerBuffers; 2]> {
    let plan = Plan::new(shape, of_image)?;
    let all = classes.len();
    let floats = |len| Buffer::uninitialised(context, DType::F32, len);
    let elements = plan.extents.elements();
    let mut heat = [floats(elements)?, floats(elements)?];
    let mut offsets = [floats(2 * all)?, floats(2 * all)?];
    let integers = || Buffer::uninitialised(context, DType::I32, all);
    let mut indices = [integers()?, integers()?];
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let [first_heat, last_heat] = &mut heat;
    let [first_offsets, last_offsets] = &mut offsets;
    let [first_indices, last_indices] = &mut indices;
    let mut arguments = Arguments {
        boxes: boxes.view()?,
        classes: classes.view()?,
        heat: [first_heat.view_mut()?, last_heat.view_mut()?],
        offsets: [first_offsets.view_mut()?, last_offsets.view_mut()?],
        indices: [first_indices.view_mut()?, last_indices.view_mut()?],
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    let [a, b] = heat;
    let [c, d] = offsets;
    let [e, f] = indices;
    Ok([(a, c, e), (b, d, f)])
}
