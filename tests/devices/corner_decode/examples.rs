//! Golden vectors, and what mistakes are answered with.

use crate::device::targets;
use ocelli::ops::{CornerMaps, corner_decode};
use ocelli::params::CornerDecode;
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::{DType, Device, Tensor};

const NAMES: [&str; 6] = [
    "tl_heat",
    "tl_embed",
    "tl_offset",
    "br_heat",
    "br_embed",
    "br_offset",
];

#[test]
fn the_official_steps_in_pytorch_agree() {
    let bytes = include_bytes!("../../golden/corner_decode.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    for case in 0..4 {
        let data = |name: &str| golden.tensor(&format!("{name}_{case}")).unwrap();
        let floats = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(data(name).data()) };
        let scalars = floats("scalars");
        let (boxes, scores) = (floats("boxes"), floats("scores"));
        let classes: Vec<i32> = bytemuck::pod_collect_to_vec(data("classes").data());
        let params = CornerDecode {
            topk: scalars[0] as usize,
            kernel: scalars[1] as usize,
            ae_threshold: scalars[2],
            num_dets: scalars[3] as usize,
        };
        for target in targets() {
            let [tl_heat, tl_embed, tl_offset, br_heat, br_embed, br_offset] = NAMES.map(|name| {
                Tensor::from_vec(floats(name), data(name).shape(), &target.device()).unwrap()
            });
            let maps = |heat, embedding, offset| CornerMaps {
                heat,
                embedding,
                offset,
            };
            let found = corner_decode(
                maps(&tl_heat, &tl_embed, &tl_offset),
                maps(&br_heat, &br_embed, &br_offset),
                &params,
            )
            .unwrap();
            let count = found.count.to_vec::<i32>().unwrap()[0] as usize;
            assert_eq!(count, classes.len(), "case {case} on {target:?}");
            let kept: Vec<i32> = found.classes.to_vec().unwrap();
            assert_eq!(kept[..count], classes);
            bitwise(&found.boxes.to_vec::<f32>().unwrap()[..4 * count], &boxes).unwrap();
            let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| x.into()).collect() };
            let exact = wide(&scores);
            let budget = Budget::new(&exact, &exact, DType::F32);
            let found = wide(&found.scores.to_vec::<f32>().unwrap()[..count]);
            within(&found, &exact, &budget).unwrap();
        }
    }
}

/// Of equal logits the official code keeps all as peaks, ranked by class, then row, then column.
#[test]
fn ties_go_by_class_row_and_column() {
    for target in targets() {
        let device = target.device();
        let heat = Tensor::from_vec(vec![1f32; 2 * 3 * 4], &[1, 2, 3, 4], &device).unwrap();
        let zeros = |last| Tensor::zeros(&[1, 2, 3, last], DType::F32, &device).unwrap();
        let (embedding, offset) = (zeros(1), zeros(2));
        let maps = CornerMaps {
            heat: &heat,
            embedding: &embedding,
            offset: &offset,
        };
        let params = CornerDecode {
            topk: 8,
            num_dets: 12,
            ..CornerDecode::default()
        };
        let found = corner_decode(maps, maps, &params).unwrap();
        // The six places of class 0, then the first two of class 1: eighteen pairs of the first six are boxes.
        assert_eq!(found.classes.to_vec::<i32>().unwrap(), [0; 12]);
        let boxes = found.boxes.to_vec::<f32>().unwrap();
        let expected = [
            [0., 0., 0., 0.],
            [0., 0., 1., 0.],
            [0., 0., 2., 0.],
            [0., 0., 0., 1.],
        ];
        assert_eq!(boxes[..16], expected.concat());
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let heat = zeros(&[2, 4, 5, 3], DType::F32);
    let embedding = zeros(&[2, 4, 5, 1], DType::F32);
    let offset = zeros(&[2, 4, 5, 2], DType::F32);
    let (flat, halves) = (
        zeros(&[2, 60], DType::F32),
        zeros(&[2, 4, 5, 1], DType::F16),
    );
    let integers = zeros(&[2, 4, 5, 3], DType::I32);
    let right = CornerMaps {
        heat: &heat,
        embedding: &embedding,
        offset: &offset,
    };
    let message =
        |a, b, params: CornerDecode| corner_decode(a, b, &params).unwrap_err().to_string();
    let default = CornerDecode::default();
    let with = |change: fn(&mut CornerDecode)| {
        let mut params = default;
        change(&mut params);
        message(right, right, params)
    };
    let cases = [
        (
            message(
                CornerMaps {
                    heat: &flat,
                    ..right
                },
                right,
                default,
            ),
            "tl_heat must be [B, H, W, K], got [2, 60]",
        ),
        (
            message(
                CornerMaps {
                    heat: &integers,
                    ..right
                },
                right,
                default,
            ),
            "tl_heat must be of type f32, f16 or bf16, got i32",
        ),
        (
            message(
                right,
                CornerMaps {
                    heat: &flat,
                    ..right
                },
                default,
            ),
            "br_heat must be [2, 4, 5, 3], got [2, 60]",
        ),
        (
            message(
                right,
                CornerMaps {
                    offset: &embedding,
                    ..right
                },
                default,
            ),
            "br_offset must be [2, 4, 5, 2], got [2, 4, 5, 1]",
        ),
        (
            message(
                CornerMaps {
                    embedding: &halves,
                    ..right
                },
                right,
                default,
            ),
            "tl_embed must be of type f32, got f16",
        ),
        (with(|p| p.topk = 0), "topk must be in [1, 512], got 0"),
        (
            with(|p| p.num_dets = 4097),
            "num_dets must be in [1, 4096], got 4097",
        ),
        (
            with(|p| p.kernel = 4),
            "kernel must be odd and at most 15, got 4",
        ),
        (
            with(|p| p.ae_threshold = f32::NAN),
            "ae_threshold must be a number, got NaN",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("corner_decode: {expected}"));
    }
}
