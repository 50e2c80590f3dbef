//! Linear layers and convolutions on CUDA: one matrix kernel, whose left matrix is gathered from
//! the images.

mod geometry;

pub use geometry::{Geometry, lay_out};

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, Launch, OptionalArgument};
use super::{Buffer, Context, Properties};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::Activation;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};
use std::fmt;

const OP: &str = "matmul";
const IMAGE: &str = "dense/matmul";

/// Of f32 there is the small tile alone: three products and their operands' parts take the registers
/// of the large one.
const KERNELS: [&str; 5] = [
    "matmul_128_f16",
    "matmul_128_bf16",
    "matmul_64_f16",
    "matmul_64_bf16",
    "matmul_64_f32",
];

/// Stages of the pipeline, and bytes of a row in one. As in `kernels/dense`.
const STAGES: u32 = 4;
const STAGE_ROW_BYTES: u32 = 64;
/// Bytes of one copy.
const CHUNK_BYTES: usize = 16;

/// Every kernel of the op.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    KERNELS.into_iter().map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// How a product is laid over the GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    geometry: Geometry,
    dtype: DType,
    /// Rows and columns of a block's tile.
    tile: usize,
    column_tiles: usize,
    launch: Launch,
}

impl Plan {
    /// Plans a product of matrices of type `dtype`.
    ///
    /// # Errors
    /// When `dtype` is no float type, or the output has too many tiles.
    pub fn new(gpu: &Properties, geometry: Geometry, dtype: DType) -> Result<Self> {
        let tiles = |tile| {
            (
                geometry.rows().div_ceil(tile),
                geometry.outputs().div_ceil(tile),
            )
        };
        let (rows, columns) = tiles(128);
        // A large tile reads half as much, which pays where there is one for each multiprocessor.
        let large = rows.saturating_mul(columns) >= gpu.multiprocessors as usize;
        let (symbol, tile) = match (dtype, large) {
            (DType::F16, true) => (KERNELS[0], 128),
            (DType::BF16, true) => (KERNELS[1], 128),
            (DType::F16, false) => (KERNELS[2], 64),
            (DType::BF16, false) => (KERNELS[3], 64),
            (DType::F32, _) => (KERNELS[4], 64),
            (DType::I32, _) => {
                return Err(Error::input(OP, "x", "of type f32, f16 or bf16", dtype));
            }
        };
        let (rows, columns) = tiles(tile);
        let blocks = rows
            .checked_mul(columns)
            .and_then(|blocks| i32::try_from(blocks).ok());
        let Some(blocks) = blocks else {
            let rule = format!("at most 2^31 tiles of {tile} x {tile}");
            return Err(Error::input(
                OP,
                "output",
                rule,
                format!("{rows} x {columns}"),
            ));
        };
        // Two warps down; each 32 columns across and half of the tile's rows.
        let threads = tile as u32 / 32 * 64;
        let launch = Launch {
            kernel: Kernel {
                image: IMAGE,
                symbol,
            },
            grid: [blocks as u32, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: STAGES * 2 * tile as u32 * STAGE_ROW_BYTES,
        };
        Ok(Self {
            geometry,
            dtype,
            tile,
            column_tiles: columns,
            launch,
        })
    }

    /// The product.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let g = &self.geometry;
        let elements = g.inputs_len() + g.outputs() * g.steps() + g.outputs_len();
        writeln!(
            f,
            "{OP} [{}, {}] x [{}, {}] {}: {} bytes and {} multiply-adds at least",
            g.rows(),
            g.steps(),
            g.steps(),
            g.outputs(),
            self.dtype,
            elements * self.dtype.size(),
            g.outputs_len() as u128 * g.steps() as u128,
        )?;
        let reason = match (self.dtype, self.tile) {
            (DType::F32, _) => "the sums and three products' operands fill the registers",
            (_, 128) => "one block or more a multiprocessor",
            _ => "128 x 128 would leave multiprocessors idle",
        };
        write!(
            f,
            "  {}: tiles of {} x {} ({reason}), {STAGES} stages of {STAGE_ROW_BYTES} bytes a row",
            self.launch, self.tile, self.tile
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// The images, `[B, H, W, C]`, or the rows of a linear layer. Chunks of 16 bytes are copied whole
    /// where the address and C allow it; else element by element, several times slower.
    pub x: CudaView<'a, T>,
    /// The weight as [`lay_out`] makes it, aligned to 16 bytes.
    pub weight: CudaView<'a, T>,
    /// One an output.
    pub bias: Option<CudaView<'a, T>>,
    /// Laid out as `out`.
    pub residual: Option<CudaView<'a, T>>,
    /// Takes the result `[M, N]`. Stores are of 16 bytes where the addresses and N allow it.
    pub out: CudaViewMut<'a, T>,
}

/// The kernel's scalars. Mirrors `Scalars` in `kernels/dense/gather.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    rows: i32,
    outputs: i32,
    steps: i32,
    weight_pitch: i32,
    height: i32,
    width: i32,
    channels: i32,
    kernel_width: i32,
    stride: i32,
    padding: i32,
    pixels: i32,
    out_width: i32,
    by_pixels: Divisor,
    by_out_width: Divisor,
    column_tiles: i32,
    activation: i32,
    wide_input: i32,
    wide_output: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 80);
    assert!(std::mem::offset_of!(Scalars, by_pixels) == 48);
    assert!(std::mem::offset_of!(Scalars, wide_output) == 76);
};

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

