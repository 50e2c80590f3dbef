//! Corner decoding on CUDA: the best peaks of each tile, then one block an image that pairs the best of all.

use super::check;
use super::context::driver_error;
use super::launch::{Kernel, Launch};
use super::workspace::{self, piece};
use super::{Buffer, Context, Properties};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::CornerDecode;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "corner_decode";
/// Peak and pair kernels by type.
const KERNELS: [(DType, Kernel, Kernel); 3] = [
    (
        DType::F32,
        kernel("corner_decode_peaks_f32"),
        kernel("corner_decode_pairs_f32"),
    ),
    (
        DType::F16,
        kernel("corner_decode_peaks_f16"),
        kernel("corner_decode_pairs_f16"),
    ),
    (
        DType::BF16,
        kernel("corner_decode_peaks_bf16"),
        kernel("corner_decode_pairs_bf16"),
    ),
];

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel { image: OP, symbol }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    KERNELS
        .into_iter()
        .flat_map(|(_, peaks, pairs)| [peaks, pairs])
}

/// Threads of the blocks of `kernels/corner_decode.cu`.
const PEAK_THREADS: usize = 256;
const PAIR_THREADS: usize = 512;
/// Bytes that a thread loads at once.
const VECTOR_BYTES: usize = 16;
/// Bytes of channels that a block takes of each cell: a sector of memory.
const SLICE_BYTES: usize = 32;
/// Columns of a block: two threads each.
const COLUMNS: usize = PEAK_THREADS * VECTOR_BYTES / SLICE_BYTES;
/// Rows of a strip are at least so many times the border rows around it, which are read twice: at most an eighth more is
/// read.
const ROWS_A_BORDER_ROW: usize = 8;
/// Blocks aimed at on a multiprocessor: one sorts while the other loads.
const BLOCKS_A_MULTIPROCESSOR: usize = 2;
/// Images are blocks in z.
const MAX_IMAGES: usize = 65_535;

/// Scalars, laid out as in `kernels/corner_decode.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scalars {
    height: i32,
    width: i32,
    classes: i32,
    radius: i32,
    strip_rows: i32,
    strips: i32,
    chunk_columns: i32,
    chunks: i32,
    halo: i32,
    aligned: i32,
    topk: i32,
    num_dets: i32,
    ae_threshold: f32,
    peak_capacity: i32,
    pair_capacity: i32,
}
const _: () = assert!(size_of::<Scalars>() == 60);

// SAFETY: `repr(C)`, no padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// What one call launches.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    dtype: DType,
    images: usize,
    scalars: Scalars,
    peaks: Launch,
    pairs: Launch,
}

impl Plan {
    /// Plans for maps of `[images, height, width, classes]`.
    ///
    /// # Errors
    /// When an extent is 0, for which there is nothing to launch, there are more than 65535 images or an image has 2^31
    /// logits or more, a scalar is out of its range, or `dtype` is no float type.
    pub fn new(
        gpu: &Properties,
        [images, height, width, classes]: [usize; 4],
        dtype: DType,
        params: &CornerDecode,
    ) -> Result<Self> {
        params.check()?;
        let Some((_, peaks, pairs)) = KERNELS.into_iter().find(|(of, ..)| *of == dtype) else {
            let rule = "of type f32, f16 or bf16";
            return Err(Error::input(OP, "tl_heat", rule, dtype));
        };
        let logits = [height, width, classes]
            .into_iter()
            .try_fold(1, usize::checked_mul);
        let Some(logits @ 1..0x8000_0000) = logits else {
            let is = format!("[{height}, {width}, {classes}]");
            return Err(Error::input(
                OP,
                "tl_heat",
                "1 to 2^31 - 1 logits an image",
                is,
            ));
        };
        if !(1..=MAX_IMAGES).contains(&images) {
            let rule = format!("1 to {MAX_IMAGES} images");
            return Err(Error::input(OP, "tl_heat", rule, images));
        }
        let radius = params.radius();
        let topk = params.topk.min(logits);
        let slices = (classes * dtype.size()).div_ceil(SLICE_BYTES);
        let (halo, chunk_columns) = if width <= COLUMNS {
            (0, width)
        } else {
            (radius, COLUMNS - 2 * radius)
        };
        let chunks = width.div_ceil(chunk_columns);
        let wanted = BLOCKS_A_MULTIPROCESSOR * gpu.multiprocessors as usize;
        let strips = wanted.div_ceil(2 * images * slices * chunks);
        let shortest = (2 * radius * ROWS_A_BORDER_ROW).max(1);
        let strip_rows = height.div_ceil(strips.min(height / shortest).max(1));
        let strips = height.div_ceil(strip_rows);

        let staged = (2 * radius + 2) * PEAK_THREADS * VECTOR_BYTES;
        let (peak_keys, pair_keys) = (capacity(topk), capacity(params.num_dets));
        let launch = |kernel, grid, threads: usize, shared_bytes: usize| Launch {
            kernel,
            grid,
            block: [threads as u32, 1, 1],
            shared_bytes: shared_bytes as u32,
        };
        let grid = [(slices * chunks * strips) as u32, 2, images as u32];
        Ok(Self {
            dtype,
            images,
            scalars: Scalars {
                height: height as i32,
                width: width as i32,
                classes: classes as i32,
                radius: radius as i32,
                strip_rows: strip_rows as i32,
                strips: strips as i32,
                chunk_columns: chunk_columns as i32,
                chunks: chunks as i32,
                halo: halo as i32,
                aligned: 0,
                topk: topk as i32,
                num_dets: params.num_dets as i32,
                ae_threshold: params.ae_threshold,
                peak_capacity: peak_keys as i32,
                pair_capacity: pair_keys as i32,
            },
            peaks: launch(peaks, grid, PEAK_THREADS, staged + 8 * peak_keys),
            pairs: launch(
                pairs,
                [images as u32, 1, 1],
                PAIR_THREADS,
                2 * CORNER_BYTES * topk + 8 * peak_keys.max(pair_keys),
            ),
        })
    }

