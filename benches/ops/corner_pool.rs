//! Corner pooling of CornerNet's maps: 128 x 128 cells of 128 channels.

use crate::bench::{Bench, normal};
use ocelli::ops::{
    corner_pool, corner_pool_backward, corner_pool_pair, corner_pool_pair_backward,
    corner_pool_pair_with_bits, corner_pool_with_bits,
};
use ocelli::params::{Corner, Direction, Layout};
use ocelli::{DType, Device, Tensor};

const SIDE: usize = 128;
const CHANNELS: usize = 128;

fn map(device: &Device, shape: &[usize], dtype: DType, seed: u64) -> Tensor {
    let values = normal(1.0, shape.iter().product(), seed);
    let host = Tensor::from_vec(values, shape, &Device::Cpu).expect("a map");
    let host = host.to_dtype(dtype).expect("a cast");
    host.to_device(device).expect("a copy")
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(map: &Tensor, direction: Direction, layout: Layout) {
    let pooled = |map: &Tensor| {
        let pooled = corner_pool(map, direction, layout).expect("a pool");
        let host = pooled.to_device(&Device::Cpu).expect("a copy");
        host.to_dtype(DType::F32)
            .expect("a cast")
            .to_vec::<f32>()
            .expect("a pool")
    };
    let on_cpu = map.to_device(&Device::Cpu).expect("a copy");
    assert_eq!(pooled(map), pooled(&on_cpu));
}

pub fn run(bench: &mut Bench) {
    let side = bench.size(SIDE);
    let cases = [
        (1, DType::F32, Layout::ChannelsLast, Direction::Top),
        (1, DType::F32, Layout::ChannelsLast, Direction::Left),
        (1, DType::F32, Layout::ChannelsFirst, Direction::Top),
        (1, DType::F32, Layout::ChannelsFirst, Direction::Left),
        (8, DType::BF16, Layout::ChannelsLast, Direction::Top),
        (8, DType::BF16, Layout::ChannelsLast, Direction::Left),
    ];
    for (batch, dtype, layout, direction) in cases {
        let shape = match layout {
            Layout::ChannelsLast => [batch, side, side, CHANNELS],
            Layout::ChannelsFirst => [batch, CHANNELS, side, side],
        };
        let elements: usize = shape.iter().product();
        let bytes = 2 * elements * dtype.size();
        let order = match layout {
            Layout::ChannelsLast => "BHWC",
            Layout::ChannelsFirst => "BCHW",
        };
        // In either order, as there are as many channels as cells a side.
        let case = format!("{order} [{batch}, {SIDE}, {SIDE}, {CHANNELS}] {dtype} {direction:?}");
        bench.case("corner_pool", &case, bytes, |device| {
            let map = map(device, &shape, dtype, 1);
            check(&map, direction, layout);
            move || drop(corner_pool(&map, direction, layout).expect("a pool"))
        });
        let case = format!("{case} and gradient");
        bench.case("corner_pool", &case, 2 * bytes + elements / 4, |device| {
            let (map, upstream) = (map(device, &shape, dtype, 1), map(device, &shape, dtype, 2));
            move || {
                let (_, bits) = corner_pool_with_bits(&map, direction, layout).expect("a pool");
                drop(
                    corner_pool_backward(&upstream, &bits, direction, layout).expect("a gradient"),
                );
            }
        });
    }
    for (batch, dtype) in [(1, DType::F32), (8, DType::BF16)] {
        pair(bench, [batch, side, side, CHANNELS], dtype);
    }
}

fn pair(bench: &mut Bench, shape: [usize; 4], dtype: DType) {
    let (corner, layout) = (Corner::TopLeft, Layout::ChannelsLast);
    let elements: usize = shape.iter().product();
    let bytes = 3 * elements * dtype.size();
    let case = format!("[{}, {SIDE}, {SIDE}, {CHANNELS}] {dtype}", shape[0]);
    bench.case("corner_pool_pair", &case, bytes, |device| {
        let maps = [1, 2].map(|seed| map(device, &shape, dtype, seed));
        move || drop(corner_pool_pair(&maps[0], &maps[1], corner, layout).expect("a pair"))
    });
    let case = format!("{case} and gradients");
    bench.case(
        "corner_pool_pair",
        &case,
        2 * bytes + elements / 2,
        |device| {
            let maps = [1, 2, 3].map(|seed| map(device, &shape, dtype, seed));
            move || {
                let (_, bits) =
                    corner_pool_pair_with_bits(&maps[0], &maps[1], corner, layout).expect("a pair");
                drop(
                    corner_pool_pair_backward(&maps[2], &bits, corner, layout).expect("gradients"),
                );
            }
        },
    );
}
