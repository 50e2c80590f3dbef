//! Single cases: PyTorch's results, empty problems, mistakes, limits.

use super::{Target, targets};
use ocelli::ops;
use ocelli::params::{Activation, GroupNorm, MaxPool2d, ResizeBilinear};
use ocelli::{DType, Device, Tensor};
use safetensors::SafeTensors;

/// A tensor of the golden file on a device.
fn load(golden: &SafeTensors<'_>, name: &str, target: &Target) -> Tensor {
    let tensor = golden.tensor(name).unwrap();
    let (shape, device) = (tensor.shape(), target.device());
    match tensor.dtype() {
        safetensors::Dtype::I32 => {
            let values: Vec<i32> = bytemuck::pod_collect_to_vec(tensor.data());
            Tensor::from_vec(values, shape, &device).unwrap()
        }
        _ => {
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
            Tensor::from_vec(values, shape, &device).unwrap()
        }
    }
}

#[test]
fn pytorch_agrees() {
    let golden =
        SafeTensors::deserialize(include_bytes!("../../golden/dense.safetensors")).unwrap();
    for target in targets() {
        let get = |name: &str| load(&golden, name, target);
        let images = get("images");
        let group = GroupNorm {
            groups: 4,
            epsilon: 1e-5,
            activation: Activation::Relu,
        };
        let pool = MaxPool2d {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let resize = |height, width, antialias| {
            let params = ResizeBilinear {
                height,
                width,
                antialias,
            };
            ops::resize_bilinear(&images, &params).unwrap()
        };
        let (mean, deviation) = ([0.4; 12], [0.25; 12]);
        let (table, indices) = (get("table"), get("indices"));
        let results = [
            (
                "layer_norm",
                ops::layer_norm(&get("rows"), &get("row_weight"), &get("row_bias"), 1e-5),
            ),
            (
                "group_norm",
                ops::group_norm(&images, &get("weight"), &get("bias"), &group),
            ),
            ("max_pool2d", ops::max_pool2d(&images, &pool)),
            (
                "upsample_nearest_add",
                ops::upsample_nearest_add(&images, &get("skip")),
            ),
            ("resize_larger", Ok(resize(13, 20, false))),
            ("resize_smaller", Ok(resize(4, 5, false))),
            ("resize_antialias", Ok(resize(4, 5, true))),
            ("resize_antialias_mixed", Ok(resize(3, 21, true))),
            (
                "normalize_image",
                ops::normalize_image(&images, &mean, &deviation),
            ),
            ("embedding", ops::embedding(&table, &indices)),
            ("gelu", ops::activation(&images, Activation::Gelu)),
        ];
        for (name, result) in results {
            let (expected, result) = (golden.tensor(name).unwrap(), result.unwrap());
            assert_eq!(result.shape(), expected.shape(), "{name}");
            let expected: Vec<f64> = bytemuck::pod_collect_to_vec(expected.data());
            for (ours, theirs) in result.to_vec::<f32>().unwrap().iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 5e-6,
                    "{name}: {ours} for {theirs}"
                );
            }
        }
    }
}

#[test]
fn nan_is_the_largest_and_padding_is_nothing() {
    for target in targets() {
        let x = [-3.0f32, f32::NAN, -2.0, -5.0, -7.0, -1.0];
        let x = Tensor::from_vec(x.to_vec(), &[1, 1, 6, 1], &target.device()).unwrap();
        let params = MaxPool2d {
            kernel: 3,
            stride: 3,
            padding: 1,
        };
        let out = ops::max_pool2d(&x, &params)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        assert!(out[0].is_nan() && out[1] == -2.0, "{target:?} {out:?}");
    }
}

