//! RetinaNet's candidates at 800 x 1344, 80 classes: 16.1 million logits an image.

use crate::bench::{Bench, normal};
use ocelli::ops::{Candidates, anchor_decode, nms};
use ocelli::params::{AnchorDecode, Anchors, Nms};
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Device, Tensor};

const CLASSES: usize = 80;

/// RetinaNet's pyramid; in a smoke run a small one.
pub fn pyramid(bench: &Bench) -> Anchors {
    let full = [[100, 168], [50, 84], [25, 42], [13, 21], [7, 11]];
    let grids = full.map(|grid| {
        grid.map(|side: usize| {
            if bench.size(100) == 100 {
                side
            } else {
                side.div_ceil(10)
            }
        })
    });
    Anchors::torchvision([800, 1344], &grids).expect("a pyramid")
}

/// Logits below the threshold but for one in 4,000, which lie above it as a trained detector's do; deltas about 0.
fn head(device: &Device, anchors: &Anchors, images: usize, dtype: DType) -> [Vec<Tensor>; 2] {
    let mut random = SplitMix(4);
    let mut upload = |channels: usize, grid: [usize; 2], logits: bool| {
        let shape = [images, grid[0], grid[1], 9 * channels];
        let mut values = normal(0.4, shape.iter().product(), random.next());
        if logits {
            for value in &mut values {
                let found = random.next().is_multiple_of(4000);
                *value += if found { -1.5 } else { -6.0 };
            }
        }
        let host = Tensor::from_vec(values, &shape, &Device::Cpu).expect("a head");
        let host = host.to_dtype(dtype).expect("a cast");
        host.to_device(device).expect("a head")
    };
    let levels = || anchors.levels().iter().map(|level| level.grid);
    let logits = levels().map(|grid| upload(CLASSES, grid, true)).collect();
    let deltas = levels().map(|grid| upload(4, grid, false)).collect();
    [logits, deltas]
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(heads: &[Vec<Tensor>; 2], anchors: &Anchors, params: &AnchorDecode) {
    let bits = |[logits, deltas]: &[Vec<Tensor>; 2]| {
        let found = anchor_decode(logits, deltas, anchors, None, params).expect("candidates");
        let boxes = found.boxes.to_vec::<f32>().expect("boxes");
        let boxes: Vec<u32> = boxes.into_iter().map(f32::to_bits).collect();
        (boxes, found.classes.to_vec::<i32>().expect("classes"))
    };
    let host = heads.each_ref().map(|levels| {
        levels
            .iter()
            .map(|level| level.to_device(&Device::Cpu).expect("a copy"))
            .collect()
    });
    assert!(bits(heads) == bits(&host));
}

pub fn run(bench: &mut Bench) {
    let anchors = pyramid(bench);
    let params = AnchorDecode::default();
    for (images, dtype) in [(1, DType::F32), (1, DType::F16), (8, DType::F16)] {
        let bytes = images * anchors.count() * CLASSES * dtype.size();
        let case = format!("[{images} x 201600, {CLASSES}] {dtype}");
        bench.case("anchor_decode", &case, bytes, |device| {
            let heads = head(device, &anchors, images, dtype);
            check(&heads, &anchors, &params);
            let (anchors, [logits, deltas]) = (anchors.clone(), heads);
            move || {
                let found = anchor_decode(&logits, &deltas, &anchors, None, &params);
                drop(found.expect("candidates"));
            }
        });
        bench.case(
            "anchor_decode",
            &format!("{case} and nms"),
            bytes,
            |device| {
                let (anchors, [logits, deltas]) =
                    (anchors.clone(), head(device, &anchors, images, dtype));
                move || {
                    let found = anchor_decode(&logits, &deltas, &anchors, None, &params);
                    let Candidates {
                        boxes,
                        scores,
                        classes,
                        count,
                    } = found.expect("candidates");
                    let best = Nms {
                        max_output: Some(scores.shape()[1].min(300)),
                        ..Nms::default()
                    };
                    drop(
                        nms(&boxes, &scores, Some(&classes), Some(&count), &best)
                            .expect("a result"),
                    );
                }
            },
        );
    }
}
