//! Linear layers of ViT-B/16 at 224 pixels, and convolutions of RetinaNet with ResNet-50 at 480 x 640.

use crate::bench::Bench;
use ocelli::ops::{Conv2dWeight, LinearWeight, conv2d, linear};
use ocelli::params::{Activation, Conv2d};
use ocelli::testing::strategy::Data;
use ocelli::{Device, Tensor};

fn random(device: &Device, spread: f32, shape: &[usize], seed: u64) -> Tensor {
    let values = Data::Spread(spread).values(shape.iter().product(), seed);
    Tensor::from_vec(values, shape, device).expect("a tensor")
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(here: &Tensor, expected: &Tensor) {
    let values = |tensor: &Tensor| tensor.to_vec::<f32>().expect("values");
    for (a, b) in values(here).iter().zip(values(expected)) {
        assert!((a - b).abs() < 1e-2, "{a} for {b}");
    }
}

pub fn run(bench: &mut Bench) {
    linears(bench);
    convolutions(bench);
}

fn linears(bench: &mut Bench) {
    let layers = [
        (768, 2304, Activation::None),
        (768, 768, Activation::None),
        (768, 3072, Activation::Gelu),
        (3072, 768, Activation::None),
    ];
    for (inputs, outputs, activation) in layers {
        let rows = bench.size(197);
        let bytes = 4 * (rows * inputs + inputs * outputs + rows * outputs);
        let name = if activation == Activation::Gelu {
            " gelu"
        } else {
            ""
        };
        bench.case(
            "linear",
            &format!("[197, {inputs}] to {outputs} f32{name}"),
            bytes,
            |device| {
                let make = |device: &Device| {
                    let weight = random(device, 0.02, &[outputs, inputs], 1);
                    let weight = LinearWeight::new(&weight, device).expect("a weight");
                    (
                        weight,
                        random(device, 1.0, &[rows, inputs], 2),
                        random(device, 1.0, &[outputs], 3),
                    )
                };
                let call = |(weight, x, bias): &(LinearWeight, Tensor, Tensor)| {
                    linear(x, weight, Some(bias), None, activation).expect("a result")
                };
                let layer = make(device);
                if *device != Device::Cpu {
                    check(&call(&layer), &call(&make(&Device::Cpu)));
                }
                move || drop(call(&layer))
            },
        );
    }
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
        let height = bench.size(height).max(kernel);
        let padding = kernel / 2;
        let params = Conv2d {
            stride,
            padding,
            activation: Activation::Relu,
        };
        let pixels = height.div_ceil(stride) * width.div_ceil(stride);
        let bytes = 4
            * (height * width * channels + channels * outputs * kernel * kernel + pixels * outputs);
        let case = format!(
            "[{height}, {width}, {channels}] to {outputs}, {kernel} x {kernel} by {stride}"
        );
        bench.case("conv2d", &case, bytes, |device| {
            let make = |device: &Device| {
                let weight = random(device, 0.02, &[outputs, channels, kernel, kernel], 1);
                let weight = Conv2dWeight::new(&weight, device).expect("a weight");
                let x = random(device, 1.0, &[1, height, width, channels], 2);
                (weight, x, random(device, 1.0, &[outputs], 3))
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
