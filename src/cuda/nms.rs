//! Non-maximum suppression on CUDA: one launch where the boxes of an image fit on chip; sorted runs and chunks otherwise.

use super::context::driver_error;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::workspace::{self, piece};
use super::{Buffer, Context, Properties};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Nms;
use crate::params::nms::MAX_BOXES;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const BLOCK: Kernel = kernel("nms_block_f32");
const SORT: Kernel = kernel("nms_sort_f32");
const MERGE: Kernel = kernel("nms_merge_keys");
const CHUNK: Kernel = kernel("nms_chunk_f32");

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "nms",
        symbol,
    }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    [BLOCK, SORT, MERGE, CHUNK].into_iter()
}

const OP: &str = "nms";
/// Threads of every block of `kernels/nms.cu`.
const THREADS: u32 = 512;
/// Boxes of an image that one block holds in registers: 10 a thread, more would spill.
const BLOCK_BOXES: usize = 10 * THREADS as usize;
/// Images are blocks in y.
const MAX_IMAGES: usize = 65_535;
/// Keys that one block sorts in 32 KiB of shared memory.
const RUN: usize = 4096;
/// Sorted boxes resolved by one launch.
const CHUNK_BOXES: usize = 1024;

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

/// What one call launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    images: usize,
    boxes_per_image: usize,
    max_output: usize,
    route: Route,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    /// The boxes of an image fit on chip: one launch, a block an image.
    Block(Launch),
    /// Sorted runs in memory, merged, then resolved 1024 at a time.
    Chunks {
        sort: Launch,
        merge: Launch,
        chunk: Launch,
    },
}

impl Plan {
    /// Plans for `images` of `boxes_per_image` boxes.
    ///
    /// # Errors
    /// When one of the three is 0, for which there is nothing to launch, or there are more than 65535 images or 2^20 boxes.
    pub fn new(
        gpu: &Properties,
        images: usize,
        boxes_per_image: usize,
        max_output: usize,
    ) -> Result<Self> {
        let extents = [
            ("images", images, MAX_IMAGES),
            ("boxes", boxes_per_image, MAX_BOXES),
            ("max_output", max_output, boxes_per_image),
        ];
        for (argument, extent, most) in extents {
            if extent == 0 || extent > most {
                return Err(Error::input(
                    OP,
                    argument,
                    format!("in [1, {most}]"),
                    extent,
                ));
            }
        }
        let launch = |kernel, blocks: usize, shared_bytes: usize| Launch {
            kernel,
            grid: [blocks as u32, images as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes as u32,
        };
        let route = if boxes_per_image <= BLOCK_BOXES {
            // The sort works on a power of two of 8-byte keys: 64 KiB at most.
            let mut block = launch(BLOCK, 1, 8 * boxes_per_image.next_power_of_two().max(2));
            block.grid = [images as u32, 1, 1];
            Route::Block(block)
        } else {
            let runs = boxes_per_image.div_ceil(RUN);
            // Two blocks of 512 threads fill an SM's registers; a block more would only resolve the chunk again.
            let blocks =
                (2 * gpu.multiprocessors as usize / images).clamp(1, runs * RUN / THREADS as usize);
            Route::Chunks {
                sort: launch(SORT, runs, 0),
                merge: launch(MERGE, runs * RUN / THREADS as usize, 0),
                chunk: launch(CHUNK, blocks, 0),
            }
        };
        Ok(Self {
            images,
            boxes_per_image,
            max_output,
            route,
        })
    }

    /// Keys of an image in memory: whole runs.
    fn keys(&self) -> usize {
        self.boxes_per_image.next_multiple_of(RUN)
    }

    fn key_bytes(&self) -> usize {
        piece(8 * self.images * self.keys())
    }

    fn chunks(&self) -> usize {
        self.keys() / CHUNK_BOXES
    }

    /// Lengths of the runs that each merging launch finds.
    fn merges(&self) -> impl Iterator<Item = usize> {
        let keys = self.keys();
        std::iter::successors(Some(RUN), |run| Some(2 * run)).take_while(move |&run| run < keys)
    }

    /// Bytes of workspace: two buffers of keys, and a count for each chunk.
    pub fn workspace_bytes(&self) -> usize {
        match self.route {
            Route::Block(_) => 0,
            Route::Chunks { .. } => {
                2 * self.key_bytes() + piece(4 * self.images * (self.chunks() + 1))
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, boxes) = (self.images, self.boxes_per_image);
        writeln!(
            f,
            "{OP} [{images}, {boxes}], at most {} kept: {} bytes at least",
            self.max_output,
            images * (24 * boxes + 4 * self.max_output + 4)
        )?;
        match &self.route {
            Route::Block(block) => write!(
                f,
                "  {block}: a block an image, whose boxes stay in registers (at most {BLOCK_BOXES}; more spill), and \
                 8 bytes of shared memory a key of the next power of two (the sort's length)"
            ),
            Route::Chunks { sort, merge, chunk } => {
                writeln!(f, "  {sort}: runs of {RUN} keys (32 KiB of shared memory)")?;
                writeln!(
                    f,
                    "  {} x {merge}: a key a thread, each launch doubling the runs",
                    self.merges().count()
                )?;
                write!(
                    f,
                    "  {} x {chunk}: {CHUNK_BOXES} boxes a launch, two blocks a multiprocessor over all images (its \
                     registers; each block resolves the chunk for itself)",
                    self.chunks()
                )
            }
        }
    }
}

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
    for (argument, len, expected) in lengths {
        if len.is_some_and(|len| len != expected) {
            let rule = format!("{expected} elements");
            return Err(Error::input(OP, argument, rule, len.unwrap_or_default()));
        }
    }
    let (address, _guard) = arguments.boxes.device_ptr(context.stream());
    if address % 16 != 0 {
        return Err(Error::input(
            OP,
            "boxes",
            "aligned to 16 bytes",
            format!("{address:#x}"),
        ));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(boxes: usize) -> Plan {
        Plan::new(&Properties::new((9, 0), 132, 232_448), 8, boxes, 300).unwrap()
    }

    #[test]
    fn boxes_that_fit_on_chip_take_one_launch() {
        assert_eq!(
            plan(5000).to_string(),
            "nms [8, 5000], at most 300 kept: 969632 bytes at least\n  nms_block_f32 <<<[8, 1, 1], [512, 1, 1], 65536 \
             B>>>: a block an image, whose boxes stay in registers (at most 5120; more spill), and 8 bytes of shared \
             memory a key of the next power of two (the sort's length)"
        );
        assert_eq!(plan(5000).workspace_bytes(), 0);
    }

    #[test]
    fn more_boxes_are_sorted_in_memory() {
        let plan = plan(200_000);
        assert_eq!(
            plan.to_string(),
            "nms [8, 200000], at most 300 kept: 38409632 bytes at least\n  nms_sort_f32 <<<[49, 8, 1], [512, 1, 1], 0 \
             B>>>: runs of 4096 keys (32 KiB of shared memory)\n  6 x nms_merge_keys <<<[392, 8, 1], [512, 1, 1], 0 \
             B>>>: a key a thread, each launch doubling the runs\n  196 x nms_chunk_f32 <<<[33, 8, 1], [512, 1, 1], 0 \
             B>>>: 1024 boxes a launch, two blocks a multiprocessor over all images (its registers; each block \
             resolves the chunk for itself)"
        );
        assert!(plan.workspace_bytes() >= 2 * 8 * 8 * 200_704);
    }
}
