//! Host side of `kernels/nms.cu`.

use super::context::{Context, Properties, driver_error};
use super::launch::{Kernel, Launch, OptionalArgument};
use super::workspace::{self, piece};
use crate::error::Result;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const BLOCK: Kernel = kernel("nms_block_f32");
const SORT: Kernel = kernel("nms_sort_f32");
const MERGE: Kernel = kernel("nms_merge_keys");
const CHUNK: Kernel = kernel("nms_chunk_f32");

/// Kernels of this module.
pub(super) const KERNELS: [Kernel; 4] = [BLOCK, SORT, MERGE, CHUNK];

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "nms",
        symbol,
    }
}

/// Threads of every block of `kernels/nms.cu`.
const THREADS: u32 = 512;
/// Boxes of an image that one block holds in registers: 10 a thread, more would spill.
const BLOCK_BOXES: usize = 10 * THREADS as usize;
/// Keys that one block sorts in 32 KiB of shared memory.
const RUN: usize = 4096;
/// Sorted boxes resolved by one launch.
const CHUNK_BOXES: usize = 1024;

/// Most boxes an image may have: the sorted keys' places and all sums of them fit an `i32` with room to spare.
pub const MAX_BOXES: usize = 1 << 20;

/// Scalars, laid out as `NmsParams` of the kernels.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Params {
    iou_threshold: f32,
    score_threshold: f32,
    boxes_per_image: i32,
    max_output: i32,
    run_length: i32,
    chunk: i32,
}
const _: () = assert!(size_of::<Params>() == 24);

// SAFETY: `repr(C)`, no padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Params {}

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
    /// Plans for `images` of at most `boxes_per_image` (at most [`MAX_BOXES`]) boxes; none may be 0.
    pub fn new(gpu: &Properties, images: usize, boxes_per_image: usize, max_output: usize) -> Self {
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
        Self {
            images,
            boxes_per_image,
            max_output,
            route,
        }
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

    /// Workspace that [`nms`] needs, in bytes: two buffers of keys, and a count for each chunk.
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
        match &self.route {
            Route::Block(block) => write!(f, "{block}"),
            Route::Chunks { sort, merge, chunk } => {
                write!(
                    f,
                    "{sort}; {} x {merge}; {} x {chunk}",
                    self.merges().count(),
                    self.chunks()
                )
            }
        }
    }
}

/// Device views of one call; shapes as in [`ops::nms`](crate::ops::nms).
pub struct NmsViews<'a> {
    /// `[B, N, 4]`.
    pub boxes: CudaView<'a, f32>,
    /// `[B, N]`.
    pub scores: CudaView<'a, f32>,
    /// `[B, N]`, or none for one class.
    pub classes: Option<CudaView<'a, i32>>,
    /// `[B]`, boxes of each image that take part, or none for all.
    pub counts: Option<CudaView<'a, i32>>,
    /// `[B, max_output]`, written whole.
    pub indices: CudaViewMut<'a, i32>,
    /// `[B]`, written whole.
    pub kept: CudaViewMut<'a, i32>,
}

/// Thresholds of one call; `score_threshold` none lets every number through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NmsThresholds {
    /// In `[0, inf)`.
    pub iou: f32,
    /// Scores must be above it.
    pub score: Option<f32>,
}

/// Queues non-maximum suppression on the context's stream.
///
/// # Errors
/// When a view or the workspace is shorter than the plan needs, or the driver fails.
pub fn nms(
    context: &Context,
    plan: &Plan,
    thresholds: NmsThresholds,
    views: &mut NmsViews<'_>,
    workspace: &mut CudaViewMut<'_, u8>,
) -> Result<()> {
    check(plan, views)?;
    workspace::check("nms", context, workspace, plan.workspace_bytes())?;
    let params = Params {
        iou_threshold: thresholds.iou,
        score_threshold: thresholds.score.unwrap_or(f32::NAN),
        boxes_per_image: plan.boxes_per_image as i32,
        max_output: plan.max_output as i32,
        run_length: 0,
        chunk: 0,
    };
    match &plan.route {
        Route::Block(block) => run_block(context, block, params, views),
        Route::Chunks { sort, merge, chunk } => {
            let (address, _guard) = workspace.device_ptr_mut(context.stream());
            let buffers = [address, address + plan.key_bytes() as u64];
            let chunk_kept = address + 2 * plan.key_bytes() as u64;
            run_sort(context, sort, params, views, buffers[0], chunk_kept)?;
            let sorted = run_merges(context, merge, params, plan.merges(), buffers)?;
            let chunks = plan.chunks() as i32;
            (0..chunks).try_for_each(|index| {
                let params = Params {
                    chunk: index,
                    ..params
                };
                run_chunk(context, chunk, params, views, chunks, sorted, chunk_kept)
            })
        }
    }
}

