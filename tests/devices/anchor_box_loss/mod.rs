//! Box losses: every device against the reference.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::params::{AnchorBoxLoss, Anchors, BoxLoss};
use ocelli::reference;
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, SplitMix, cases, size};
use ocelli::{DType, Float};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    images: usize,
    boxes: usize,
    grids: Vec<[usize; 2]>,
    loss: BoxLoss,
    /// One anchor in so many is matched.
    sparsity: u64,
    counted: bool,
    shift: usize,
    upstream: f32,
    seed: u64,
}

struct Inputs<T> {
    deltas: Vec<Guarded<T>>,
    boxes: Vec<[f32; 4]>,
    matched: Vec<i32>,
    foreground: Option<Vec<i32>>,
}

impl Case {
    fn anchors(&self) -> Anchors {
        Anchors::torchvision([100, 139], &self.grids).unwrap()
    }

    fn params(&self) -> AnchorBoxLoss {
        AnchorBoxLoss {
            loss: self.loss,
            normalizer: 3.0,
        }
    }

    fn inputs<T: Float>(&self) -> Inputs<T> {
        let mut random = SplitMix(self.seed);
        let anchors = self.anchors();
        let deltas = anchors
            .levels()
            .iter()
            .zip(self.seed..)
            .map(|(level, seed)| {
                let values = Data::Spread(0.6).values(4 * self.images * level.count(), seed);
                let values: Vec<T> = values.into_iter().map(T::from_f32).collect();
                Guarded::holding(&values, self.shift)
            });
        let deltas: Vec<_> = deltas.collect();
        let mut corners = || {
            let [x, y, w, h] = [100.0, 80.0, 60.0, 60.0].map(|most| most * random.uniform());
            [x, y, x + w + 2.0, y + h + 2.0]
        };
        let boxes: Vec<_> = (0..self.images * self.boxes).map(|_| corners()).collect();
        let odd = [-2, -3, self.boxes as i32, i32::MIN, i32::MAX];
        let mut index = || match random.next() {
            bits if bits % self.sparsity == 0 => (random.next() % self.boxes.max(1) as u64) as i32,
            bits if bits % 7 == 1 => odd[bits as usize / 7 % odd.len()],
            _ => -1,
        };
        let matched = (0..self.images * anchors.count())
            .map(|_| index())
            .collect();
        let count = |_| [-4, 0, 1, 17][random.next() as usize % 4];
        let foreground = self.counted.then(|| (0..self.images).map(count).collect());
        let mut inputs = Inputs {
            deltas,
            boxes,
            matched,
            foreground,
        };
        self.leave_kinks_out(&mut inputs);
        inputs
    }

    /// At a kink the slope jumps, and rounding decides on which side a row lies.
    fn leave_kinks_out<T: Float>(&self, inputs: &mut Inputs<T>) {
        for row in self.rows(inputs) {
            let near = match self.loss {
                BoxLoss::L1 => {
                    let wanted = reference::encode_box(row.anchor, row.target);
                    (0..4).any(|i| (wanted[i] - row.deltas[i]).abs() < 1e-3)
                }
                BoxLoss::SmoothL1 { .. } => false,
                BoxLoss::Giou => {
                    let decoded = reference::decode_box(row.anchor, row.deltas);
                    let sides = (0..4).flat_map(|i| [(i, i), (i, (i + 2) % 4)]);
                    sides
                        .into_iter()
                        .any(|(i, j)| (decoded[i] - row.target[j]).abs() < 0.1)
                }
            };
            if near {
                inputs.matched[row.place] = -1;
            }
        }
    }

    /// The matched rows.
    fn rows<T: Float>(&self, inputs: &Inputs<T>) -> Vec<Row> {
        let anchors = self.anchors();
        let mut rows = Vec::new();
        for image in 0..self.images {
            let (mut first, count) = (0, inputs.foreground.as_ref().map_or(1, |f| f[image].max(1)));
            for (number, level) in anchors.levels().iter().enumerate() {
                let deltas = &inputs.deltas[number];
                let deltas = &deltas.all()[deltas.range()];
                for index in 0..level.count() {
                    let place = image * anchors.count() + first + index;
                    let matched = inputs.matched[place];
                    if !(0..self.boxes as i32).contains(&matched) {
                        continue;
                    }
                    let at = image * level.count() + index;
                    rows.push(Row {
                        place,
                        level: number,
                        at,
                        anchor: level.anchor(index).map(f64::from),
                        deltas: [0, 1, 2, 3].map(|i| f64::from(deltas[4 * at + i].to_f32())),
                        target: inputs.boxes[image * self.boxes + matched as usize].map(f64::from),
                        weight: 1.0 / (3.0 * f64::from(count)),
                    });
                }
                first += level.count();
            }
        }
        rows
    }
}

