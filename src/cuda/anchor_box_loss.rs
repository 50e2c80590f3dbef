//! Box losses on CUDA: one pass over the matches by persistent blocks, then one small block that adds their sums.

use super::anchors::{Addresses, AnchorTable, addresses, addresses_mut, views};
use super::check;
use super::context::driver_error;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::workspace::{self, piece};
use super::{Buffer, Context, Properties};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::{AnchorBoxLoss, Anchors};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtrMut, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "anchor_box_loss";

const PASS: [Kernel; 3] = [
    kernel("anchor_box_loss_pass_f32"),
    kernel("anchor_box_loss_pass_f16"),
    kernel("anchor_box_loss_pass_bf16"),
];
const FINISH: Kernel = kernel("anchor_box_loss_finish_f32");

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "anchor_box_loss",
        symbol,
    }
}

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    PASS.into_iter().chain([FINISH])
}

const THREADS: u32 = 256;
/// Resident blocks aimed at: what the register file holds.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
/// Images are blocks in y.
const MAX_IMAGES: usize = 65_535;

/// Scalars, laid out as in `kernels/anchor_box_loss.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Scalars {
    boxes_per_image: i32,
    giou: i32,
    with_gradient: i32,
    aligned: i32,
    beta: f32,
    normalizer: f32,
}
const _: () = assert!(size_of::<Scalars>() == 24);

// SAFETY: `repr(C)`, 4-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Scalars {}

/// Where the levels lie, as in `kernels/anchor_box_loss.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Heads {
    deltas: Addresses,
    gradients: Addresses,
}

// SAFETY: `repr(C)`, 8-byte numbers without padding, and the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for Heads {}

/// What one call launches.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    anchors: Anchors,
    images: usize,
    boxes_per_image: usize,
    dtype: DType,
    pass: Launch,
    finish: Launch,
}

impl Plan {
    /// Plans for `images` of `boxes_per_image` boxes and deltas of type `dtype`.
    ///
    /// # Errors
    /// With no images or more than 65535, 2^31 boxes and more, or no float type.
    pub fn new(
        gpu: &Properties,
        anchors: &Anchors,
        images: usize,
        boxes_per_image: usize,
        dtype: DType,
    ) -> Result<Self> {
        for (argument, extent, least, most) in [
            ("images", images, 1, MAX_IMAGES),
            ("boxes", boxes_per_image, 0, i32::MAX as usize),
        ] {
            if !(least..=most).contains(&extent) {
                let rule = format!("in [{least}, {most}]");
                return Err(Error::input(OP, argument, rule, extent));
            }
        }
        let kernel = check::of_dtype(OP, "deltas", PASS, dtype)?;
        let resident = (gpu.multiprocessors as usize * BLOCKS_PER_MULTIPROCESSOR / images).max(1);
        let blocks = anchors
            .count()
            .div_ceil(THREADS as usize)
            .clamp(1, resident);
        let launch = |kernel, grid| Launch {
            kernel,
            grid,
            block: [THREADS, 1, 1],
            shared_bytes: 0,
        };
        Ok(Self {
            anchors: anchors.clone(),
            images,
            boxes_per_image,
            dtype,
            pass: launch(kernel, [blocks as u32, images as u32, 1]),
            finish: launch(FINISH, [1, 1, 1]),
        })
    }

    fn blocks(&self) -> usize {
        self.pass.grid[0] as usize * self.images
    }

    /// Bytes of workspace: one sum a block.
    pub fn workspace_bytes(&self) -> usize {
        piece(size_of::<f64>() * self.blocks())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.images * self.anchors.count();
        write!(
            f,
            "{OP} [{rows}, 4] {}: {} bytes at least with the gradient\n  {}: at most {BLOCKS_PER_MULTIPROCESSOR} blocks a \
             multiprocessor (registers)\n  {}: one block, so that the order of the sum is fixed",
            self.dtype,
            rows * 4 * (1 + self.dtype.size()),
            self.pass,
            self.finish
        )
    }
}

