//! Anchor matching on CUDA: the largest overlap of each box, then the match of each anchor.

use super::anchors::AnchorTable;
use super::check;
use super::context::driver_error;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::workspace::{self, piece};
use super::{Buffer, Context};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{Anchors, MatchAnchors};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "match_anchors";
const PEAKS: Kernel = kernel("match_anchors_peaks_f32");
const ASSIGN: Kernel = kernel("match_anchors_assign_f32");

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "match_anchors",
        symbol,
    }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    [PEAKS, ASSIGN].into_iter()
}

const PEAK_THREADS: u32 = 128;
/// Blocks that share a box.
const SLICES: usize = 8;
const ASSIGN_THREADS: u32 = 256;
/// Anchors of a block: four a thread.
const ASSIGNED: usize = 4 * ASSIGN_THREADS as usize;
/// Images are blocks in y and z.
const MAX_IMAGES: usize = 65_535;

/// Scalars, laid out as in `kernels/match_anchors.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Scalars {
    boxes_per_image: i32,
    high_threshold: f32,
    low_threshold: f32,
    low_quality: i32,
}
const _: () = assert!(size_of::<Scalars>() == 16);

// SAFETY: `repr(C)`, 4-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// What one call launches.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    anchors: Anchors,
    params: MatchAnchors,
    images: usize,
    boxes_per_image: usize,
    peaks: Launch,
    assign: Launch,
}

impl Plan {
    /// Plans for `images` of `boxes_per_image` boxes, which may be 0.
    ///
    /// # Errors
    /// When a scalar is out of its range, there are no anchors, no images or more than 65535, or 2^31 boxes and more.
    pub fn new(
        anchors: &Anchors,
        images: usize,
        boxes_per_image: usize,
        params: &MatchAnchors,
    ) -> Result<Self> {
        params.check()?;
        let most = i32::MAX as usize;
        for (argument, extent, least, most) in [
            ("images", images, 1, MAX_IMAGES),
            ("boxes", boxes_per_image, 0, most),
            ("anchors", anchors.count(), 1, most),
        ] {
            if !(least..=most).contains(&extent) {
                let rule = format!("in [{least}, {most}]");
                return Err(Error::input(OP, argument, rule, extent));
            }
        }
        let launch = |kernel, grid, threads| Launch {
            kernel,
            grid,
            block: [threads, 1, 1],
            shared_bytes: 0,
        };
        let blocks = anchors.count().div_ceil(ASSIGNED) as u32;
        let images_z = images as u32;
        // Without boxes, too: the first block of an image clears its count.
        let boxes = boxes_per_image.max(1) as u32;
        Ok(Self {
            anchors: anchors.clone(),
            params: *params,
            images,
            boxes_per_image,
            peaks: launch(PEAKS, [boxes, SLICES as u32, images_z], PEAK_THREADS),
            assign: launch(ASSIGN, [blocks, images_z, 1], ASSIGN_THREADS),
        })
    }

    /// Bytes of workspace: the largest overlap of each box with each slice of the anchors.
    pub fn workspace_bytes(&self) -> usize {
        piece(4 * SLICES * self.images * self.boxes_per_image)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{OP} [{} x {}] anchors, {} boxes an image: {} bytes at least\n  {}: {SLICES} blocks a box, so that a large one \
             is shared\n  {}: 4 anchors a thread, so that a box read from shared memory serves four",
            self.images,
            self.anchors.count(),
            self.boxes_per_image,
            self.images * (8 * self.anchors.count() + 20 * self.boxes_per_image),
            self.peaks,
            self.assign
        )
    }
}