fn check(plan: &Plan, views: &NmsViews<'_>) -> Result<()> {
    let (images, all) = (plan.images, plan.images * plan.boxes_per_image);
    let classes = views.classes.as_ref().map_or(all, CudaView::len);
    let counts = views.counts.as_ref().map_or(images, CudaView::len);
    workspace::check_len("nms", "boxes", views.boxes.len(), 4 * all)?;
    workspace::check_len("nms", "scores", views.scores.len(), all)?;
    workspace::check_len("nms", "classes", classes, all)?;
    workspace::check_len("nms", "counts", counts, images)?;
    workspace::check_len(
        "nms",
        "indices",
        views.indices.len(),
        images * plan.max_output,
    )?;
    workspace::check_len("nms", "kept", views.kept.len(), images)
}

fn run_block(
    context: &Context,
    launch: &Launch,
    params: Params,
    views: &mut NmsViews<'_>,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut arguments = context.stream().launch_builder(&function);
    arguments.arg(&params).arg(&views.boxes).arg(&views.scores);
    arguments.optional(&views.classes).optional(&views.counts);
    arguments.arg(&mut views.indices).arg(&mut views.kept);
    // SAFETY: the arguments are those of nms_block_f32 in its order; `check` saw that each view holds what the plan's
    // grid indexes, and the shared memory holds the next power of two of keys.
    unsafe { arguments.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}

fn run_sort(
    context: &Context,
    launch: &Launch,
    params: Params,
    views: &mut NmsViews<'_>,
    keys: u64,
    chunk_kept: u64,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut arguments = context.stream().launch_builder(&function);
    arguments
        .arg(&params)
        .arg(&views.boxes)
        .arg(&views.scores)
        .optional(&views.counts);
    arguments
        .arg(&keys)
        .arg(&mut views.indices)
        .arg(&chunk_kept);
    // SAFETY: the arguments are those of nms_sort_f32 in its order; the two addresses are pieces of the workspace,
    // as long as `workspace_bytes` counts them.
    unsafe { arguments.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}

/// Returns the buffer that holds the sorted keys in the end.
fn run_merges(
    context: &Context,
    launch: &Launch,
    params: Params,
    runs: impl Iterator<Item = usize>,
    [mut from, mut to]: [u64; 2],
) -> Result<u64> {
    let function = context.function_for(launch)?;
    for run in runs {
        let params = Params {
            run_length: run as i32,
            ..params
        };
        let mut arguments = context.stream().launch_builder(&function);
        arguments.arg(&params).arg(&from).arg(&to);
        // SAFETY: the arguments are those of nms_merge_keys in its order; the buffers are distinct pieces of the
        // workspace with a key a thread.
        unsafe { arguments.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
        (from, to) = (to, from);
    }
    Ok(from)
}

fn run_chunk(
    context: &Context,
    launch: &Launch,
    params: Params,
    views: &mut NmsViews<'_>,
    chunks: i32,
    keys: u64,
    chunk_kept: u64,
) -> Result<()> {
    let function = context.function_for(launch)?;
    let mut arguments = context.stream().launch_builder(&function);
    arguments.arg(&params).arg(&views.boxes);
    arguments.optional(&views.classes).optional(&views.counts);
    arguments.arg(&chunks).arg(&keys).arg(&chunk_kept);
    arguments.arg(&mut views.indices).arg(&mut views.kept);
    // SAFETY: the arguments are those of nms_chunk_f32 in its order; keys in the workspace are indices below the
    // image's count, or none.
    unsafe { arguments.launch(launch.config()) }.map_err(driver_error("launching nms"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(boxes: usize) -> Plan {
        Plan::new(&Properties::new((9, 0), 132, 232_448), 8, boxes, 300)
    }

    #[test]
    fn boxes_that_fit_on_chip_take_one_launch() {
        assert_eq!(
            plan(5000).to_string(),
            "nms_block_f32 <<<[8, 1, 1], [512, 1, 1], 65536 B>>>"
        );
        assert_eq!(plan(5000).workspace_bytes(), 0);
    }

    #[test]
    fn more_boxes_are_sorted_in_memory() {
        let plan = plan(200_000);
        assert_eq!(
            plan.to_string(),
            "nms_sort_f32 <<<[49, 8, 1], [512, 1, 1], 0 B>>>; 6 x nms_merge_keys <<<[392, 8, 1], [512, 1, 1], 0 B>>>; \
             196 x nms_chunk_f32 <<<[33, 8, 1], [512, 1, 1], 0 B>>>"
        );
        assert!(plan.workspace_bytes() >= 2 * 8 * 8 * 200_704);
    }
}
