//! Heatmap focal loss and targets of CornerNet's maps: 128 x 128 cells of 80 classes, 30 boxes an image.

use crate::bench::{Bench, normal};
use ocelli::ops::{
    HeatmapTargets, corner_targets, heatmap_focal_loss, heatmap_focal_loss_with_gradient,
};
use ocelli::params::{Corner, CornerTargets, HeatmapFocalLoss};
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Device, Tensor};

const SIDE: usize = 128;
const CLASSES: usize = 80;
const BOXES: usize = 30;

/// Logits, boxes and classes of a batch.
struct Inputs {
    logits: Tensor,
    boxes: Tensor,
    classes: Tensor,
    rule: CornerTargets,
}

impl Inputs {
    fn new(device: &Device, batch: usize, side: usize, dtype: DType) -> Self {
        let shape = [batch, side, side, CLASSES];
        let logits = normal(1.5, shape.iter().product(), 1);
        // Around the prior of a fresh CornerNet.
        let logits = logits.into_iter().map(|x| x - 2.19).collect();
        let logits = Tensor::from_vec::<f32>(logits, &shape, &Device::Cpu).expect("logits");
        let logits = logits.to_dtype(dtype).expect("a cast");
        let mut random = SplitMix(2);
        let size = 4.0 * side as f32;
        let (mut boxes, mut classes) = (Vec::new(), Vec::new());
        for _ in 0..batch * BOXES {
            let [x, y, w, h] = [0; 4].map(|_| random.uniform());
            boxes.extend(
                [x * 0.7, y * 0.7, x * 0.7 + w * 0.29, y * 0.7 + h * 0.29].map(|c| c * size),
            );
            classes.push((random.next() % CLASSES as u64) as i32);
        }
        Self {
            logits: logits.to_device(device).expect("logits"),
            boxes: Tensor::from_vec(boxes, &[batch, BOXES, 4], device).expect("boxes"),
            classes: Tensor::from_vec(classes, &[batch, BOXES], device).expect("classes"),
            rule: CornerTargets::new(4 * side, 4 * side),
        }
    }

    fn rendered(&self) -> HeatmapTargets<'_> {
        HeatmapTargets::Boxes {
            boxes: &self.boxes,
            classes: &self.classes,
            corner: Corner::TopLeft,
            rule: self.rule,
        }
    }

    fn map(&self) -> Tensor {
        let &[_, height, width, kinds] = self.logits.shape() else {
            panic!("logits are [B, H, W, K]");
        };
        let heatmap = [height, width, kinds];
        let maps = corner_targets(&self.boxes, &self.classes, heatmap, &self.rule);
        let [top_left, _] = maps.expect("targets");
        top_left.heat
    }

    /// A map's answer is that of its boxes.
    fn check(&self, map: &Tensor) {
        let loss = |targets: &HeatmapTargets<'_>| {
            let loss = heatmap_focal_loss(&self.logits, targets, &HeatmapFocalLoss::default());
            loss.expect("a loss").to_vec::<f32>().expect("a loss")
        };
        assert_eq!(loss(&HeatmapTargets::Map(map)), loss(&self.rendered()));
    }
}

pub fn run(bench: &mut Bench) {
    let side = bench.size(SIDE).max(16);
    let params = HeatmapFocalLoss {
        clamp: 1e-4,
        ..Default::default()
    };
    for (batch, dtype) in [(1, DType::F32), (8, DType::F32), (8, DType::BF16)] {
        let elements = batch * side * side * CLASSES;
        let case = format!("[{batch}, {SIDE}, {SIDE}, {CLASSES}] {dtype}");
        let logits = elements * dtype.size();
        let name = "heatmap_focal_loss";
        bench.case(
            name,
            &format!("{case} map"),
            2 * logits + 4 * elements,
            |device| {
                let inputs = Inputs::new(device, batch, side, dtype);
                let map = inputs.map();
                inputs.check(&map);
                move || {
                    let targets = HeatmapTargets::Map(&map);
                    drop(
                        heatmap_focal_loss_with_gradient(&inputs.logits, &targets, None, &params)
                            .expect("a gradient"),
                    );
                }
            },
        );
        bench.case(name, &format!("{case} boxes"), 2 * logits, |device| {
            let inputs = Inputs::new(device, batch, side, dtype);
            move || {
                let targets = inputs.rendered();
                drop(
                    heatmap_focal_loss_with_gradient(&inputs.logits, &targets, None, &params)
                        .expect("a gradient"),
                );
            }
        });
    }
    let bytes = 2 * 4 * 8 * side * side * CLASSES;
    let case = format!("[8, {SIDE}, {SIDE}, {CLASSES}]");
    bench.case("corner_targets", &case, bytes, |device| {
        let inputs = Inputs::new(device, 8, side, DType::F32);
        move || {
            let heatmap = [side, side, CLASSES];
            drop(
                corner_targets(&inputs.boxes, &inputs.classes, heatmap, &inputs.rule)
                    .expect("targets"),
            );
        }
    });
}
