//! Laws of the reference itself.

use ocelli::reference::{CornerBox, CornerDecode, CornerMaps, corner_decode};
use ocelli::testing::strategy::SplitMix;
use proptest::prelude::*;

const SHAPE: [usize; 3] = [9, 11, 4];
const CELLS: usize = 9 * 11;

/// Maps whose logits are all different.
#[derive(Debug, Clone)]
struct Maps {
    heat: Vec<f32>,
    embedding: Vec<f32>,
    offset: Vec<f32>,
}

impl Maps {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let mut heat: Vec<f32> = (0..CELLS * SHAPE[2])
            .map(|i| i as f32 / 50.0 - 4.0)
            .collect();
        for i in (1..heat.len()).rev() {
            heat.swap(i, random.next() as usize % (i + 1));
        }
        let mut eighths = |n: u64| (random.next() % n) as f32 / 8.0;
        Self {
            heat,
            embedding: (0..CELLS).map(|_| eighths(10)).collect(),
            offset: (0..2 * CELLS).map(|_| eighths(8)).collect(),
        }
    }

    fn view(&self) -> CornerMaps<'_> {
        CornerMaps {
            heat: &self.heat,
            embedding: &self.embedding,
            offset: &self.offset,
        }
    }

    /// The maps turned by half a circle.
    fn turned(&self) -> Self {
        let turn = |values: &[f32], last: usize| -> Vec<f32> {
            values.chunks(last).rev().flatten().copied().collect()
        };
        Self {
            heat: turn(&self.heat, SHAPE[2]),
            embedding: turn(&self.embedding, 1),
            offset: turn(&self.offset, 2).iter().map(|o| -o).collect(),
        }
    }
}

fn rule(topk: usize, ae_threshold: f32) -> CornerDecode {
    CornerDecode {
        topk,
        kernel: 3,
        ae_threshold,
        num_dets: usize::MAX,
    }
}

fn decode(a: &Maps, b: &Maps, rule: CornerDecode) -> Vec<CornerBox> {
    corner_decode(SHAPE, a.view(), b.view(), rule)
}

fn sorted(mut boxes: Vec<CornerBox>) -> Vec<CornerBox> {
    boxes.sort_by(|a, b| {
        let key = |x: &CornerBox| (x.class, x.corners.map(|c| (8.0 * c) as i32));
        key(a).cmp(&key(b)).then(a.score.total_cmp(&b.score))
    });
    boxes
}

proptest! {
    /// Boxes are as they must be, best first, at most one a pair of corners.
    #[test]
    fn boxes_are_in_order_and_upright(seed in any::<u64>(), topk in 1..30usize) {
        let (a, b) = (Maps::new(seed), Maps::new(!seed));
        let boxes = decode(&a, &b, rule(topk, 0.5));
        prop_assert!(boxes.len() <= topk * topk);
        for pair in boxes.windows(2) {
            prop_assert!(pair[0].score >= pair[1].score);
        }
        for found in &boxes {
            let [x1, y1, x2, y2] = found.corners;
            prop_assert!(x2 >= x1 && y2 >= y1 && (0.0..=1.0).contains(&found.score));
        }
    }

    /// A larger distance between embeddings only adds boxes, and none at all leaves none out but for geometry.
    #[test]
    fn a_wider_threshold_adds_boxes(seed in any::<u64>(), near in 0..8u8) {
        let (a, b) = (Maps::new(seed), Maps::new(!seed));
        let few = decode(&a, &b, rule(20, f32::from(near) / 8.0));
        let many = decode(&a, &b, rule(20, f32::from(near + 1) / 8.0));
        prop_assert!(few.iter().all(|found| many.contains(found)));
        prop_assert!(decode(&a, &b, rule(20, -1.0)).is_empty());
    }

    /// Turned by half a circle, top-left corners are bottom-right ones, and the boxes turn with them. At most ten
    /// corners, of which each map has more than that as peaks: others are taken in an order that does not turn.
    #[test]
    fn boxes_turn_with_the_maps(seed in any::<u64>(), topk in 1..10usize) {
        let (a, b) = (Maps::new(seed), Maps::new(!seed));
        let boxes = decode(&a, &b, rule(topk, 0.5));
        let turned = decode(&b.turned(), &a.turned(), rule(topk, 0.5));
        let [width, height] = [SHAPE[1] as f32 - 1.0, SHAPE[0] as f32 - 1.0];
        let back = |found: CornerBox| {
            let [x1, y1, x2, y2] = found.corners;
            let corners = [width - x2, height - y2, width - x1, height - y1];
            CornerBox { corners, ..found }
        };
        prop_assert_eq!(sorted(turned.into_iter().map(back).collect()), sorted(boxes));
    }
}
