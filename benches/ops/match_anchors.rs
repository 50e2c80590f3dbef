//! RetinaNet's anchors at 800 x 1344 against the objects of an image.

use super::anchor_decode::pyramid;
use crate::bench::Bench;
use ocelli::ops::match_anchors;
use ocelli::params::MatchAnchors;
use ocelli::testing::strategy::SplitMix;
use ocelli::{Device, Tensor};

/// Boxes of 16 to 400 pixels, anywhere.
fn inputs(device: &Device, images: usize, boxes: usize) -> [Tensor; 2] {
    let mut random = SplitMix(6);
    let mut corners = Vec::new();
    for _ in 0..images * boxes {
        let [width, height] = [0; 2].map(|_| 16.0 * 25f32.powf(random.uniform()));
        let (x, y) = (
            random.uniform() * (1344.0 - width),
            random.uniform() * (800.0 - height),
        );
        corners.extend([x, y, x + width, y + height]);
    }
    let classes = (0..images * boxes).map(|i| (i % 80) as i32).collect();
    [
        Tensor::from_vec(corners, &[images, boxes, 4], device).expect("boxes"),
        Tensor::from_vec(classes, &[images, boxes], device).expect("classes"),
    ]
}

pub fn run(bench: &mut Bench) {
    let anchors = pyramid(bench);
    let params = MatchAnchors::default();
    for (images, boxes) in [(1, 10), (1, 50), (1, 500), (8, 50)] {
        let bytes = images * (8 * anchors.count() + 20 * boxes);
        let case = format!("[{images} x 201600] {boxes} boxes");
        bench.case("match_anchors", &case, bytes, |device| {
            let matches = |[boxes, classes]: &[Tensor; 2]| {
                match_anchors(boxes, classes, None, &anchors, &params).expect("matches")
            };
            let (here, host) = (
                inputs(device, images, boxes),
                inputs(&Device::Cpu, images, boxes),
            );
            // The tests hold the CPU to the reference.
            let labels = |inputs| matches(inputs).labels.to_vec::<i32>().expect("labels");
            assert!(labels(&here) == labels(&host));
            let ([boxes, classes], anchors) = (here, anchors.clone());
            move || drop(match_anchors(&boxes, &classes, None, &anchors, &params).expect("matches"))
        });
    }
}