/// A matched anchor.
struct Row {
    /// In `[B, R]`.
    place: usize,
    level: usize,
    /// In the level's `[B, H, W, A]`.
    at: usize,
    anchor: [f64; 4],
    deltas: [f64; 4],
    target: [f64; 4],
    weight: f64,
}

fn case() -> impl Strategy<Value = Case> {
    let loss = prop_oneof![
        Just(BoxLoss::L1),
        Just(BoxLoss::SmoothL1 { beta: 0.11 }),
        Just(BoxLoss::Giou),
        Just(BoxLoss::Giou),
    ];
    let grids = proptest::collection::vec((0..7usize, 1..9usize).prop_map(|(h, w)| [h, w]), 1..4);
    let extents = (1..4usize, size(9), grids);
    (
        extents,
        loss,
        prop_oneof![Just(1u64), Just(9)],
        any::<bool>(),
        0..9usize,
        -2.0..2.0f32,
        any::<u32>(),
    )
        .prop_map(
            |((images, boxes, grids), loss, sparsity, counted, shift, upstream, seed)| Case {
                images,
                boxes,
                grids,
                loss,
                sparsity,
                counted,
                shift,
                upstream,
                seed: seed.into(),
            },
        )
}

/// The loss alone, the loss with the gradient, and the gradient.
#[derive(Debug, Clone)]
struct Output<T> {
    losses: [f32; 2],
    gradients: Vec<Vec<T>>,
}

fn run<T: Float>(target: &Target, case: &Case, inputs: &Inputs<T>) -> Output<T> {
    match target {
        Target::Cpu => run_cpu(case, inputs),
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case, inputs),
    }
}

fn run_cpu<T: Float>(case: &Case, inputs: &Inputs<T>) -> Output<T> {
    use ocelli::cpu::anchor_box_loss::{Batch, anchor_box_loss};
    let deltas: Vec<&[T]> = inputs
        .deltas
        .iter()
        .map(|level| &level.all()[level.range()])
        .collect();
    let boxes = inputs.boxes.concat();
    let batch = Batch {
        deltas: &deltas,
        boxes: &boxes,
        matched: &inputs.matched,
        foreground: inputs.foreground.as_deref(),
        images: case.images,
        boxes_per_image: case.boxes,
    };
    let mut gradients: Vec<Vec<T>> = deltas
        .iter()
        .map(|level| vec![T::from_f32(f32::NAN); level.len()])
        .collect();
    let (anchors, params, upstream) = (case.anchors(), case.params(), case.upstream);
    let forward = anchor_box_loss(batch, &anchors, &params, upstream, None).unwrap();
    let both = anchor_box_loss(batch, &anchors, &params, upstream, Some(&mut gradients)).unwrap();
    Output {
        losses: [forward, both],
        gradients,
    }
}

/// What f32 arithmetic may lose: the sum of the terms without their signs, of the loss of a row and of its gradient.
fn terms(row: &Row, loss: BoxLoss) -> (f64, [f64; 4]) {
    let (a, t) = (row.anchor, row.target);
    let size = |b: [f64; 4], side: usize| b[side + 2] - b[side];
    let reach = |b: [f64; 4], side: usize| b[side].abs() + b[side + 2].abs();
    let beta = match loss {
        BoxLoss::Giou => return giou_terms(row),
        BoxLoss::SmoothL1 { beta } => f64::from(beta),
        BoxLoss::L1 => 0.0,
    };
    let of_delta = |i: usize| {
        let side = i % 2;
        let wanted = if i < 2 {
            (reach(a, side) + reach(t, side)) / size(a, side)
        } else {
            2.0 + reach(a, side) / size(a, side) + reach(t, side) / size(t, side)
        };
        row.deltas[i].abs() + wanted + reference::encode_box(a, t)[i].abs()
    };
    let each = [0, 1, 2, 3].map(of_delta);
    let slope = each.map(|term| if beta > 0.0 { 1.0 + term / beta } else { 1.0 });
    (each.iter().sum(), slope)
}