impl Scalars {
    fn new(plan: &Plan, activation: Activation, [wide_input, wide_output]: [bool; 2]) -> Self {
        let g = &plan.geometry;
        let [_, height, width, channels] = g.input;
        let pixels = g.output[0] * g.output[1];
        // `Geometry` holds every number below 2^31.
        Self {
            rows: g.rows() as i32,
            outputs: g.outputs as i32,
            steps: g.steps() as i32,
            weight_pitch: g.weight_pitch() as i32,
            height: height as i32,
            width: width as i32,
            channels: channels as i32,
            kernel_width: g.kernel[1] as i32,
            stride: g.stride as i32,
            padding: g.padding as i32,
            pixels: pixels as i32,
            out_width: g.output[1] as i32,
            by_pixels: Divisor::new(pixels as u32),
            by_out_width: Divisor::new(g.output[1] as u32),
            column_tiles: plan.column_tiles as i32,
            activation: activation.code(),
            wide_input: i32::from(wide_input),
            wide_output: i32::from(wide_output),
        }
    }
}

/// Queues the product on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length or alignment does not fit the plan;
/// [`Error::ImageUnfit`] or [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    activation: Activation,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    check(plan, arguments)?;
    let stream = context.stream();
    let address = |view: &CudaView<'_, T>| view.device_ptr(stream).0;
    if !address(&arguments.weight).is_multiple_of(CHUNK_BYTES as u64) {
        let value = format!("{:#x}", address(&arguments.weight));
        return Err(Error::input(OP, "weight", "aligned to 16 bytes", value));
    }
    let whole = |elements: usize| (elements * T::DTYPE.size()).is_multiple_of(CHUNK_BYTES);
    let output =
        arguments.out.device_ptr(stream).0 | arguments.residual.as_ref().map_or(0, address);
    let wide = [
        whole(plan.geometry.input[3]) && address(&arguments.x).is_multiple_of(CHUNK_BYTES as u64),
        whole(plan.geometry.outputs) && output.is_multiple_of(CHUNK_BYTES as u64),
    ];
    let scalars = Scalars::new(plan, activation, wide);
    let function = context.function_for(&plan.launch)?;
    let mut builder = stream.launch_builder(&function);
    builder
        .arg(&scalars)
        .arg(&arguments.x)
        .arg(&arguments.weight);
    builder
        .optional(&arguments.bias)
        .optional(&arguments.residual);
    builder.arg(&mut arguments.out);
    // SAFETY: the kernel takes (Scalars, const T* x, weight, bias, residual, T* out), and `plan`
    // chose the one for `T`. `check` held every length: it reads images, laid out weight, N biases
    // and M * N residuals, and writes M * N results; bias and residual may be null. It copies 16
    // bytes at a time only where `wide` found whole aligned chunks, and of the weight, whose
    // alignment was checked.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

fn check<T: Float>(plan: &Plan, arguments: &Arguments<'_, T>) -> Result<()> {
    check::planned_dtype::<T>(OP, "x", plan.dtype)?;
    let g = &plan.geometry;
    let optional =
        |view: &Option<CudaView<'_, T>>, len| view.as_ref().map_or(len, |view| view.len());
    let lengths = [
        ("x", arguments.x.len(), g.inputs_len()),
        ("weight", arguments.weight.len(), g.weight_len()),
        ("bias", optional(&arguments.bias, g.outputs()), g.outputs()),
        (
            "residual",
            optional(&arguments.residual, g.outputs_len()),
            g.outputs_len(),
        ),
        ("out", arguments.out.len(), g.outputs_len()),
    ];
    check::lengths(OP, &lengths)?;
    Ok(())
}

/// The product of whole buffers. See [`ops::linear`](crate::ops::linear()) and
/// [`ops::conv2d`](crate::ops::conv2d()).
pub(crate) fn run<T: Float>(
    context: &Context,
    geometry: Geometry,
    activation: Activation,
    [x, weight]: [&Buffer; 2],
    [bias, residual]: [Option<&Buffer>; 2],
) -> Result<Buffer> {
    let plan = Plan::new(context.properties(), geometry, T::DTYPE)?;
    let mut out = Buffer::uninitialised(context, T::DTYPE, geometry.outputs_len())?;
    let mut arguments = Arguments::<T> {
        x: x.view()?,
        weight: weight.view()?,
        bias: bias.map(Buffer::view).transpose()?,
        residual: residual.map(Buffer::view).transpose()?,
        out: out.view_mut()?,
    };
    launch(context, &plan, activation, &mut arguments)?;
    Ok(out)
}