#[test]
fn nothing_to_do_gives_an_empty_result() {
    for target in targets() {
        let device = target.device();
        let empty = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &device).unwrap();
        let rows = ops::layer_norm(&empty(&[0, 8]), &empty(&[8]), &empty(&[8]), 1e-5).unwrap();
        assert_eq!(rows.shape(), [0, 8]);
        let images = empty(&[0, 4, 4, 8]);
        let params = GroupNorm {
            groups: 2,
            ..GroupNorm::default()
        };
        assert!(ops::group_norm(&images, &empty(&[8]), &empty(&[8]), &params).is_ok());
        let pool = MaxPool2d {
            kernel: 2,
            stride: 2,
            padding: 0,
        };
        assert_eq!(
            ops::max_pool2d(&images, &pool).unwrap().shape(),
            [0, 2, 2, 8]
        );
        let resize = ResizeBilinear {
            height: 3,
            width: 9,
            antialias: true,
        };
        assert_eq!(
            ops::resize_bilinear(&images, &resize).unwrap().shape(),
            [0, 3, 9, 8]
        );
        let none = Tensor::zeros(&[0], DType::I32, &device).unwrap();
        assert_eq!(
            ops::embedding(&empty(&[3, 8]), &none).unwrap().shape(),
            [0, 8]
        );
        let some = Tensor::zeros(&[2], DType::I32, &device).unwrap();
        let missing = ops::embedding(&empty(&[0, 8]), &some).unwrap();
        assert_eq!(missing.shape(), [2, 8]);
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let integers = Tensor::zeros(&[2, 4], DType::I32, &Device::Cpu).unwrap();
    let (x, images, eight) = (zeros(&[2, 4]), zeros(&[1, 4, 4, 8]), zeros(&[8]));
    let group = |groups| GroupNorm {
        groups,
        ..GroupNorm::default()
    };
    let pool = |kernel, stride, padding| MaxPool2d {
        kernel,
        stride,
        padding,
    };
    let resize = |height| ResizeBilinear {
        height,
        width: 2,
        antialias: false,
    };
    let four = zeros(&[4]);
    let results = [
        (
            ops::layer_norm(&x, &eight, &four, 1e-5),
            "layer_norm: weight must be [4], got [8]",
        ),
        (
            ops::layer_norm(&x, &four, &four, -1.0),
            "layer_norm: epsilon must be finite and at least 0, got -1",
        ),
        (
            ops::layer_norm(&integers, &four, &four, 1e-5),
            "layer_norm: x must be of type f32, f16 or bf16, got i32",
        ),
        (
            ops::group_norm(&images, &eight, &eight, &group(3)),
            "group_norm: groups must be a divisor of the 8 channels, got 3",
        ),
        (
            ops::max_pool2d(&x, &pool(2, 2, 0)),
            "max_pool2d: x must be [B, H, W, C], got [2, 4]",
        ),
        (
            ops::max_pool2d(&images, &pool(0, 2, 0)),
            "max_pool2d: kernel must be at least 1 and at most 2^15, got 0",
        ),
        (
            ops::max_pool2d(&images, &pool(2, 2, 2)),
            "max_pool2d: padding must be at most half of the kernel's 2, got 2",
        ),
        (
            ops::max_pool2d(&images, &pool(7, 1, 1)),
            "max_pool2d: x must be at least 7 rows and columns with its padding, got 6",
        ),
        (
            ops::upsample_nearest_add(&images, &x),
            "upsample_nearest_add: skip must be [1, H', W', 8], got [2, 4]",
        ),
        (
            ops::resize_bilinear(&images, &resize(0)),
            "resize_bilinear: height must be at least 1 and at most 2^29, got 0",
        ),
        (
            ops::normalize_image(&x, &[0.5], &[0.5]),
            "normalize_image: x must be [.., 1], as there are means, got [2, 4]",
        ),
        (
            ops::normalize_image(&x, &[0.5; 4], &[0.0; 4]),
            "normalize_image: deviation must be finite and above 0, got 0",
        ),
        (
            ops::embedding(&x, &x),
            "embedding: indices must be of type i32, got f32",
        ),
        (
            ops::embedding(&eight, &integers),
            "embedding: table must be [V, D], got [8]",
        ),
        (
            ops::add_positions(&zeros(&[1, 2, 4]), Some(&x), &x),
            "add_positions: positions must be [4, 4], got [2, 4]",
        ),
        (
            ops::activation(&integers, Activation::Relu),
            "activation: x must be of type f32, f16 or bf16, got i32",
        ),
    ];
    for (result, expected) in results {
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}
