//! Corner decoding of CornerNet's maps: 128 x 128 cells, 80 classes.

use crate::bench::Bench;
use ocelli::ops::{CornerMaps, corner_decode};
use ocelli::params::CornerDecode;
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};

const CLASSES: usize = 80;

/// Heat, embedding and offset. Logits are noise around -6: one in nine is a peak, more than in any trained network.
fn inputs(device: &Device, [images, side]: [usize; 2], dtype: DType, seed: u64) -> [Tensor; 3] {
    let map = |last: usize, scale: f32, shift: f32, seed: u64| {
        let mut values = Data::Spread(scale).values(images * side * side * last, seed);
        values.iter_mut().for_each(|x| *x += shift);
        let host = Tensor::from_vec(values, &[images, side, side, last], &Device::Cpu);
        let cast = host.expect("a map").to_dtype(dtype).expect("a cast");
        cast.to_device(device).expect("a map")
    };
    [
        map(CLASSES, 2.0, -6.0, seed),
        map(1, 1.0, 0.0, seed + 1),
        map(2, 0.25, 0.0, seed + 2),
    ]
}

fn maps([heat, embedding, offset]: &[Tensor; 3]) -> CornerMaps<'_> {
    CornerMaps {
        heat,
        embedding,
        offset,
    }
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(top_left: &[Tensor; 3], bottom_right: &[Tensor; 3], params: &CornerDecode) {
    let found = |a: &[Tensor; 3], b: &[Tensor; 3]| {
        let found = corner_decode(maps(a), maps(b), params).expect("a result");
        let scores = found.scores.to_vec::<f32>().expect("scores");
        (found.boxes.to_vec::<f32>().expect("boxes"), scores)
    };
    let host = |maps: &[Tensor; 3]| {
        maps.each_ref()
            .map(|t| t.to_device(&Device::Cpu).expect("a copy"))
    };
    let expected = found(&host(top_left), &host(bottom_right));
    assert_eq!(found(top_left, bottom_right), expected);
}

pub fn run(bench: &mut Bench) {
    let params = CornerDecode::default();
    for (images, dtype) in [(1, DType::F32), (1, DType::F16), (8, DType::F16)] {
        // A hundredth of the cells in a smoke run.
        let side = if bench.size(100) < 100 { 13 } else { 128 };
        let bytes = 2 * images * side * side * CLASSES * dtype.size();
        let case = format!("[{images} x 128 x 128 x {CLASSES}] {dtype}");
        bench.case("corner_decode", &case, bytes, |device| {
            let top_left = inputs(device, [images, side], dtype, 1);
            let bottom_right = inputs(device, [images, side], dtype, 4);
            check(&top_left, &bottom_right, &params);
            move || {
                let found = corner_decode(maps(&top_left), maps(&bottom_right), &params);
                drop(found.expect("a result"));
            }
        });
    }
}