/// Device buffers of one call. Shapes as in [`ops::anchor_box_loss`](crate::ops::anchor_box_loss).
pub struct Arguments<'a, T> {
    /// `[B, H, W, A * 4]` of each level. Any alignment.
    pub deltas: &'a [CudaView<'a, T>],
    /// `[B, M, 4]`, aligned to 16 bytes.
    pub boxes: CudaView<'a, f32>,
    /// `[B, R]`.
    pub matched: CudaView<'a, i32>,
    /// `[B]`: the loss of an image is divided by this, or 1 where it is less; none for 1.
    pub foreground: Option<CudaView<'a, i32>>,
    /// One scalar that multiplies the gradient; 1 where there is none.
    pub upstream: Option<CudaView<'a, f32>>,
    /// Takes the loss, one element.
    pub loss: CudaViewMut<'a, f32>,
    /// Takes the gradient, in the shape of the deltas, where it is wanted. Alignment to four elements is fastest.
    pub gradients: Option<&'a mut [CudaViewMut<'a, T>]>,
    /// At least [`Plan::workspace_bytes`], aligned to [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: two launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length, type or alignment does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    params: &AnchorBoxLoss,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    params.check()?;
    let heads = check(context, plan, arguments)?;
    let row_bytes = 4 * T::DTYPE.size() as u64;
    let scalars = Scalars {
        boxes_per_image: plan.boxes_per_image as i32,
        giou: i32::from(params.beta().is_none()),
        with_gradient: i32::from(arguments.gradients.is_some()),
        aligned: i32::from(
            heads
                .gradients
                .iter()
                .all(|address| address % row_bytes == 0),
        ),
        beta: params.beta().unwrap_or(0.0),
        normalizer: params.normalizer,
    };
    let table = AnchorTable::new(&plan.anchors);
    // The stream orders both launches; the guard's events would add nothing.
    let (sums, _) = arguments.workspace.device_ptr_mut(context.stream());

    let function = context.function_for(&plan.pass)?;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&scalars).arg(&table).arg(&heads);
    builder.arg(&arguments.boxes).arg(&arguments.matched);
    builder
        .optional(&arguments.foreground)
        .optional(&arguments.upstream)
        .arg(&sums);
    // SAFETY: the arguments are those of anchor_box_loss_pass_T in its order; `check` saw that each level holds the rows
    // that the table's extents give, that the other views hold M boxes, R matches and one count an image, and that the
    // workspace holds a sum a block. A match outside [0, M) is not followed.
    unsafe { builder.launch(plan.pass.config()) }.map_err(driver_error("launching a kernel"))?;

    let function = context.function_for(&plan.finish)?;
    let blocks = plan.blocks() as i32;
    let mut builder = context.stream().launch_builder(&function);
    builder.arg(&blocks).arg(&sums).arg(&mut arguments.loss);
    // SAFETY: the kernel takes (int, const double*, float*); it reads `blocks` sums and writes one element, both checked to
    // be there.
    unsafe { builder.launch(plan.finish.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<Heads> {
    check::planned_dtype::<T>(OP, "deltas", plan.dtype)?;
    let lengths = || {
        let levels = plan.anchors.levels().iter();
        levels.map(|level| 4 * plan.images * level.count())
    };
    let heads = Heads {
        deltas: addresses(OP, "deltas", context, arguments.deltas, lengths())?,
        gradients: match &mut arguments.gradients {
            Some(levels) => addresses_mut(OP, "gradients", context, levels, lengths())?,
            None => Addresses::default(),
        },
    };
    let boxes = 4 * plan.images * plan.boxes_per_image;
    let rows = plan.images * plan.anchors.count();
    let foreground = arguments.foreground.as_ref().map(CudaView::len);
    let upstream = arguments.upstream.as_ref().map(CudaView::len);
    let lengths = [
        ("boxes", Some(arguments.boxes.len()), boxes),
        ("matched", Some(arguments.matched.len()), rows),
        ("foreground", foreground, plan.images),
        ("upstream", upstream, 1),
        ("loss", Some(arguments.loss.len()), 1),
    ];
    check::given_lengths(OP, &lengths)?;
    check::boxes_aligned(OP, context, &arguments.boxes)?;
    workspace::check(OP, context, &arguments.workspace, plan.workspace_bytes())?;
    Ok(heads)
}

/// What a call of [`run`] reads.
pub(crate) struct Inputs<'a> {
    pub deltas: &'a [&'a Buffer],
    pub boxes: &'a Buffer,
    pub matched: &'a Buffer,
    pub foreground: Option<&'a Buffer>,
    pub upstream: Option<&'a Buffer>,
}

/// Queues the op on buffers of its own: the loss, and gradients where they are wanted.
pub(crate) fn run<T: Float>(
    context: &Context,
    anchors: &Anchors,
    [images, boxes_per_image]: [usize; 2],
    params: &AnchorBoxLoss,
    inputs: &Inputs<'_>,
    with_gradient: bool,
) -> Result<(Buffer, Vec<Buffer>)> {
    let plan = Plan::new(
        context.properties(),
        anchors,
        images,
        boxes_per_image,
        T::DTYPE,
    )?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut loss = Buffer::uninitialised(context, DType::F32, 1)?;
    let wanted = if with_gradient { inputs.deltas } else { &[] };
    let mut gradients = wanted
        .iter()
        .map(|level| Buffer::uninitialised(context, T::DTYPE, level.len()))
        .collect::<Result<Vec<_>>>()?;
    let deltas = views::<T>(inputs.deltas)?;
    let mut views = gradients
        .iter_mut()
        .map(Buffer::view_mut)
        .collect::<Result<Vec<_>>>()?;
    let mut arguments = Arguments {
        deltas: &deltas,
        boxes: inputs.boxes.view()?,
        matched: inputs.matched.view()?,
        foreground: inputs.foreground.map(Buffer::view).transpose()?,
        upstream: inputs.upstream.map(Buffer::view).transpose()?,
        loss: loss.view_mut()?,
        gradients: with_gradient.then_some(&mut views),
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, params, &mut arguments)?;
    Ok((loss, gradients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_it_does_and_why() {
        let gpu = Properties::new((9, 0), 132, 232_448);
        let anchors = Anchors::torchvision([800, 1344], &[[100, 168], [50, 84]]).unwrap();
        let plan = Plan::new(&gpu, &anchors, 2, 50, DType::BF16).unwrap();
        assert_eq!(
            plan.to_string(),
            "anchor_box_loss [378000, 4] bf16: 4536000 bytes at least with the gradient\n  anchor_box_loss_pass_bf16 \
             <<<[264, 2, 1], [256, 1, 1], 0 B>>>: at most 4 blocks a multiprocessor (registers)\n  \
             anchor_box_loss_finish_f32 <<<[1, 1, 1], [256, 1, 1], 0 B>>>: one block, so that the order of the sum is \
             fixed"
        );
        assert!(Plan::new(&gpu, &anchors, 2, 50, DType::I32).is_err());
        assert!(Plan::new(&gpu, &anchors, 0, 50, DType::F32).is_err());
    }
}