/// With lengths replaced by the sums of the coordinates whose differences they are.
fn giou_terms(row: &Row) -> (f64, [f64; 4]) {
    let decoded = reference::decode_box(row.anchor, row.deltas);
    let (a, b) = (decoded, row.target);
    let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let meet = [0, 1].map(|i| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0));
    let hull = [0, 1].map(|i| a[i + 2].max(b[i + 2]) - a[i].min(b[i]));
    let most = a
        .iter()
        .chain(&b)
        .chain(&row.anchor)
        .fold(0.0f64, |most, x| most.max(x.abs()));
    // An area is off by as much as its sides are, times its other side.
    let off = |sides: [f64; 2]| 2.0 * most * (sides[0] + sides[1]) + sides[0] * sides[1];
    let sides = |c: [f64; 4]| [c[2] - c[0], c[3] - c[1]];
    let i = meet[0] * meet[1];
    let u = area(a) + area(b) - i;
    let c = hull[0] * hull[1];
    let off_u = off(sides(a)) + off(sides(b)) + off(meet);
    let loss = 2.0 + (off(meet) + i / u * off_u) / u + (off_u + off(hull)) / c;
    let by_u =
        i / (u * u) * (1.0 + 2.0 * off_u / u) + off(meet) / (u * u) + (1.0 + off(hull) / c) / c;
    let by_c = (u + off_u) / (c * c) * (1.0 + 2.0 * off(hull) / c);
    let along = |axis: usize| {
        let other = 1 - axis;
        let length = |sides: [f64; 2]| sides[other] + 2.0 * most;
        let met = if i > 0.0 { length(meet) } else { 0.0 };
        let slope =
            by_u * (length(sides(a)) + met) + met / u * (1.0 + off_u / u) + by_c * length(hull);
        2.0 * slope
    };
    let scale = |axis: usize| along(axis) * (row.anchor[axis + 2] - row.anchor[axis]);
    let grow = |axis: usize| along(axis) * sides(a)[axis];
    (loss, [scale(0), scale(1), grow(0), grow(1)])
}

fn check<T: Float>(target: &Target, case: &Case) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{target:?} {}: {what}: {error}", T::DTYPE))
    };
    let inputs = case.inputs::<T>();
    let output = run(target, case, &inputs);
    let again = run(target, case, &inputs);
    bitwise(&output.losses, &again.losses).map_err(|error| fail("second run", &error))?;
    let kind = match case.loss {
        BoxLoss::L1 => reference::BoxLoss::SmoothL1 { beta: 0.0 },
        BoxLoss::SmoothL1 { beta } => reference::BoxLoss::SmoothL1 { beta: beta.into() },
        BoxLoss::Giou => reference::BoxLoss::Giou,
    };
    let (mut loss, mut loss_terms) = (0.0, 0.0);
    let mut exact: Vec<Vec<f64>> = output
        .gradients
        .iter()
        .map(|level| vec![0.0; level.len()])
        .collect();
    let mut allowed = exact.clone();
    for row in case.rows(&inputs) {
        let (value, slope) = reference::box_loss(row.anchor, row.deltas, row.target, kind);
        let (terms, slope_terms) = terms(&row, case.loss);
        loss += row.weight * value;
        loss_terms += row.weight * terms;
        for i in 0..4 {
            let scale = row.weight * f64::from(case.upstream);
            exact[row.level][4 * row.at + i] = scale * slope[i];
            allowed[row.level][4 * row.at + i] = scale * slope_terms[i];
        }
    }
    let budget = Budget::of_sums(&[loss; 2], &[loss_terms; 2], &[loss; 2], DType::F32);
    within(&output.losses.map(f64::from), &[loss; 2], &budget)
        .map_err(|error| fail("loss", &error))?;
    for (level, gradient) in output.gradients.iter().enumerate() {
        bitwise(gradient, &again.gradients[level]).map_err(|error| fail("second run", &error))?;
        let values: Vec<f64> = gradient.iter().map(|x| f64::from(x.to_f32())).collect();
        let exact = &exact[level];
        // Arithmetic in f32, then rounded to T once.
        let in_f32 = Budget::of_sums(exact, &allowed[level], exact, DType::F32);
        let bound: Vec<f64> = (0..exact.len()).map(|i| exact[i] + in_f32.of(i)).collect();
        let budget = Budget::of_sums(exact, exact, &bound, T::DTYPE);
        within(&values, exact, &budget).map_err(|error| fail("gradient", &error))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case()) {
        for target in targets() {
            check::<f32>(target, &case)?;
            check::<f16>(target, &case)?;
            check::<bf16>(target, &case)?;
        }
    }
}
