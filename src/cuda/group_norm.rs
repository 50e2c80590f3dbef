//! Group norm on CUDA: sums of chunks of pixels, moments, and a pass that applies them.

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, Launch};
use super::span::Spans;
use super::{Buffer, Context, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::GroupNorm;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "group_norm";
const IMAGE: &str = "dense/group_norm";
const SUMS: [&str; 3] = [
    "group_norm_sums_f32",
    "group_norm_sums_f16",
    "group_norm_sums_bf16",
];
const MOMENTS: &str = "group_norm_moments_f64";
const APPLY: [&str; 3] = [
    "group_norm_apply_f32",
    "group_norm_apply_f16",
    "group_norm_apply_bf16",
];

/// Threads of a block.
const THREADS: usize = 256;
/// Elements of a block of the sums: 64 of a thread, to pay for its last step over all channels.
const CHUNK: usize = 64 * THREADS;
/// Shared memory that a block may use without asking, and what a channel needs of it.
const SHARED_BYTES: usize = 48 * 1024;
const CHANNEL_BYTES: usize = 2 * size_of::<f64>();
/// Most blocks in y.
const MAX_IMAGES: usize = 65_535;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let symbols = SUMS.into_iter().chain([MOMENTS]).chain(APPLY);
    symbols.map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How images are laid over the GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Images, pixels of an image, channels.
    extents: [usize; 3],
    params: GroupNorm,
    dtype: DType,
    chunk: usize,
    sums: Launch,
    moments: Launch,
}

impl Plan {
    /// Plans for images of `[images, pixels, channels]`, at least one of each.
    ///
    /// # Errors
    /// When an extent is 0 or too large (3,072 channels, 65,535 images), the scalars do not fit, or
    /// `dtype` is no float type.
    pub fn new(extents: [usize; 3], params: &GroupNorm, dtype: DType) -> Result<Self> {
        let [images, pixels, channels] = extents;
        params.check(channels)?;
        check::limited(OP, &[("pixels of an image", pixels)])?;
        let most = SHARED_BYTES / CHANNEL_BYTES;
        if !(1..=MAX_IMAGES).contains(&images) || pixels == 0 || !(1..=most).contains(&channels) {
            let rule =
                format!("1 to {MAX_IMAGES} images of at least 1 pixel and 1 to {most} channels");
            return Err(Error::input(OP, "x", rule, format!("{extents:?}")));
        }
        let chunk = (CHUNK / channels).max(1);
        let launch = |symbol, grid, threads, shared_bytes| Launch {
            kernel: Kernel {
                image: IMAGE,
                symbol,
            },
            grid,
            block: [threads, 1, 1],
            shared_bytes,
        };
        let blocks = [pixels.div_ceil(chunk) as u32, images as u32, 1];
        let shared = (channels.max(THREADS) * CHANNEL_BYTES) as u32;
        let groups = [params.groups as u32, images as u32, 1];
        Ok(Self {
            extents,
            params: *params,
            dtype,
            chunk,
            sums: launch(
                check::of_dtype(OP, "x", SUMS, dtype)?,
                blocks,
                THREADS as u32,
                shared,
            ),
            moments: launch(MOMENTS, groups, 32, 0),
        })
    }

    /// Bytes of workspace: two sums a group and chunk, two moments a group.
    pub fn workspace_bytes(&self) -> usize {
        self.sums_bytes() + workspace::piece(self.groups() * 2 * size_of::<f32>())
    }

    fn sums_bytes(&self) -> usize {
        workspace::piece(self.groups() * self.chunks() * CHANNEL_BYTES)
    }

    fn groups(&self) -> usize {
        self.extents[0] * self.params.groups
    }

