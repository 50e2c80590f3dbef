//! Linear layers of ViT-B/16 and convolutions of RetinaNet with ResNet-50: one image, and on CUDA batches.

use crate::bench::{Bench, Cost, normal};
use ocelli::ops::{Conv2dWeight, LinearWeight, conv2d, linear};
use ocelli::params::{Activation, Conv2d};
use ocelli::{DType, Device, Tensor};

fn random(device: &Device, spread: f32, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let values = normal(spread, shape.iter().product(), seed);
    let host = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
    let host = host.to_dtype(dtype).expect("a cast");
    host.to_device(device).expect("a copy")
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(here: &Tensor, expected: &Tensor) {
    let values = |tensor: &Tensor| {
        let host = tensor.to_device(&Device::Cpu).expect("a copy");
        let host = host.to_dtype(DType::F32).expect("a cast");
        host.to_vec::<f32>().expect("values")
    };
    // Two units of bf16, or the difference of sums in another order.
    let unit = match here.dtype() {
        DType::F32 => 1e-4,
        _ => 1.0 / 64.0,
    };
    for (a, b) in values(here).iter().zip(values(expected)) {
        assert!((a - b).abs() <= 1e-2 + unit * b.abs(), "{a} for {b}");
    }
}

pub fn run(bench: &mut Bench) {
    linears(bench);
    convolutions(bench);
}

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    dtype: DType,
    activation: Activation,
}

fn linears(bench: &mut Bench) {
    let (none, gelu) = (Activation::None, Activation::Gelu);
    let layers = [
        (197, 768, 2304, DType::F32, none),
        (197, 768, 768, DType::F32, none),
        (197, 768, 3072, DType::F32, gelu),
        (197, 3072, 768, DType::F32, none),
        (197, 768, 768, DType::BF16, none),
        (6304, 768, 3072, DType::F32, gelu),
        (6304, 768, 3072, DType::BF16, gelu),
    ];
    for (rows, inputs, outputs, dtype, activation) in layers {
        let layer = Linear {
            rows: bench.size(rows),
            inputs,
            outputs,
            dtype,
            activation,
        };
        let name = if activation == gelu { " gelu" } else { "" };
        let case = format!("[{rows}, {inputs}] to {outputs} {dtype}{name}");
        layer.time(bench, &case, rows == 197 && dtype == DType::F32);
    }
}

impl Linear {
    fn time(&self, bench: &mut Bench, case: &str, on_cpu: bool) {
        let &Self {
            rows,
            inputs,
            outputs,
            dtype,
            activation,
        } = self;
        let cost = Cost {
            bytes: dtype.size() * (rows * inputs + inputs * outputs + rows * outputs),
            operations: 2.0 * (rows * inputs * outputs) as f64,
        };
        bench.costly_case("linear", case, cost, [on_cpu, true], |device| {
            let make = |device: &Device| {
                let weight = random(&Device::Cpu, 0.02, &[outputs, inputs], dtype, 1);
                let weight = LinearWeight::new(&weight, device).expect("a weight");
                let x = random(device, 1.0, &[rows, inputs], dtype, 2);
                (weight, x, random(device, 1.0, &[outputs], dtype, 3))
            };
            let call = |(weight, x, bias): &(LinearWeight, Tensor, Tensor)| {
                linear(x, weight, Some(bias), None, activation).expect("a result")
            };
            let layer = make(device);
            if *device != Device::Cpu {
                check(&call(&layer), &call(&make(&Device::Cpu)));
            }
            move || drop(call(&layer))
        });
    }
}

struct Convolution {
    /// Of the input, `[B, H, W, C]`.
    extents: [usize; 4],
    outputs: usize,
    kernel: usize,
    stride: usize,
    dtype: DType,
}

fn convolutions(bench: &mut Bench) {
    // Rows, columns, channels, outputs, kernel, stride.
    let layers: [(usize, usize, usize, usize, usize, usize); 10] = [
        (480, 640, 3, 64, 7, 2),
        (120, 160, 64, 64, 1, 1),
        (120, 160, 64, 64, 3, 1),
        (120, 160, 64, 256, 1, 1),
        (60, 80, 128, 128, 3, 1),
        (30, 40, 1024, 256, 1, 1),
        (30, 40, 256, 256, 3, 1),
        (15, 20, 512, 512, 3, 1),
        (60, 80, 256, 256, 3, 1),
        (60, 80, 256, 819, 3, 1),
    ];
    for (height, width, channels, outputs, kernel, stride) in layers {
        let layer = Convolution {
            extents: [1, bench.size(height).max(kernel), width, channels],
            outputs,
            kernel,
            stride,
            dtype: DType::F32,
        };
        let case = format!(
            "[{height}, {width}, {channels}] to {outputs}, {kernel} x {kernel} by {stride}"
        );
        layer.time(bench, &case, true);
    }
    let head = Convolution {
        extents: [8, bench.size(100).max(3), bench.size(168).max(3), 256],
        outputs: 256,
        kernel: 3,
        stride: 1,
        dtype: DType::BF16,
    };
    let case = "[8, 100, 168, 256] to 256, 3 x 3 by 1 bf16";
    head.time(bench, case, false);
}

impl Convolution {
    fn time(&self, bench: &mut Bench, case: &str, on_cpu: bool) {
        let &Self {
            extents,
            outputs,
            kernel,
            stride,
            dtype,
        } = self;
        let [batch, height, width, channels] = extents;
        let padding = kernel / 2;
        let params = Conv2d {
            stride,
            padding,
            activation: Activation::Relu,
        };
        let pixels = batch * height.div_ceil(stride) * width.div_ceil(stride);
        let weights = channels * outputs * kernel * kernel;
        let elements = batch * height * width * channels + weights + pixels * outputs;
        let cost = Cost {
            bytes: dtype.size() * elements,
            operations: 2.0 * (pixels * weights) as f64,
        };
        bench.costly_case("conv2d", case, cost, [on_cpu, true], |device| {
            let make = |device: &Device| {
                let shape = [outputs, channels, kernel, kernel];
                let weight = random(&Device::Cpu, 0.02, &shape, dtype, 1);
                let weight = Conv2dWeight::new(&weight, device).expect("a weight");
                let x = random(device, 1.0, &extents, dtype, 2);
                (weight, x, random(device, 1.0, &[outputs], dtype, 3))
            };
            let call = |(weight, x, bias): &(Conv2dWeight, Tensor, Tensor)| {
                conv2d(x, weight, Some(bias), None, &params).expect("a result")
            };
            let layer = make(device);
            if *device != Device::Cpu {
                check(&call(&layer), &call(&make(&Device::Cpu)));
            }
            move || drop(call(&layer))
        });
    }
}