/// Device buffers of one call. Shapes as in [`ops::match_anchors`](crate::ops::match_anchors).
pub struct Arguments<'a> {
    /// `[B, M, 4]`, aligned to 16 bytes.
    pub boxes: CudaView<'a, f32>,
    /// `[B, M]`.
    pub classes: CudaView<'a, i32>,
    /// `[B]`: boxes of each image that take part, or none for all.
    pub counts: Option<CudaView<'a, i32>>,
    /// `[B, R]`, written whole.
    pub labels: CudaViewMut<'a, i32>,
    /// `[B, R]`, written whole.
    pub matched: CudaViewMut<'a, i32>,
    /// `[B]`, written whole.
    pub foreground: CudaViewMut<'a, i32>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: two launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch(context: &Context, plan: &Plan, arguments: &mut Arguments<'_>) -> Result<()> {
    check(context, plan, arguments)?;
    let scalars = Scalars {
        boxes_per_image: plan.boxes_per_image as i32,
        high_threshold: plan.params.high_threshold,
        low_threshold: plan.params.low_threshold,
        low_quality: i32::from(plan.params.low_quality),
    };
    let table = AnchorTable::new(&plan.anchors);
    // The stream orders both launches; the guard's events would add nothing.
    let (peaks, _) = arguments.workspace.device_ptr_mut(context.stream());

    let function = context.function_for(&plan.peaks)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&table).arg(&arguments.boxes);
    builder.optional(&arguments.counts).arg(&peaks);
    builder.arg(&mut arguments.foreground);
    // SAFETY: the arguments are those of match_anchors_peaks_f32 in its order; `check` saw that the views hold M boxes and
    // one count an image, and the workspace 8 numbers a box.
    unsafe { builder.launch(plan.peaks.config()) }.map_err(driver_error("launching a kernel"))?;

    let function = context.function_for(&plan.assign)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&table).arg(&arguments.boxes);
    builder
        .arg(&arguments.classes)
        .optional(&arguments.counts)
        .arg(&peaks);
    builder
        .arg(&mut arguments.labels)
        .arg(&mut arguments.matched);
    builder.arg(&mut arguments.foreground);
    // SAFETY: the arguments are those of match_anchors_assign_f32 in its order; besides, `check` saw that labels and matches
    // hold R numbers an image.
    unsafe { builder.launch(plan.assign.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check(context: &Context, plan: &Plan, arguments: &Arguments<'_>) -> Result<()> {
    let boxes = plan.images * plan.boxes_per_image;
    let anchors = plan.images * plan.anchors.count();
    let counts = arguments.counts.as_ref().map(CudaView::len);
    let lengths = [
        ("boxes", Some(arguments.boxes.len()), 4 * boxes),
        ("classes", Some(arguments.classes.len()), boxes),
        ("counts", counts, plan.images),
        ("labels", Some(arguments.labels.len()), anchors),
        ("matched", Some(arguments.matched.len()), anchors),
        ("foreground", Some(arguments.foreground.len()), plan.images),
    ];
    check::given_lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())
}

/// Queues the op on buffers of its own: labels, matches and counts.
pub(crate) fn run(
    context: &Context,
    anchors: &Anchors,
    [images, boxes_per_image]: [usize; 2],
    params: &MatchAnchors,
    [boxes, classes]: [&Buffer; 2],
    counts: Option<&Buffer>,
) -> Result<[Buffer; 3]> {
    let plan = Plan::new(anchors, images, boxes_per_image, params)?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let all = images * anchors.count();
    let mut labels = Buffer::uninitialised(context, DType::I32, all)?;
    let mut matched = Buffer::uninitialised(context, DType::I32, all)?;
    let mut foreground = Buffer::uninitialised(context, DType::I32, images)?;
    let mut arguments = Arguments {
        boxes: boxes.view()?,
        classes: classes.view()?,
        counts: counts.map(Buffer::view).transpose()?,
        labels: labels.view_mut()?,
        matched: matched.view_mut()?,
        foreground: foreground.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok([labels, matched, foreground])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_it_does_and_why() {
        let anchors = Anchors::torchvision([800, 1344], &[[100, 168], [50, 84]]).unwrap();
        let plan = Plan::new(&anchors, 2, 0, &MatchAnchors::default()).unwrap();
        assert_eq!(
            plan.to_string(),
            "match_anchors [2 x 189000] anchors, 0 boxes an image: 3024000 bytes at least\n  match_anchors_peaks_f32 \
             <<<[1, 8, 2], [128, 1, 1], 0 B>>>: 8 blocks a box, so that a large one is shared\n  \
             match_anchors_assign_f32 <<<[185, 2, 1], [256, 1, 1], 0 B>>>: 4 anchors a thread, so that a box read from \
             shared memory serves four"
        );
        assert!(Plan::new(&anchors, 0, 1, &MatchAnchors::default()).is_err());
    }
}
