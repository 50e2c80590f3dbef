//! Linear layers.

use super::{Layer, Target, case, check_all, plain, targets};
use ocelli::ops::{LinearWeight, linear};
use ocelli::params::Activation;
use ocelli::testing::strategy::{cases, size};
use ocelli::{DType, Device, Tensor};
use proptest::prelude::*;

fn layer() -> impl Strategy<Value = Layer> {
    // Outputs and rows straddle tiles of 6, 16, 64, 96 and 128, inputs blocks of 16, 32 and 256.
    let whole = (size(140), 1..20usize, 1..20usize).prop_map(|(m, k, n)| (m, 16 * k, 8 * n));
    let any = (size(140), size(300), size(150));
    prop_oneof![any, whole].prop_map(|(rows, inputs, outputs)| Layer::Linear {
        rows: rows.max(1),
        inputs: inputs.max(1),
        outputs: outputs.max(1),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case(layer())) {
        check_all(&case)?;
    }
}

#[test]
fn every_edge_of_a_tile_is_right() {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (6, 256, 16),
        (7, 257, 17),
        (63, 31, 65),
        (64, 32, 64),
        (65, 33, 63),
        (97, 512, 129),
        (127, 15, 128),
        (128, 16, 127),
    ] {
        let layer = Layer::Linear {
            rows,
            inputs,
            outputs,
        };
        check_all(&plain(layer)).unwrap();
    }
}

fn upload(target: &Target, values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &target.device()).unwrap()
}

#[test]
fn pytorch_agrees() {
    let bytes = include_bytes!("../../golden/linear.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    for case in 0..3 {
        let activation = [Activation::None, Activation::Relu, Activation::Gelu][case];
        for target in targets() {
            let load = |name: &str| {
                let tensor = golden.tensor(&format!("{name}_{case}")).unwrap();
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(tensor.data());
                upload(target, &values, tensor.shape())
            };
            let weight = LinearWeight::new(&load("weight"), &target.device()).unwrap();
            let (x, bias, residual) = (load("x"), load("bias"), load("residual"));
            let out = linear(&x, &weight, Some(&bias), Some(&residual), activation).unwrap();
            let expected = golden.tensor(&format!("out_{case}")).unwrap();
            assert_eq!(out.shape(), expected.shape());
            let expected: Vec<f64> = bytemuck::pod_collect_to_vec(expected.data());
            for (ours, theirs) in out.to_vec::<f32>().unwrap().iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 2e-5,
                    "{ours} for {theirs}"
                );
            }
        }
    }
}

#[test]
fn nothing_to_do_gives_an_empty_result() {
    for target in targets() {
        let device = target.device();
        let empty = |shape: &[usize]| Tensor::zeros(shape, DType::BF16, &device).unwrap();
        let weight = LinearWeight::new(&empty(&[4, 3]), &device).unwrap();
        let out = linear(&empty(&[2, 0, 3]), &weight, None, None, Activation::Gelu).unwrap();
        assert_eq!((out.shape(), out.dtype()), (&[2, 0, 4][..], DType::BF16));
        let weight = LinearWeight::new(&empty(&[0, 3]), &device).unwrap();
        let out = linear(&empty(&[2, 3]), &weight, None, None, Activation::None).unwrap();
        assert_eq!(out.shape(), [2, 0]);
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_row() {
    for target in targets() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0f32; 9 * 40];
            x[3 * 40 + 17] = bad;
            let weight = upload(target, &[0.5; 20 * 40], &[20, 40]);
            let weight = LinearWeight::new(&weight, &target.device()).unwrap();
            let x = upload(target, &x, &[9, 40]);
            let out = linear(&x, &weight, None, None, Activation::None).unwrap();
            for (at, value) in out.to_vec::<f32>().unwrap().iter().enumerate() {
                assert_eq!(
                    value.is_finite(),
                    at / 20 != 3,
                    "{target:?} {bad}: {at} {value}"
                );
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let tensor = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let f32s = |shape: &[usize]| tensor(shape, DType::F32);
    let weight = LinearWeight::new(&f32s(&[4, 3]), &Device::Cpu).unwrap();
    let message = |x: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>| {
        linear(x, &weight, bias, residual, Activation::None)
            .unwrap_err()
            .to_string()
    };
    let x = f32s(&[2, 3]);
    let half = tensor(&[2, 3], DType::F16);
    let cases = [
        (
            message(&f32s(&[2, 4]), None, None),
            "x must be [.., 3], got [2, 4]",
        ),
        (message(&f32s(&[]), None, None), "x must be [.., 3], got []"),
        (message(&half, None, None), "x must be of type f32, got f16"),
        (message(&x, Some(&x), None), "bias must be [4], got [2, 3]"),
        (
            message(&x, None, Some(&x)),
            "residual must be [2, 4], got [2, 3]",
        ),
        (
            message(&x, Some(&tensor(&[4], DType::BF16)), None),
            "bias must be of type f32, got bf16",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("linear: {expected}"));
    }
    let wrong = |shape: &[usize], dtype| {
        LinearWeight::new(&tensor(shape, dtype), &Device::Cpu)
            .unwrap_err()
            .to_string()
    };
    let expected = "linear: weight must be [outputs, inputs] with inputs >= 1, got [4, 0]";
    assert_eq!(wrong(&[4, 0], DType::F32), expected);
    let expected = "linear: weight must be of type f32, f16 or bf16, got i32";
    assert_eq!(wrong(&[4, 3], DType::I32), expected);
}