    fn cells(&self) -> usize {
        self.images * self.scalars.height as usize * self.scalars.width as usize
    }

    fn logits(&self) -> usize {
        self.cells() * self.scalars.classes as usize
    }

    fn detections(&self) -> usize {
        self.images * self.scalars.num_dets as usize
    }

    /// Bytes of workspace: a list of keys a tile.
    pub fn workspace_bytes(&self) -> usize {
        let lists = 2 * self.images * self.peaks.grid[0] as usize;
        piece(8 * lists * self.scalars.topk as usize)
    }
}

/// A corner in the pair kernel's shared memory.
const CORNER_BYTES: usize = 20;

/// Keys that come together before they are sorted and cut to the best `most`: twice as many, so that each sort drops
/// half, and one a thread at least.
fn capacity(most: usize) -> usize {
    (2 * most).next_power_of_two().max(PAIR_THREADS)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scalars = &self.scalars;
        writeln!(
            f,
            "{OP} [{}, {}, {}, {}] {}: {} bytes at least",
            self.images,
            scalars.height,
            scalars.width,
            scalars.classes,
            self.dtype,
            2 * self.logits() * self.dtype.size()
        )?;
        writeln!(
            f,
            "  {}: tiles of {SLICE_BYTES} bytes of channels (a sector), {} columns, {} rows (twice the \
             multiprocessors' number of blocks, where rows are at least {ROWS_A_BORDER_ROW} times the border read \
             twice)",
            self.peaks, scalars.chunk_columns, scalars.strip_rows,
        )?;
        write!(
            f,
            "  {}: a block an image (its corners meet), {} x {} pairs",
            self.pairs, scalars.topk, scalars.topk
        )
    }
}

/// Device buffers of one kind of corner, of the plan's extents.
pub struct CornerMaps<'a, T> {
    /// `[B, H, W, K]` logits. Any alignment; 16 bytes are fastest.
    pub heat: CudaView<'a, T>,
    /// `[B, H, W]`.
    pub embedding: CudaView<'a, T>,
    /// `[B, H, W, 2]`.
    pub offset: CudaView<'a, T>,
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// Of the top-left corners.
    pub top_left: CornerMaps<'a, T>,
    /// Of the bottom-right corners.
    pub bottom_right: CornerMaps<'a, T>,
    /// `[B, num_dets, 4]`, aligned to 16 bytes, written whole.
    pub boxes: CudaViewMut<'a, f32>,
    /// `[B, num_dets]`, written whole.
    pub scores: CudaViewMut<'a, f32>,
    /// `[B, num_dets]`, written whole.
    pub classes: CudaViewMut<'a, i32>,
    /// `[B]`, written whole.
    pub count: CudaViewMut<'a, i32>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: two launches, no allocation, no waiting. The plan holds the scalars.
