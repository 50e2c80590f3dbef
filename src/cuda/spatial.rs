//! Pooling, upsampling and resizing of images `[B, H, W, C]` on CUDA: a thread for each 16 bytes of
//! channels of an output pixel.

use super::check;
use super::context::driver_error;
use super::divisor::Divisor;
use super::launch::{Kernel, OptionalArgument};
use super::span::Spans;
use super::{Buffer, Context};
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::params::{MaxPool2d, ResizeBilinear};
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DeviceRepr, PushKernelArg};
use std::fmt;

const IMAGE: &str = "dense/spatial";
const SYMBOLS: [[&str; 3]; 3] = [
    ["max_pool2d_f32", "max_pool2d_f16", "max_pool2d_bf16"],
    [
        "upsample_nearest_add_f32",
        "upsample_nearest_add_f16",
        "upsample_nearest_add_bf16",
    ],
    [
        "resize_bilinear_f32",
        "resize_bilinear_f16",
        "resize_bilinear_bf16",
    ],
];

/// Every kernel of the ops.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    SYMBOLS.into_iter().flatten().map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// What is done to the images.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    MaxPool2d(MaxPool2d),
    UpsampleNearestAdd,
    ResizeBilinear(ResizeBilinear),
}

/// What is done to images of which extents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    op: Op,
    /// Images, rows, columns, channels.
    input: [usize; 4],
    /// Rows and columns.
    output: [usize; 2],
    dtype: DType,
    symbol: &'static str,
}

impl Plan {
    /// Plans a maximum pooling.
    ///
    /// # Errors
    /// When the scalars or extents do not fit, or `dtype` is no float type.
    pub fn max_pool2d(input: [usize; 4], params: &MaxPool2d, dtype: DType) -> Result<Self> {
        let output = params.output_extents([input[1], input[2]])?;
        Self::new(Op::MaxPool2d(*params), input, output, dtype)
    }

    /// Plans an upsampling to `output` rows and columns.
    ///
    /// # Errors
    /// When an extent is 0 or too large, or `dtype` is no float type.
    pub fn upsample_nearest_add(
        input: [usize; 4],
        output: [usize; 2],
        dtype: DType,
    ) -> Result<Self> {
        Self::new(Op::UpsampleNearestAdd, input, output, dtype)
    }

    /// Plans a resizing.
    ///
    /// # Errors
    /// When the scalars or extents do not fit, or `dtype` is no float type.
    pub fn resize_bilinear(
        input: [usize; 4],
        params: &ResizeBilinear,
        dtype: DType,
    ) -> Result<Self> {
        params.check([input[1], input[2]])?;
        Self::new(
            Op::ResizeBilinear(*params),
            input,
            [params.height, params.width],
            dtype,
        )
    }

    fn new(op: Op, input: [usize; 4], output: [usize; 2], dtype: DType) -> Result<Self> {
        let place = match op {
            Op::MaxPool2d(_) => 0,
            Op::UpsampleNearestAdd => 1,
            Op::ResizeBilinear(_) => 2,
        };
        let plan = Self {
            op,
            input,
            output,
            dtype,
            symbol: SYMBOLS[place][0],
        };
        let name = plan.name();
        let [_, height, width, channels] = input;
        let extents = [height, width, channels, output[0], output[1]];
        check::limited(name, &extents.map(|extent| ("each extent", extent)))?;
        if plan.lengths().contains(&0) {
            return Err(Error::input(name, "x", "not empty", format!("{input:?}")));
        }
        let symbol = check::of_dtype(name, "x", SYMBOLS[place], dtype)?;
        Ok(Self { symbol, ..plan })
    }

    fn name(&self) -> &'static str {
        match self.op {
            Op::MaxPool2d(_) => "max_pool2d",
            Op::UpsampleNearestAdd => "upsample_nearest_add",
            Op::ResizeBilinear(_) => "resize_bilinear",
        }
    }

    /// Elements of input and output.
    fn lengths(&self) -> [usize; 2] {
        let [images, .., channels] = self.input;
        let output = images * self.output[0] * self.output[1] * channels;
        [self.input.iter().product(), output]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [input, output] = self.lengths();
        let skip = if self.op == Op::UpsampleNearestAdd {
            output
        } else {
            0
        };
        let bytes = (input + output + skip) * self.dtype.size();
        writeln!(
            f,
            "{} {:?} to {:?} {}: {bytes} bytes at least",
            self.name(),
            self.input,
            self.output,
            self.dtype
        )?;
        write!(
            f,
            "  {}: a thread for each 16 bytes of the output, or each element",
            self.symbol
        )
    }
}

