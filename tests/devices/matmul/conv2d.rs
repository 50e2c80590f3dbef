//! Two-dimensional convolutions.

use super::{Layer, Target, case, check_all, plain, targets};
use ocelli::ops::{Conv2dWeight, conv2d};
use ocelli::params::{Activation, Conv2d};
use ocelli::testing::strategy::cases;
use ocelli::{DType, Device, Tensor};
use proptest::prelude::*;
use proptest::sample::select;

fn layer() -> impl Strategy<Value = Layer> {
    let kernel = prop_oneof![
        3 => Just([3, 3]),
        2 => Just([1, 1]),
        1 => Just([7, 7]),
        1 => [1..5usize, 1..5usize],
    ];
    let channels = select(vec![1usize, 3, 8, 16, 24, 31, 32, 40]);
    let outputs = select(vec![1usize, 5, 16, 33, 36, 64, 65]);
    let extents = (1..3usize, 1..14usize, 1..14usize, channels, outputs);
    (extents, kernel, 1..4usize, 0..4usize).prop_map(
        |((images, height, width, channels, outputs), kernel, stride, padding)| {
            let padding = padding.min(kernel[0].min(kernel[1]) - 1);
            let input = [
                images,
                height.max(kernel[0]),
                width.max(kernel[1]),
                channels,
            ];
            let weight = [outputs, channels, kernel[0], kernel[1]];
            Layer::Conv2d {
                input,
                weight,
                stride,
                padding,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case(layer())) {
        check_all(&case)?;
    }
}

#[test]
fn every_path_is_right() {
    let conv = |input, weight, stride, padding| Layer::Conv2d {
        input,
        weight,
        stride,
        padding,
    };
    for layer in [
        // Winograd's method on the CPU, with tiles that end beside, and beyond, the image.
        conv([2, 16, 12, 32], [40, 32, 3, 3], 1, 1),
        conv([1, 17, 21, 40], [33, 40, 3, 3], 1, 1),
        conv([1, 18, 23, 32], [32, 32, 3, 3], 1, 0),
        conv([1, 16, 16, 32], [32, 32, 3, 3], 1, 2),
        // A stem, a downsampling, patches.
        conv([1, 15, 18, 3], [16, 3, 7, 7], 2, 3),
        conv([2, 9, 8, 16], [24, 16, 1, 1], 2, 0),
        conv([1, 32, 16, 3], [24, 3, 16, 16], 16, 0),
        // More than one block of steps in a kernel row.
        conv([1, 4, 5, 264], [8, 264, 3, 3], 1, 1),
    ] {
        check_all(&plain(layer)).unwrap();
    }
}

fn upload(target: &Target, values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &target.device()).unwrap()
}

/// Stride, padding and activation of each golden case.
const GOLDEN: [(usize, usize, Activation); 4] = [
    (1, 1, Activation::Relu),
    (2, 3, Activation::None),
    (2, 0, Activation::Gelu),
    (1, 1, Activation::None),
];

#[test]
fn pytorch_agrees() {
    let bytes = include_bytes!("../../golden/conv2d.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    for (case, (stride, padding, activation)) in GOLDEN.into_iter().enumerate() {
        for target in targets() {
            let load = |name: &str| {
                let tensor = golden.tensor(&format!("{name}_{case}")).unwrap();
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
                upload(target, &values, tensor.shape())
            };
            let weight = Conv2dWeight::new(&load("weight"), &target.device()).unwrap();
            let (x, bias, residual) = (load("x"), load("bias"), load("residual"));
            let params = Conv2d {
                stride,
                padding,
                activation,
            };
            let out = conv2d(&x, &weight, Some(&bias), Some(&residual), &params).unwrap();
            let expected = golden.tensor(&format!("out_{case}")).unwrap();
            assert_eq!(out.shape(), expected.shape());
            let expected: Vec<f64> = bytemuck::pod_collect_to_vec(expected.data());
            for (ours, theirs) in out.to_vec::<f32>().unwrap().iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 5e-5,
                    "{ours} for {theirs}"
                );
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_within_their_reach() {
    for target in targets() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0f32; 20 * 20 * 32];
            x[(9 * 20 + 10) * 32 + 5] = bad;
            let weight = upload(target, &[0.01; 32 * 32 * 9], &[32, 32, 3, 3]);
            let weight = Conv2dWeight::new(&weight, &target.device()).unwrap();
            let params = Conv2d {
                padding: 1,
                ..Conv2d::default()
            };
            let x = upload(target, &x, &[1, 20, 20, 32]);
            let out = conv2d(&x, &weight, None, None, &params).unwrap();
            for (at, value) in out.to_vec::<f32>().unwrap().iter().enumerate() {
                let (y, x) = ((at / 640).abs_diff(9), (at / 32 % 20).abs_diff(10));
                // Beside the kernel's reach of 1, that of Winograd's tiles.
                let (must, may) = (y.max(x) <= 1, y.max(x) <= 4);
                assert!(
                    !(must && value.is_finite()),
                    "{target:?} {bad}: {at} {value}"
                );
                assert!(may || value.is_finite(), "{target:?} {bad}: {at} {value}");
            }
        }
    }
}

#[test]
fn an_empty_batch_gives_an_empty_result() {
    for target in targets() {
        let device = target.device();
        let empty = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &device).unwrap();
        let weight = Conv2dWeight::new(&empty(&[4, 3, 2, 2]), &device).unwrap();
        let out = conv2d(
            &empty(&[0, 5, 5, 3]),
            &weight,
            None,
            None,
            &Conv2d::default(),
        )
        .unwrap();
        assert_eq!(out.shape(), [0, 4, 4, 4]);
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let weight = Conv2dWeight::new(&zeros(&[4, 3, 3, 3]), &Device::Cpu).unwrap();
    let message = |x: &Tensor, bias: Option<&Tensor>, stride, padding| {
        let params = Conv2d {
            stride,
            padding,
            ..Conv2d::default()
        };
        conv2d(x, &weight, bias, None, &params)
            .unwrap_err()
            .to_string()
    };
    let x = zeros(&[1, 5, 5, 3]);
    let cases = [
        (
            message(&zeros(&[1, 5, 5, 4]), None, 1, 0),
            "x must be [B, H, W, 3], got [1, 5, 5, 4]",
        ),
        (
            message(&zeros(&[5, 5, 3]), None, 1, 0),
            "x must be [B, H, W, 3], got [5, 5, 3]",
        ),
        (
            message(&x, None, 0, 0),
            "stride must be at least 1 and at most 2^15, got 0",
        ),
        (
            message(&x, None, 1, 3),
            "padding must be less than the kernel's 3 x 3, got 3",
        ),
        (
            message(&x, Some(&x), 1, 0),
            "bias must be [4], got [1, 5, 5, 3]",
        ),
        (
            message(&zeros(&[1, 2, 5, 3]), None, 1, 0),
            "x must be at least 3 rows and columns with its padding, got 2",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("conv2d: {expected}"));
    }
    let wrong = Conv2dWeight::new(&zeros(&[4, 3, 0, 3]), &Device::Cpu)
        .unwrap_err()
        .to_string();
    let rule = "[outputs, channels, height, width] with channels, height and width >= 1";
    assert_eq!(
        wrong,
        format!("conv2d: weight must be {rule}, got [4, 3, 0, 3]")
    );
}
