//! The sum of two corner pools on CUDA, and its gradients: one launch over both maps where their pixels are
//! whole vectors, else two, of which the second adds to the output of the first.

mod plan;

pub use plan::Plan;
pub(super) use plan::kernels;

use super::check;
use super::context::driver_error;
use super::corner_pool::{self, Pass, is_aligned};
use super::{Buffer, Context, workspace};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::{Corner, Layout, Scan};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, PushKernelArg};
use plan::One;

const OP: &str = "corner_pool_pair";
/// Device buffers of a forward pass, contiguous; 16-byte alignment is fastest.
pub struct Forward<'a, T> {
    /// The map that is pooled vertically.
    pub vertical: CudaView<'a, T>,
    /// The map that is pooled horizontally.
    pub horizontal: CudaView<'a, T>,
    /// Takes the sum.
    pub output: CudaViewMut<'a, T>,
    /// Take [`Scan::bit_words`] words of the vertical and of the horizontal scan, for a backward pass.
    pub bits: Option<[CudaViewMut<'a, i32>; 2]>,
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Device buffers of a backward pass, contiguous; 16-byte alignment is fastest.
pub struct Backward<'a, T> {
    /// Gradient of the sum.
    pub upstream: CudaView<'a, T>,
    /// What the forward pass wrote.
    pub bits: [CudaView<'a, i32>; 2],
    /// Take the gradients of the vertical and of the horizontal map.
    pub gradients: [CudaViewMut<'a, T>; 2],
    /// At least [`Plan::workspace_bytes`], aligned to
    /// [`WORKSPACE_ALIGNMENT`](super::WORKSPACE_ALIGNMENT).
    pub workspace: CudaViewMut<'a, u8>,
}

/// Queues the op on the context's stream: a fill of the flags and one launch, or two launches; no
/// allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn forward<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Forward<'_, T>,
) -> Result<()> {
    check(context, plan, T::DTYPE, Pass::Forward, &arguments.workspace)?;
    let scans = plan.scans();
    let elements = scans[0].elements();
    check::length(OP, "vertical", arguments.vertical.len(), elements)?;
    check::length(OP, "horizontal", arguments.horizontal.len(), elements)?;
    check::length(OP, "output", arguments.output.len(), elements)?;
    if let Some(bits) = &arguments.bits {
        check::length(OP, "bits", bits[0].len(), scans[0].bit_words())?;
        check::length(OP, "bits", bits[1].len(), scans[1].bit_words())?;
    }
    let stream = context.stream();
    let mut addresses = arguments.vertical.device_ptr(stream).0
        | arguments.horizontal.device_ptr(stream).0
        | arguments.output.device_ptr_mut(stream).0;
    for bits in arguments.bits.iter_mut().flatten() {
        addresses |= bits.device_ptr_mut(stream).0;
    }
    match &plan.one {
        Some(one) if is_aligned(addresses) => queue_one(context, one, arguments),
        _ => queue_pools(context, plan, arguments),
    }
}

fn queue_one<T: Float>(context: &Context, one: &One, arguments: &mut Forward<'_, T>) -> Result<()> {
    let stream = context.stream();
    let (mut control, mut carries) = arguments.workspace.split_at_mut(one.control_bytes());
    stream
        .memset_zeros(&mut control)
        .map_err(driver_error("clearing flags"))?;
    let function = context.function_for(&one.launch)?;
    let mut builder = stream.launch_builder(&function);
    let null = 0u64;
    builder.arg(&one.scalars);
    builder.arg(&arguments.vertical).arg(&arguments.horizontal);
    builder.arg(&mut arguments.output);
    match &mut arguments.bits {
        Some([down, across]) => builder.arg(down).arg(across),
        None => builder.arg(&null).arg(&null),
    };
    builder.arg(&mut control).arg(&mut carries);
    // SAFETY: the kernel takes (PairScalars, const T* twice, T*, unsigned char* twice, int*, uint4*), the
    // bits null or not, and the plan chose the one for `T`. It touches the elements of the three maps and
    // the bytes of the bits, a ticket, a flag a tile and its carries: all lengths were checked.
    unsafe { builder.launch(one.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn queue_pools<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Forward<'_, T>,
) -> Result<()> {
    let maps = [&arguments.vertical, &arguments.horizontal];
    for (at, map) in maps.into_iter().enumerate() {
        let mut pool = corner_pool::Forward::<T> {
            input: map.slice(..),
            output: arguments.output.slice_mut(..),
            bits: arguments.bits.as_mut().map(|bits| bits[at].slice_mut(..)),
            accumulate: at == 1,
        };
        corner_pool::forward(context, &plan.pools[at], &mut pool)?;
    }
    Ok(())
}

/// Queues a backward pass on the context's stream: a fill of the flags and one launch, or two launches; no
/// allocation, no waiting.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Backward<'_, T>,
) -> Result<()> {
    check(
        context,
        plan,
        T::DTYPE,
        Pass::Backward,
        &arguments.workspace,
    )?;
    let scans = plan.scans();
    let elements = scans[0].elements();
    check::length(OP, "upstream", arguments.upstream.len(), elements)?;
    let stream = context.stream();
    let mut addresses = arguments.upstream.device_ptr(stream).0;
    for (at, scan) in scans.into_iter().enumerate() {
        check::length(OP, "bits", arguments.bits[at].len(), scan.bit_words())?;
        check::length(OP, "gradients", arguments.gradients[at].len(), elements)?;
        addresses |= arguments.bits[at].device_ptr(stream).0;
        addresses |= arguments.gradients[at].device_ptr_mut(stream).0;
    }
    match &plan.one {
        Some(one) if is_aligned(addresses) => queue_one_backward(context, one, arguments),
        _ => {
            for at in 0..2 {
                let mut pool = corner_pool::Backward::<T> {
                    upstream: arguments.upstream.slice(..),
                    bits: arguments.bits[at].slice(..),
                    gradient: arguments.gradients[at].slice_mut(..),
                };
                corner_pool::backward(context, &plan.pools[at], &mut pool)?;
            }
            Ok(())
        }
    }
}

fn queue_one_backward<T: Float>(
    context: &Context,
    one: &One,
    arguments: &mut Backward<'_, T>,
) -> Result<()> {
    let stream = context.stream();
    let (mut control, mut carries) = arguments.workspace.split_at_mut(one.control_bytes());
    stream
        .memset_zeros(&mut control)
        .map_err(driver_error("clearing flags"))?;
    let function = context.function_for(&one.launch)?;
    let mut builder = stream.launch_builder(&function);
    let [down, across] = &mut arguments.gradients;
    builder.arg(&one.scalars).arg(&arguments.upstream);
    builder.arg(&arguments.bits[0]).arg(&arguments.bits[1]);
    builder.arg(down).arg(across);
    builder.arg(&mut control).arg(&mut carries);
    // SAFETY: the kernel takes (PairScalars, const T*, const unsigned char* twice, T* twice, int*, unsigned
    // char*), and the plan chose the one for `T`. It touches the elements of the three maps and the bytes of
    // the bits, a ticket, a flag a tile and its carries: all lengths were checked. What the bits hold selects
    // values, never addresses.
    unsafe { builder.launch(one.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check(
    context: &Context,
    plan: &Plan,
    dtype: DType,
    pass: Pass,
    workspace: &CudaViewMut<'_, u8>,
) -> Result<()> {
    if dtype != plan.dtype {
        let rule = format!("of the plan's type {}", plan.dtype);
        return Err(Error::input(OP, "maps", rule, dtype));
    }
    if pass != plan.pass {
        let value = format!("{:?}", plan.pass);
        return Err(Error::input(OP, "plan", format!("for {pass:?}"), value));
    }
    workspace::check(OP, context, workspace, plan.workspace_bytes())
}

/// The maps of a pair in whole buffers: vertical, horizontal, and how they are pooled.
pub(crate) struct Maps<'a> {
    pub(crate) vertical: &'a Buffer,
    pub(crate) horizontal: &'a Buffer,
    pub(crate) shape: [usize; 4],
    pub(crate) corner: Corner,
    pub(crate) layout: Layout,
}

/// The sum of two pools, and the bits of both where asked for. See
/// [`ops::corner_pool_pair`](crate::ops::corner_pool_pair()).
pub(crate) fn run<T: Float>(
    context: &Context,
    maps: &Maps<'_>,
    bits: Option<&mut [Buffer; 2]>,
) -> Result<Buffer> {
    let plan = Plan::new(
        maps.shape,
        maps.corner,
        maps.layout,
        T::DTYPE,
        Pass::Forward,
    )?;
    let mut output = Buffer::uninitialised(context, T::DTYPE, maps.vertical.len())?;
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let bits = match bits {
        Some([down, across]) => Some([down.view_mut()?, across.view_mut()?]),
        None => None,
    };
    let mut arguments = Forward::<T> {
        vertical: maps.vertical.view()?,
        horizontal: maps.horizontal.view()?,
        output: output.view_mut()?,
        bits,
        workspace: workspace.as_view_mut(),
    };
    forward(context, &plan, &mut arguments)?;
    Ok(output)
}

/// Room for the bits of both scans.
pub(crate) fn bits(context: &Context, scans: [&Scan; 2]) -> Result<[Buffer; 2]> {
    let bits = |scan: &Scan| Buffer::uninitialised(context, DType::I32, scan.bit_words());
    Ok([bits(scans[0])?, bits(scans[1])?])
}

/// The gradients of a pair. See
/// [`ops::corner_pool_pair_backward`](crate::ops::corner_pool_pair_backward()).
pub(crate) fn run_backward<T: Float>(
    context: &Context,
    upstream: &Buffer,
    bits: [&Buffer; 2],
    shape: [usize; 4],
    (corner, layout): (Corner, Layout),
) -> Result<[Buffer; 2]> {
    let plan = Plan::new(shape, corner, layout, T::DTYPE, Pass::Backward)?;
    let gradient = || Buffer::uninitialised(context, T::DTYPE, upstream.len());
    let mut gradients = [gradient()?, gradient()?];
    let mut workspace = workspace::allocate(context, plan.workspace_bytes())?;
    let [down, across] = &mut gradients;
    let mut arguments = Backward::<T> {
        upstream: upstream.view()?,
        bits: [bits[0].view()?, bits[1].view()?],
        gradients: [down.view_mut()?, across.view_mut()?],
        workspace: workspace.as_view_mut(),
    };
    backward(context, &plan, &mut arguments)?;
    Ok(gradients)
}
