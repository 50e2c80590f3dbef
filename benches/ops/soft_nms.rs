//! Soft non-maximum suppression of what a detector leaves, gaussian as CornerNet uses it.

use crate::bench::Bench;
use crate::nms::inputs;
use ocelli::ops::soft_nms;
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::{Device, Tensor};

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(inputs: &[Tensor; 3], params: &SoftNms) {
    let kept = |[boxes, scores, classes]: &[Tensor; 3]| {
        let kept = soft_nms(boxes, scores, Some(classes), None, params).expect("a result");
        let indices = kept.indices.to_vec::<i32>().expect("indices");
        (indices, kept.scores.to_vec::<f32>().expect("scores"))
    };
    let host = inputs
        .each_ref()
        .map(|t| t.to_device(&Device::Cpu).expect("a copy"));
    assert_eq!(kept(inputs), kept(&host));
}

pub fn run(bench: &mut Bench) {
    for (images, boxes) in [(1, 800), (1, 5_000), (8, 5_000)] {
        let case = format!("[{images} x {boxes}] 80 classes");
        let boxes = bench.size(boxes);
        let kept = boxes.min(100);
        let params = SoftNms {
            method: SoftNmsMethod::Gaussian,
            max_output: Some(kept),
            ..SoftNms::default()
        };
        let bytes = images * (24 * boxes + 8 * kept + 4);
        bench.case("soft_nms", &case, bytes, |device| {
            let inputs = inputs(device, images, boxes);
            check(&inputs, &params);
            let [boxes, scores, classes] = inputs;
            move || {
                drop(soft_nms(&boxes, &scores, Some(&classes), None, &params).expect("a result"))
            }
        });
    }
}