    fn chunks(&self) -> usize {
        self.sums.grid[0] as usize
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.extents.iter().product::<usize>() * self.dtype.size();
        let (groups, chunk) = (self.params.groups, self.chunk);
        writeln!(
            f,
            "{OP} {:?} {} in {groups} groups: {} bytes, {} where L2 does not hold x",
            self.extents,
            self.dtype,
            2 * bytes,
            3 * bytes
        )?;
        writeln!(
            f,
            "  {}: {chunk} pixels a block, 64 elements a thread",
            self.sums
        )?;
        writeln!(f, "  {}: a warp a group", self.moments)?;
        write!(f, "  then a thread for each 16 bytes")
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// `images * pixels * channels` elements.
    pub x: CudaView<'a, T>,
    /// `channels` elements.
    pub weight: CudaView<'a, T>,
    /// `channels` elements.
    pub bias: CudaView<'a, T>,
    /// As long as `x`.
    pub out: CudaViewMut<'a, T>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// The kernels' scalars. Mirrors `Scalars` in `kernels/dense/group_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    vectors: i64,
    pixels: i32,
    channels: i32,
    groups: i32,
    chunk: i32,
    chunks: i32,
    epsilon: f32,
    activation: i32,
    wide: i32,
    by_channels: Divisor,
    by_pixels: Divisor,
    by_width: Divisor,
}

const _: () = {
    assert!(size_of::<Scalars>() == 64);
    assert!(std::mem::offset_of!(Scalars, wide) == 36);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

/// Queues the op on the context's stream: three launches, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let [_, pixels, channels] = plan.extents;
    let elements = plan.extents.iter().product();
    check::planned_dtype::<T>(OP, "x", plan.dtype)?;
    let Arguments {
        x,
        weight,
        bias,
        out,
        workspace,
    } = arguments;
    check::lengths(
        OP,
        &[
            ("x", x.len(), elements),
            ("weight", weight.len(), channels),
            ("bias", bias.len(), channels),
            ("out", out.len(), elements),
        ],
    )?;
    workspace::check(OP, context, workspace, plan.workspace_bytes())?;
    let stream = context.stream();
    let addresses = [
        x.device_ptr(stream).0,
        weight.device_ptr(stream).0,
        bias.device_ptr(stream).0,
        out.device_ptr(stream).0,
    ];
    let spans = Spans::new(elements, channels, T::DTYPE, &addresses);
    let apply = Kernel {
        image: IMAGE,
        symbol: check::of_dtype(OP, "x", APPLY, T::DTYPE)?,
    };
    let apply = spans.launch(OP, apply)?;
    let scalars = Scalars {
        vectors: spans.vectors,
        pixels: pixels as i32,
        channels: channels as i32,
        groups: plan.params.groups as i32,
        chunk: plan.chunk as i32,
        chunks: plan.chunks() as i32,
        epsilon: plan.params.epsilon,
        activation: plan.params.activation.code(),
        wide: i32::from(spans.wide),
        by_channels: Divisor::of(channels as i64),
        by_pixels: Divisor::of(pixels as i64),
        by_width: Divisor::of((channels / plan.params.groups) as i64),
    };
    let (mut sums, mut moments) = workspace.split_at_mut(plan.sums_bytes());
    let functions = [&plan.sums, &plan.moments, &apply].map(|launch| context.function_for(launch));
    let [of_sums, of_moments, of_apply] = functions;
    let (of_sums, of_moments, of_apply) = (of_sums?, of_moments?, of_apply?);
    let mut builder = stream.launch_builder(&of_sums);
    builder.arg(&scalars).arg(&*x).arg(&mut sums);
    // SAFETY: the kernel takes (Scalars, const T*, double2*), reads all of x, whose length was
    // checked, and writes two sums for each image, chunk and group, as `sums_bytes` counts them; its
    // shared memory holds two sums for each channel, or each thread where there are more.
    unsafe { builder.launch(plan.sums.config()) }.map_err(driver_error("launching a kernel"))?;
    let sums = sums.as_view();
    let mut builder = stream.launch_builder(&of_moments);
    builder.arg(&scalars).arg(&sums).arg(&mut moments);
    // SAFETY: the kernel takes (Scalars, const double2*, float2*), reads what was just written and
    // writes two moments for each image and group, as the second piece of the workspace holds them.
    unsafe { builder.launch(plan.moments.config()) }.map_err(driver_error("launching a kernel"))?;
    let moments = moments.as_view();
    let mut builder = stream.launch_builder(&of_apply);
    builder
        .arg(&scalars)
        .arg(&*x)
        .arg(&*weight)
        .arg(&*bias)
        .arg(&moments)
        .arg(out);
    // SAFETY: the kernel takes (Scalars, const T* x, weight, bias, const float2*, T* out) and touches
    // `vectors` spans of x and out, which are all of them, a weight and a bias a channel, and the
    // moments.
    unsafe { builder.launch(apply.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// The norm of whole buffers. See [`ops::group_norm`](crate::ops::group_norm()).
pub(crate) fn run<T: Float>(
    context: &Context,
    extents: [usize; 3],
    [x, weight, bias]: [&Buffer; 3],
    params: &GroupNorm,
) -> Result<Buffer> {
    let plan = Plan::new(extents, params, T::DTYPE)?;
    let mut out = Buffer::uninitialised(context, T::DTYPE, x.len())?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let mut arguments = Arguments::<T> {
        x: x.view()?,
        weight: weight.view()?,
        bias: bias.view()?,
        out: out.view_mut()?,
        workspace: workspace.as_view_mut(),
    };
    launch(context, &plan, &mut arguments)?;
    Ok(out)
}
