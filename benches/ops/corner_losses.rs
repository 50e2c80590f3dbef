//! Pull, push and offset losses of CornerNet's maps: 128 x 128 cells, 30 boxes an image.

use crate::bench::{Bench, normal};
use ocelli::ops::{corner_embedding_loss_with_gradient, corner_offset_loss_with_gradient};
use ocelli::testing::strategy::SplitMix;
use ocelli::{Device, Tensor};

const SIDE: usize = 128;
const BOXES: usize = 30;

fn map(device: &Device, batch: usize, side: usize, channels: usize, seed: u64) -> Tensor {
    let shape = [batch, side, side, channels];
    let values = normal(1.0, shape.iter().product(), seed);
    Tensor::from_vec(values, &shape, device).expect("a map")
}

fn indices(device: &Device, batch: usize, side: usize, seed: u64) -> Tensor {
    let mut random = SplitMix(seed);
    let cells = (side * side) as u64;
    let indices = (0..batch * BOXES).map(|_| (random.next() % cells) as i32);
    Tensor::from_vec(indices.collect(), &[batch, BOXES], device).expect("indices")
}

pub fn run(bench: &mut Bench) {
    let (batch, side) = (8, bench.size(SIDE).max(16));
    // What is written: the gradients of both maps, or of two channels.
    let bytes = 2 * 4 * batch * side * side;
    let case = format!("[{batch}, {SIDE}, {SIDE}] f32");
    bench.case("corner_embedding_loss", &case, bytes, |device| {
        let maps = [1, 2].map(|seed| map(device, batch, side, 1, seed));
        let cells = [3, 4].map(|seed| indices(device, batch, side, seed));
        move || {
            let (maps, cells) = ([&maps[0], &maps[1]], [&cells[0], &cells[1]]);
            drop(
                corner_embedding_loss_with_gradient(maps, cells, None, &Default::default())
                    .expect("losses"),
            );
        }
    });
    bench.case("corner_offset_loss", &case, bytes, |device| {
        let (offsets, cells) = (
            map(device, batch, side, 2, 5),
            indices(device, batch, side, 6),
        );
        let targets = normal(0.3, batch * BOXES * 2, 7);
        let targets = Tensor::from_vec(targets, &[batch, BOXES, 2], device).expect("targets");
        move || {
            let params = Default::default();
            drop(
                corner_offset_loss_with_gradient(&offsets, &cells, &targets, None, &params)
                    .expect("a loss"),
            );
        }
    });
}
