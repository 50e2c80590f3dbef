//! Single cases: named extents, ties beside PyTorch's, mistakes.

use super::{Case, DIRECTIONS, check, targets};
use half::bf16;
use ocelli::ops::{corner_pool, corner_pool_backward, corner_pool_with_bits};
use ocelli::params::{Direction, Layout};
use ocelli::reference::{Lines, corner_pool_gradient, corner_pool_winners};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};

#[test]
fn extents_around_a_chunk_agree() {
    for target in targets() {
        for length in [1, 127, 128, 129, 1000] {
            for (shape, layout) in [
                ([1, length, 2, 8], Layout::ChannelsLast),
                ([1, 2, length, 8], Layout::ChannelsLast),
                ([1, 2, length, 3], Layout::ChannelsFirst),
                ([1, 2, 3, length], Layout::ChannelsFirst),
            ] {
                for direction in DIRECTIONS {
                    let case = Case {
                        shape,
                        direction,
                        layout,
                        data: Data::Ties,
                        seed: 7,
                        shift: 0,
                    };
                    check::<f32>(target, &case).unwrap();
                    check::<bf16>(target, &case).unwrap();
                }
            }
        }
    }
}

/// The original implementation and PyTorch's cummax on maps with and without ties.
#[test]
fn ties_go_where_the_original_sends_them_and_not_where_cummax_does() {
    let bytes = include_bytes!("../../golden/corner_pool.safetensors");
    let golden = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let data = |name: String| -> Vec<f32> {
        bytemuck::pod_collect_to_vec(golden.tensor(&name).unwrap().data())
    };
    let shape = [2, 3, 5, 7];
    for (number, direction) in DIRECTIONS.into_iter().enumerate() {
        for kind in ["distinct", "ties"] {
            let get = |name: &str| data(format!("{kind}_{name}_{number}"));
            let (map, upstream) = (
                data(format!("{kind}_map")),
                data(format!("{kind}_upstream")),
            );
            let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
            let lines = Lines {
                shape,
                axis: if number < 2 { 2 } else { 3 },
                from_end: number.is_multiple_of(2),
            };
            let winners = corner_pool_winners(&wide(&map), &lines);
            let pooled: Vec<f32> = winners.iter().map(|&at| map[at]).collect();
            let gradient = corner_pool_gradient(&wide(&map), &wide(&upstream), &lines);
            assert_eq!(pooled, get("pooled"), "{direction:?} {kind}");
            // Small integers: sums are exact in any order.
            assert_eq!(gradient, wide(&get("original")), "{direction:?} {kind}");
            let differs = get("original") != get("cummax");
            assert_eq!(differs, kind == "ties", "{direction:?} {kind}");
            for target in targets() {
                let device = target.device();
                let on = |values: &[f32]| Tensor::from_vec(values.to_vec(), &shape, &device);
                let layout = Layout::ChannelsFirst;
                let (here, bits) =
                    corner_pool_with_bits(&on(&map).unwrap(), direction, layout).unwrap();
                let back = corner_pool_backward(&on(&upstream).unwrap(), &bits, direction, layout);
                assert_eq!(here.to_vec::<f32>().unwrap(), pooled, "{target:?}");
                assert_eq!(
                    back.unwrap().to_vec::<f32>().unwrap(),
                    get("original"),
                    "{target:?}"
                );
            }
        }
    }
}

#[test]
fn bits_of_another_map_are_safe() {
    for target in targets() {
        let device = target.device();
        let upstream = Tensor::from_vec(vec![1f32; 2 * 17 * 3], &[1, 2, 17, 3], &device).unwrap();
        for word in [0i32, -1] {
            // 2 rows of 3 bytes a column and 3 columns: 18 bytes.
            let bits = Tensor::from_vec(vec![word; 5], &[5], &device).unwrap();
            let layout = Layout::ChannelsLast;
            let gradient = corner_pool_backward(&upstream, &bits, Direction::Right, layout);
            let gradient = gradient.unwrap().to_vec::<f32>().unwrap();
            // Without a new maximum everything is dropped; where each step is one, all stays.
            let expected = if word == 0 { 0.0 } else { 1.0 };
            assert_eq!(gradient, vec![expected; 102], "{target:?}");
        }
    }
}

#[test]
fn empty_maps_stay_empty() {
    for target in targets() {
        let device = target.device();
        for shape in [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0]] {
            for direction in DIRECTIONS {
                let map = Tensor::zeros(&shape, DType::F16, &device).unwrap();
                let layout = Layout::ChannelsLast;
                let (pooled, bits) = corner_pool_with_bits(&map, direction, layout).unwrap();
                assert_eq!((pooled.shape(), bits.shape()), (&shape[..], &[0][..]));
                let back = corner_pool_backward(&map, &bits, direction, layout).unwrap();
                assert_eq!(back.shape(), shape);
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let map = zeros(&[1, 2, 3, 4], DType::F32);
    let (top, last) = (Direction::Top, Layout::ChannelsLast);
    let message = |result: ocelli::Result<Tensor>| result.unwrap_err().to_string();
    let flat = zeros(&[2, 3], DType::F32);
    let integers = zeros(&[1, 2, 3, 4], DType::I32);
    let cases = [
        (
            message(corner_pool(&flat, top, last)),
            "map must be [B, H, W, C], got [2, 3]",
        ),
        (
            message(corner_pool(&flat, top, Layout::ChannelsFirst)),
            "map must be [B, C, H, W], got [2, 3]",
        ),
        (
            message(corner_pool(&integers, top, last)),
            "map must be of type f32, f16 or bf16, got i32",
        ),
        (
            message(corner_pool_backward(&map, &map, top, last)),
            "bits must be of type i32, got f32",
        ),
        (
            message(corner_pool_backward(&map, &integers, top, last)),
            "bits must be [3], got [1, 2, 3, 4]",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, format!("corner_pool: {expected}"));
    }
}
