//! Linear layers and convolutions: every device against the reference.

mod conv2d;
#[cfg(feature = "cuda")]
mod cuda;
mod linear;

use crate::device::{Target, targets};
use half::{bf16, f16};
use ocelli::params::{Activation, Conv2d};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, SplitMix};
use ocelli::{DType, Float, reference};
use proptest::prelude::*;

/// What is multiplied.
#[derive(Debug, Clone, Copy)]
enum Layer {
    Linear {
        rows: usize,
        inputs: usize,
        outputs: usize,
    },
    /// Extents `[B, H, W, C]` and `[N, C, height, width]`.
    Conv2d {
        input: [usize; 4],
        weight: [usize; 4],
        stride: usize,
        padding: usize,
    },
}

/// One problem.
#[derive(Debug, Clone, Copy)]
struct Case {
    layer: Layer,
    data: Data,
    seed: u64,
    /// Elements between an aligned address and the first one of x, residual and out.
    shift: usize,
    bias: bool,
    residual: bool,
    activation: Activation,
}

/// Operands of a type.
struct Operands<T> {
    x: Vec<T>,
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    residual: Option<Vec<T>>,
}

impl Layer {
    /// Lengths of x, weight and the result, and the number of outputs.
    fn lengths(&self) -> [usize; 4] {
        match *self {
            Layer::Linear {
                rows,
                inputs,
                outputs,
            } => [rows * inputs, outputs * inputs, rows * outputs, outputs],
            Layer::Conv2d { input, weight, .. } => {
                let [height, width] = self.reference().output();
                let outputs = weight[0];
                let pixels = input[0] * height * width;
                let product = |extents: [usize; 4]| extents.iter().product::<usize>();
                [product(input), product(weight), pixels * outputs, outputs]
            }
        }
    }

    /// A convolution's extents; a linear layer's as one of single pixels.
    fn reference(&self) -> reference::Conv2d {
        match *self {
            Layer::Linear {
                rows,
                inputs,
                outputs,
            } => reference::Conv2d {
                input: [rows, 1, 1, inputs],
                weight: [outputs, inputs, 1, 1],
                stride: 1,
                padding: 0,
            },
            Layer::Conv2d {
                input,
                weight,
                stride,
                padding,
            } => reference::Conv2d {
                input,
                weight,
                stride,
                padding,
            },
        }
    }

    /// Places in x and weight of the factors of an element of the result.
    fn terms(&self, element: usize) -> Vec<[usize; 2]> {
        let extents = self.reference();
        let [_, height, width, channels] = extents.input;
        let [outputs, _, rows, columns] = extents.weight;
        let [out_height, out_width] = extents.output();
        let (pixel, output) = (element / outputs, element % outputs);
        let (image, y, x) = (
            pixel / (out_height * out_width),
            pixel / out_width % out_height,
            pixel % out_width,
        );
        let mut terms = Vec::new();
        for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            let row = (y * extents.stride + i).wrapping_sub(extents.padding);
            let column = (x * extents.stride + j).wrapping_sub(extents.padding);
            if row >= height || column >= width {
                continue;
            }
            terms.extend((0..channels).map(|c| {
                [
                    ((image * height + row) * width + column) * channels + c,
                    ((output * channels + c) * rows + i) * columns + j,
                ]
            }));
        }
        terms
    }
}

impl Case {
    fn operands<T: Float>(&self) -> Operands<T> {
        let [x, weight, out, outputs] = self.layer.lengths();
        let narrow = |values: Vec<f32>| values.into_iter().map(T::from_f32).collect::<Vec<T>>();
        let spread = |spread, len, seed| narrow(Data::Spread(spread).values(len, seed));
        Operands {
            x: narrow(self.data.values(x, self.seed)),
            weight: spread(0.1, weight, self.seed ^ 1),
            bias: self.bias.then(|| spread(1.0, outputs, self.seed ^ 2)),
            residual: self.residual.then(|| spread(2.0, out, self.seed ^ 3)),
        }
    }

    fn activate(&self, x: f64) -> f64 {
        match self.activation {
            Activation::None => x,
            Activation::Relu => reference::relu(x),
            Activation::Gelu => reference::gelu(x),
        }
    }
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// The exact result on these operands.
fn exact<T: Float>(case: &Case, operands: &Operands<T>) -> Vec<f64> {
    let (x, weight) = (wide(&operands.x), wide(&operands.weight));
    let bias = operands.bias.as_deref().map(wide);
    let mut out = match case.layer {
        Layer::Linear { inputs, .. } => reference::linear(&x, &weight, bias.as_deref(), inputs),
        Layer::Conv2d { .. } => {
            reference::conv2d(&x, &weight, bias.as_deref(), &case.layer.reference())
        }
    };
    if let Some(residual) = &operands.residual {
        out.iter_mut()
            .zip(wide(residual))
            .for_each(|(out, residual)| *out += residual);
    }
    out.iter().map(|&x| case.activate(x)).collect()
}

/// The plain loop: a sum in f32, one term after the other, and `T` after each step that follows.
/// Beside each result the sum of its terms without their signs.
fn naive<T: Float>(case: &Case, operands: &Operands<T>) -> (Vec<f64>, Vec<f64>) {
    let round = |x: f32| T::from_f32(x).to_f32();
    let [_, _, len, outputs] = case.layer.lengths();
    (0..len)
        .map(|element| {
            let (mut sum, mut terms) = (0.0f32, 0.0f32);
            for [x, weight] in case.layer.terms(element) {
                let product = operands.x[x].to_f32() * operands.weight[weight].to_f32();
                sum += product;
                terms += product.abs();
            }
            let mut sum = round(sum);
            for term in [
                operands.bias.as_ref().map(|bias| bias[element % outputs]),
                operands.residual.as_ref().map(|residual| residual[element]),
            ]
            .into_iter()
            .flatten()
            {
                sum = round(sum + term.to_f32());
                terms += term.to_f32().abs();
            }
            let result = T::from_f32(case.activate(sum.into()) as f32);
            (f64::from(result.to_f32()), f64::from(terms))
        })
        .unzip()
}

/// Twice the naive error; sums are in f32, whatever the type, and rounded to it once.
fn judge<T: Float>(case: &Case, operands: &Operands<T>, out: &[T]) -> Result<(), String> {
    let exact = exact(case, operands);
    let (naive, terms) = naive(case, operands);
    let relative = match T::DTYPE {
        DType::F16 => f16::EPSILON.to_f64(),
        DType::BF16 => bf16::EPSILON.to_f64(),
        _ => 0.0,
    };
    let budget = Budget::of_sums(&exact, &terms, &naive, DType::F32).at_least(relative, &exact);
    within(&wide(out), &exact, &budget).map_err(|error| error.to_string())
}

fn run<T: Float>(target: &Target, case: &Case, operands: &Operands<T>) -> Vec<T> {
    match target {
        Target::Cpu => run_cpu(case, operands),
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case, operands),
    }
}

