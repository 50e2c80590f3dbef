//! Sigmoid focal loss on RetinaNet's anchors: 201,600 an image of 800 x 1344, 80 classes.

use crate::bench::{Bench, normal};
use ocelli::ops::{sigmoid_focal_loss, sigmoid_focal_loss_with_gradient};
use ocelli::params::SigmoidFocalLoss;
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Device, Tensor};

const ANCHORS: usize = 201_600;
const CLASSES: usize = 80;

/// Logits around the prior of a fresh RetinaNet, -ln(99), and labels of which 1 in 400 is a class
/// and 1 in 100 ignored.
fn inputs(device: &Device, rows: usize, dtype: DType) -> (Tensor, Tensor) {
    let mut logits = normal(1.5, rows * CLASSES, 1);
    logits.iter_mut().for_each(|x| *x -= 4.595_119_5);
    let mut random = SplitMix(2);
    let mut label = || match random.next() % 400 {
        0 => (random.next() % CLASSES as u64) as i32,
        1..5 => -2,
        _ => -1,
    };
    let labels = (0..rows).map(|_| label()).collect();
    let host = Tensor::from_vec(logits, &[rows, CLASSES], &Device::Cpu).expect("logits");
    let logits = host
        .to_dtype(dtype)
        .expect("a cast")
        .to_device(device)
        .expect("logits");
    (
        logits,
        Tensor::from_vec(labels, &[rows], device).expect("labels"),
    )
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(logits: &Tensor, labels: &Tensor, params: &SigmoidFocalLoss) {
    let loss = |logits: &Tensor, labels: &Tensor| {
        let loss = sigmoid_focal_loss(logits, labels, params).expect("a loss");
        loss.to_vec::<f32>().expect("a loss")[0]
    };
    let on = |tensor: &Tensor| tensor.to_device(&Device::Cpu).expect("a copy");
    let (here, expected) = (loss(logits, labels), loss(&on(logits), &on(labels)));
    let error = (here - expected).abs();
    assert!(error <= 1e-5 * expected.abs(), "{here} for {expected}");
}

pub fn run(bench: &mut Bench) {
    let params = SigmoidFocalLoss::default();
    let cases = [(1, DType::F32), (1, DType::BF16), (8, DType::BF16)];
    for (images, dtype) in cases {
        let rows = bench.size(images * ANCHORS);
        let (logits, labels) = (rows * CLASSES * dtype.size(), rows * DType::I32.size());
        let case = format!("[{images} x {ANCHORS}, {CLASSES}] {dtype}");
        bench.case(
            "sigmoid_focal_loss",
            &format!("{case} loss"),
            logits + labels,
            |device| {
                let (logits, labels) = inputs(device, rows, dtype);
                check(&logits, &labels, &params);
                move || drop(sigmoid_focal_loss(&logits, &labels, &params).expect("a loss"))
            },
        );
        let bytes = 2 * logits + labels;
        bench.case(
            "sigmoid_focal_loss",
            &format!("{case} gradient"),
            bytes,
            |device| {
                let (logits, labels) = inputs(device, rows, dtype);
                check(&logits, &labels, &params);
                move || {
                    drop(
                        sigmoid_focal_loss_with_gradient(&logits, &labels, None, &params)
                            .expect("a gradient"),
                    );
                }
            },
        );
    }
}