///
/// # Errors
/// [`Error::Input`] when a buffer's type, length or alignment does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    check(context, plan, arguments)?;
    let aligned = |view: &CudaView<'_, T>| {
        let (address, _guard) = view.device_ptr(context.stream());
        address.is_multiple_of(VECTOR_BYTES as u64)
    };
    let rows = (plan.scalars.classes as usize * plan.dtype.size()).is_multiple_of(VECTOR_BYTES);
    let maps = aligned(&arguments.top_left.heat) && aligned(&arguments.bottom_right.heat);
    let scalars = Scalars {
        aligned: i32::from(rows && maps),
        ..plan.scalars
    };
    let function = context.function_for(&plan.peaks)?;
    let mut builder = context.stream().launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.top_left.heat)
        .arg(&arguments.bottom_right.heat)
        .arg(&mut arguments.workspace);
    // SAFETY: the arguments are those of corner_decode_peaks_T in its order, for the plan's T. `check` saw that both maps
    // hold the plan's extents, outside which the kernel reads nothing, and the workspace a list a block.
    unsafe { builder.launch(plan.peaks.config()) }
        .map_err(driver_error("launching corner_decode"))?;

    let function = context.function_for(&plan.pairs)?;
    let mut builder = context.stream().launch_builder(&function);
    let tiles = plan.peaks.grid[0] as i32;
    let (top_left, bottom_right) = (&arguments.top_left, &arguments.bottom_right);
    builder
        .arg(&scalars)
        .arg(&tiles)
        .arg(&mut arguments.workspace);
    builder
        .arg(&top_left.embedding)
        .arg(&bottom_right.embedding);
    builder.arg(&top_left.offset).arg(&bottom_right.offset);
    builder.arg(&mut arguments.boxes).arg(&mut arguments.scores);
    builder
        .arg(&mut arguments.classes)
        .arg(&mut arguments.count);
    // SAFETY: the arguments are those of corner_decode_pairs_T in its order, for the plan's T. The keys that the first
    // launch wrote name cells of the maps, whose lengths `check` saw, as it saw those of the outputs.
    unsafe { builder.launch(plan.pairs.config()) }
        .map_err(driver_error("launching corner_decode"))?;
    Ok(())
}

fn check<T: Float>(context: &Context, plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "tl_heat", plan.dtype)?;
    let (cells, logits, detections) = (plan.cells(), plan.logits(), plan.detections());
    let (a, b) = (&arguments.top_left, &arguments.bottom_right);
    let lengths = [
        ("tl_heat", a.heat.len(), logits),
        ("tl_embed", a.embedding.len(), cells),
        ("tl_offset", a.offset.len(), 2 * cells),
        ("br_heat", b.heat.len(), logits),
        ("br_embed", b.embedding.len(), cells),
        ("br_offset", b.offset.len(), 2 * cells),
        ("boxes", arguments.boxes.len(), 4 * detections),
        ("scores", arguments.scores.len(), detections),
        ("classes", arguments.classes.len(), detections),
        ("count", arguments.count.len(), plan.images),
    ];
    check::lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// Queues the op on buffers of its own: boxes, scores, classes and counts. The maps are heat, embedding and offset.
pub(crate) fn run<T: Float>(
    context: &Context,
    extents: [usize; 4],
    params: &CornerDecode,
    top_left: [&Buffer; 3],
    bottom_right: [&Buffer; 3],
) -> Result<[Buffer; 4]> {
    let plan = Plan::new(context.properties(), extents, T::DTYPE, params)?;
    let detections = plan.detections();
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut boxes = Buffer::uninitialised(context, DType::F32, 4 * detections)?;
    let mut scores = Buffer::uninitialised(context, DType::F32, detections)?;
    let mut classes = Buffer::uninitialised(context, DType::I32, detections)?;
    let mut count = Buffer::uninitialised(context, DType::I32, plan.images)?;
    fn maps<'a, T: Float>([heat, embedding, offset]: [&'a Buffer; 3]) -> Result<CornerMaps<'a, T>> {
        Ok(CornerMaps {
            heat: heat.view()?,
            embedding: embedding.view()?,
            offset: offset.view()?,
        })
    }
    let mut arguments = Arguments::<T> {
        top_left: maps(top_left)?,
        bottom_right: maps(bottom_right)?,
        boxes: boxes.view_mut()?,
        scores: scores.view_mut()?,
        classes: classes.view_mut()?,
        count: count.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok([boxes, scores, classes, count])
}
