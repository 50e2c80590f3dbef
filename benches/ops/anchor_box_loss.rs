//! Box losses of RetinaNet's anchors at 800 x 1344, of which one in 400 is matched.

use super::anchor_decode::pyramid;
use crate::bench::Bench;
use ocelli::ops::{BoxTargets, anchor_box_loss, anchor_box_loss_with_gradient};
use ocelli::params::{AnchorBoxLoss, BoxLoss};
use ocelli::testing::strategy::{Data, SplitMix};
use ocelli::{Device, Tensor};

const BOXES: usize = 50;

pub fn run(bench: &mut Bench) {
    let anchors = pyramid(bench);
    for (loss, name) in [(BoxLoss::L1, "L1"), (BoxLoss::Giou, "GIoU")] {
        let params = AnchorBoxLoss {
            loss,
            normalizer: 504.0,
        };
        let bytes = anchors.count() * (4 + 16);
        let case = format!("[1 x 201600] f32 {name} gradient");
        bench.case("anchor_box_loss", &case, bytes, |device| {
            let mut random = SplitMix(7);
            let levels = anchors.levels().iter().zip(0..);
            let deltas: Vec<Tensor> = levels
                .map(|(level, seed)| {
                    let values = Data::Spread(0.3).values(4 * level.count(), seed);
                    let shape = [1, level.grid[0], level.grid[1], 4 * level.half_sizes.len()];
                    Tensor::from_vec(values, &shape, device).expect("deltas")
                })
                .collect();
            let mut corners = || {
                let [width, height] = [0; 2].map(|_| 16.0 * 25f32.powf(random.uniform()));
                [200.0, 200.0, 200.0 + width, 200.0 + height]
            };
            let corners = (0..BOXES).flat_map(|_| corners()).collect();
            let boxes = Tensor::from_vec(corners, &[1, BOXES, 4], device).expect("boxes");
            let of = |i: usize| {
                if i.is_multiple_of(400) {
                    (i / 400 % BOXES) as i32
                } else {
                    -1
                }
            };
            let matched = (0..anchors.count()).map(of).collect();
            let matched =
                Tensor::from_vec(matched, &[1, anchors.count()], device).expect("matches");
            check(&deltas, [&boxes, &matched], &anchors, &params);
            let anchors = anchors.clone();
            move || {
                let targets = BoxTargets {
                    boxes: &boxes,
                    matched: &matched,
                    foreground: None,
                };
                let result =
                    anchor_box_loss_with_gradient(&deltas, &targets, &anchors, None, &params);
                drop(result.expect("a gradient"));
            }
        });
    }
}

/// The answer against that of the CPU, which the tests hold to the reference.
fn check(
    deltas: &[Tensor],
    [boxes, matched]: [&Tensor; 2],
    anchors: &ocelli::params::Anchors,
    params: &AnchorBoxLoss,
) {
    let loss = |deltas: &[Tensor], boxes: &Tensor, matched: &Tensor| {
        let targets = BoxTargets {
            boxes,
            matched,
            foreground: None,
        };
        let loss = anchor_box_loss(deltas, &targets, anchors, params).expect("a loss");
        loss.to_vec::<f32>().expect("a loss")[0]
    };
    let host = |tensor: &Tensor| tensor.to_device(&Device::Cpu).expect("a copy");
    let on_host: Vec<Tensor> = deltas.iter().map(host).collect();
    let (here, expected) = (
        loss(deltas, boxes, matched),
        loss(&on_host, &host(boxes), &host(matched)),
    );
    assert!(
        (here - expected).abs() <= 1e-4 * expected,
        "{here} for {expected}"
    );
}