/// Device buffers of one call.
pub struct Arguments<'a, T> {
    /// `[B, H, W, C]`.
    pub x: CudaView<'a, T>,
    /// Of an upsampling, `[B, H', W', C]`.
    pub skip: Option<CudaView<'a, T>>,
    /// Takes `[B, H', W', C]`.
    pub out: CudaViewMut<'a, T>,
}

/// The kernels' scalars. Mirrors `Scalars` in `kernels/dense/spatial.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Scalars {
    vectors: i64,
    height: i32,
    width: i32,
    out_height: i32,
    out_width: i32,
    row_vectors: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
    antialias: i32,
    wide: i32,
    y_scale: f32,
    x_scale: f32,
    by_row_vectors: Divisor,
    by_out_height: Divisor,
    by_out_width: Divisor,
}

const _: () = {
    assert!(size_of::<Scalars>() == 80);
    assert!(std::mem::offset_of!(Scalars, wide) == 44);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}

impl Scalars {
    fn new(plan: &Plan, spans: &Spans) -> Self {
        let [_, height, width, _] = plan.input;
        let [out_height, out_width] = plan.output;
        let (window, antialias) = match plan.op {
            Op::MaxPool2d(p) => ([p.kernel, p.stride, p.padding], false),
            Op::UpsampleNearestAdd => ([0; 3], false),
            Op::ResizeBilinear(params) => ([0; 3], params.antialias),
        };
        Self {
            vectors: spans.vectors,
            height: height as i32,
            width: width as i32,
            out_height: out_height as i32,
            out_width: out_width as i32,
            row_vectors: spans.row_vectors as i32,
            kernel: window[0] as i32,
            stride: window[1] as i32,
            padding: window[2] as i32,
            antialias: i32::from(antialias),
            wide: i32::from(spans.wide),
            y_scale: height as f32 / out_height as f32,
            x_scale: width as f32 / out_width as f32,
            by_row_vectors: Divisor::of(spans.row_vectors),
            by_out_height: Divisor::of(out_height as i64),
            by_out_width: Divisor::of(out_width as i64),
        }
    }
}

/// Queues the op on the context's stream: one launch, no allocation, no waiting.
///
/// # Errors
/// [`Error::Input`] when a buffer's length does not fit the plan; [`Error::ImageUnfit`] or
/// [`Error::Driver`].
pub fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let name = plan.name();
    if T::DTYPE != plan.dtype {
        let rule = format!("of the plan's type {}", plan.dtype);
        return Err(Error::input(name, "x", rule, T::DTYPE));
    }
    let [input, output] = plan.lengths();
    let skip = if plan.op == Op::UpsampleNearestAdd {
        output
    } else {
        0
    };
    let of_skip = arguments.skip.as_ref().map_or(0, |skip| skip.len());
    check::lengths(
        name,
        &[
            ("x", arguments.x.len(), input),
            ("skip", of_skip, skip),
            ("out", arguments.out.len(), output),
        ],
    )?;
    let stream = context.stream();
    let addresses = [
        arguments.x.device_ptr(stream).0,
        arguments
            .skip
            .as_ref()
            .map_or(0, |skip| skip.device_ptr(stream).0),
        arguments.out.device_ptr(stream).0,
    ];
    let spans = Spans::new(output, plan.input[3], T::DTYPE, &addresses);
    let grid = spans.launch(
        name,
        Kernel {
            image: IMAGE,
            symbol: plan.symbol,
        },
    )?;
    let scalars = Scalars::new(plan, &spans);
    let function = context.function_for(&grid)?;
    let mut builder = stream.launch_builder(&function);
    builder.arg(&scalars).arg(&arguments.x);
    if plan.op == Op::UpsampleNearestAdd {
        builder.optional(&arguments.skip);
    }
    builder.arg(&mut arguments.out);
    // SAFETY: the kernels take (Scalars, const T* x, T* out), upsampling (.., const T* skip, ..)
    // between them, and `plan` chose the one for `T`; the lengths were just checked, and pixels of x
    // are clamped to its extents.
    unsafe { builder.launch(grid.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

/// The op on whole buffers. See [`ops::max_pool2d`](crate::ops::max_pool2d()),
/// [`ops::upsample_nearest_add`](crate::ops::upsample_nearest_add()) and
/// [`ops::resize_bilinear`](crate::ops::resize_bilinear()).
pub(crate) fn run<T: Float>(
    context: &Context,
    plan: &Plan,
    x: &Buffer,
    skip: Option<&Buffer>,
) -> Result<Buffer> {
    let mut out = Buffer::uninitialised(context, T::DTYPE, plan.lengths()[1])?;
    let mut arguments = Arguments::<T> {
        x: x.view()?,
        skip: skip.map(Buffer::view).transpose()?,
        out: out.view_mut()?,
    };
    launch(context, plan, &mut arguments)?;
    Ok(out)
}
