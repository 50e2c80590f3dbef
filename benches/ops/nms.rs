//! Non-maximum suppression of what a detector leaves: 5,000 boxes an image in 80 classes, and less.

use crate::bench::Bench;
use ocelli::ops::nms;
use ocelli::params::Nms;
use ocelli::testing::strategy::SplitMix;
use ocelli::{Device, Tensor};

/// Boxes in clusters of about ten, as anchors around an object are; scores uniform.
pub(crate) fn inputs(device: &Device, images: usize, boxes: usize) -> [Tensor; 3] {
    let mut random = SplitMix(3);
    let mut unit = || (random.next() >> 40) as f32 / (1u64 << 24) as f32;
    let all = images * boxes;
    let clusters: Vec<[f32; 2]> = (0..boxes.div_ceil(10))
        .map(|_| [unit() * 1333.0, unit() * 800.0])
        .collect();
    let corners: Vec<f32> = (0..all)
        .flat_map(|i| {
            let [x, y] = clusters[i % clusters.len()];
            let (x, y) = (x + unit() * 8.0, y + unit() * 8.0);
            [x, y, x + 40.0 + unit() * 20.0, y + 40.0 + unit() * 20.0]
        })
        .collect();
    let scores: Vec<f32> = (0..all).map(|_| unit()).collect();
    let classes: Vec<i32> = (0..all).map(|i| (i % boxes % 80) as i32).collect();
    let upload = |values, shape: &[usize]| Tensor::from_vec(values, shape, device);
    [
        upload(corners, &[images, boxes, 4]).expect("boxes"),
        upload(scores, &[images, boxes]).expect("scores"),
        Tensor::from_vec(classes, &[images, boxes], device).expect("classes"),
    ]
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(inputs: &[Tensor; 3], params: &Nms) {
    let kept = |[boxes, scores, classes]: &[Tensor; 3]| {
        let kept = nms(boxes, scores, Some(classes), None, params).expect("a result");
        kept.indices.to_vec::<i32>().expect("indices")
    };
    let host = inputs
        .each_ref()
        .map(|t| t.to_device(&Device::Cpu).expect("a copy"));
    assert_eq!(kept(inputs), kept(&host));
}

pub fn run(bench: &mut Bench) {
    for (images, boxes) in [(1, 800), (1, 5_000), (8, 5_000), (1, 100_000)] {
        let case = format!("[{images} x {boxes}] 80 classes");
        let boxes = bench.size(boxes);
        let params = Nms {
            max_output: Some(boxes.min(300)),
            ..Nms::default()
        };
        let bytes = images * (24 * boxes + 4 * 300);
        bench.case("nms", &case, bytes, |device| {
            let inputs = inputs(device, images, boxes);
            check(&inputs, &params);
            let [boxes, scores, classes] = inputs;
            move || drop(nms(&boxes, &scores, Some(&classes), None, &params).expect("a result"))
        });
    }
}