fn run_cpu<T: Float>(case: &Case, operands: &Operands<T>) -> Vec<T> {
    use ocelli::cpu::linear::Terms;
    use ocelli::cpu::{conv2d, linear};
    let x = Guarded::holding(&operands.x, case.shift);
    let x = &x.all()[x.range()];
    let [_, _, len, _] = case.layer.lengths();
    let guarded = Guarded::<T>::new(len, case.shift);
    let mut all = guarded.all().to_vec();
    let out = &mut all[guarded.range()];
    let terms = Terms {
        bias: operands.bias.as_deref(),
        residual: operands.residual.as_deref(),
        activation: case.activation,
    };
    match case.layer {
        Layer::Linear {
            inputs, outputs, ..
        } => {
            let weight = linear::pack(&operands.weight, outputs, inputs).unwrap();
            linear::linear(x, &weight, terms, out).unwrap();
        }
        Layer::Conv2d {
            input: [images, height, width, _],
            weight,
            stride,
            padding,
        } => {
            let weight = conv2d::Conv2dWeight::new(&operands.weight, weight).unwrap();
            let params = Conv2d {
                stride,
                padding,
                activation: case.activation,
            };
            conv2d::conv2d(x, [images, height, width], &weight, terms, &params, out).unwrap();
        }
    }
    guarded.check(&all).unwrap().to_vec()
}

fn check<T: Float>(target: &Target, case: &Case) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!("{target:?} {}: {what}: {error}", T::DTYPE))
    };
    let operands = case.operands::<T>();
    let out = run(target, case, &operands);
    let again = run(target, case, &operands);
    bitwise(&out, &again).map_err(|error| fail("second run", &error))?;
    judge(case, &operands, &out).map_err(|error| fail("result", &error))
}

/// Every device and type.
fn check_all(case: &Case) -> Result<(), TestCaseError> {
    for target in targets() {
        check::<f32>(target, case)?;
        check::<f16>(target, case)?;
        check::<bf16>(target, case)?;
    }
    Ok(())
}

/// Finite data and everything but the layer.
fn case(layer: impl Strategy<Value = Layer>) -> impl Strategy<Value = Case> {
    let data = prop_oneof![
        4 => Just(Data::Spread(2.0)),
        1 => Just(Data::Spread(60.0)),
        1 => Just(Data::Constant(1.0)),
        1 => Just(Data::Offset(100.0)),
        1 => Just(Data::Ties),
    ];
    let activation = prop_oneof![
        2 => Just(Activation::None),
        1 => Just(Activation::Relu),
        1 => Just(Activation::Gelu),
    ];
    let shift = prop_oneof![2 => Just(0usize), 1 => 1..9usize];
    let added = (any::<bool>(), any::<bool>(), activation);
    (layer, data, any::<u64>(), shift, added).prop_map(
        |(layer, data, seed, shift, (bias, residual, activation))| Case {
            layer,
            data,
            seed,
            shift,
            bias,
            residual,
            activation,
        },
    )
}

/// A plain problem of this layer.
fn plain(layer: Layer) -> Case {
    Case {
        layer,
        data: Data::Spread(1.0),
        seed: 9,
        shift: 0,
        bias: true,
        residual: true,
        activation: Activation::Relu,
    }
}

/// A result with one element out of place, or rounded once too often, must not pass.
#[test]
fn a_wrong_result_is_seen() {
    let case = plain(Layer::Linear {
        rows: 5,
        inputs: 40,
        outputs: 7,
    });
    let operands = case.operands::<f32>();
    let right = run_cpu(&case, &operands);
    judge(&case, &operands, &right).unwrap();
    let positive = right.iter().position(|&x| x > 0.5).unwrap();
    let mut random = SplitMix(1);
    for wrong in [f32::NAN, 0.0, right[positive] * 1.001, random.uniform()] {
        let mut results = right.clone();
        results[positive] = wrong;
        assert!(judge(&case, &operands, &results).is_err(), "{wrong}");
    }
    let rounded: Vec<f32> = right.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    assert!(judge(&case, &operands, &rounded).is_err());
}
