//! The ops as problems.

use super::Problem;
#[cfg(feature = "cuda")]
use super::launch::launch;
#[cfg(feature = "cuda")]
use ocelli::cuda::{
    self, Context,
    cudarc::driver::{CudaView, CudaViewMut},
};
use ocelli::params::{Activation, GroupNorm, MaxPool2d, ResizeBilinear};
use ocelli::testing::strategy::size;
use ocelli::{Float, cpu, reference};
use proptest::prelude::*;
use proptest::sample::select;

/// An op and its extents. Float inputs stand in the order of the raw entries' arguments.
#[derive(Debug, Clone)]
pub enum AnyProblem {
    LayerNorm {
        rows: usize,
        width: usize,
        epsilon: f32,
    },
    GroupNorm {
        images: usize,
        pixels: usize,
        channels: usize,
        params: GroupNorm,
    },
    MaxPool2d {
        input: [usize; 4],
        params: MaxPool2d,
    },
    UpsampleNearestAdd {
        input: [usize; 4],
        output: [usize; 2],
    },
    ResizeBilinear {
        input: [usize; 4],
        params: ResizeBilinear,
    },
    Activation {
        len: usize,
        activation: Activation,
    },
    NormalizeImage {
        pixels: usize,
        mean: Vec<f32>,
        deviation: Vec<f32>,
    },
    Embedding {
        rows: usize,
        width: usize,
        indices: Vec<i32>,
    },
    AddPositions {
        sequences: usize,
        tokens: usize,
        prefix: usize,
        width: usize,
    },
}

pub fn any_problem() -> impl Strategy<Value = AnyProblem> {
    let channels = || select(vec![1usize, 3, 4, 8, 16, 24, 31, 64]);
    let images = (1..3usize, 1..12usize, 1..12usize, channels());
    let images =
        images.prop_map(|(images, height, width, channels)| [images, height, width, channels]);
    let activation = || select(vec![Activation::None, Activation::Relu, Activation::Gelu]);
    let layer = (size(40), size(900), select(vec![1e-5f32, 1e-12, 0.1]));
    let group = (1..3usize, size(200), 1..9usize, 1..9usize, activation());
    let embedding = (
        1..20usize,
        size(70),
        prop::collection::vec(-3..23i32, 1..40),
    );
    prop_oneof![
        2 => layer.prop_map(|(rows, width, epsilon)| AnyProblem::LayerNorm {
            rows: rows.max(1),
            width: width.max(1),
            epsilon,
        }),
        2 => group.prop_map(|(images, pixels, groups, of_group, activation)| AnyProblem::GroupNorm {
            images,
            pixels: pixels.max(1),
            channels: groups * of_group,
            params: GroupNorm { groups, epsilon: 1e-5, activation },
        }),
        1 => (images.clone(), 1..4usize, 1..4usize, 0..2usize).prop_map(|(input, kernel, stride, padding)| {
            let [images, height, width, channels] = input;
            let input = [images, height.max(kernel), width.max(kernel), channels];
            let params = MaxPool2d { kernel, stride, padding: padding.min(kernel / 2) };
            AnyProblem::MaxPool2d { input, params }
        }),
        1 => (images.clone(), 1..20usize, 1..20usize)
            .prop_map(|(input, h, w)| AnyProblem::UpsampleNearestAdd { input, output: [h, w] }),
        2 => (images, 1..20usize, 1..20usize, any::<bool>()).prop_map(|(input, height, width, antialias)| {
            let params = ResizeBilinear { height, width, antialias };
            AnyProblem::ResizeBilinear { input, params }
        }),
        1 => (size(1000), select(vec![Activation::Relu, Activation::Gelu]))
            .prop_map(|(len, activation)| AnyProblem::Activation { len: len.max(1), activation }),
        1 => (size(300), 1..5usize).prop_map(|(pixels, channels)| AnyProblem::NormalizeImage {
            pixels: pixels.max(1),
            mean: (0..channels).map(|c| 0.4 + 0.1 * c as f32).collect(),
            deviation: (0..channels).map(|c| 0.2 + 0.01 * c as f32).collect(),
        }),
        1 => embedding.prop_map(|(rows, width, indices)| AnyProblem::Embedding {
            rows,
            width: width.max(1),
            indices,
        }),
        1 => (1..4usize, 1..20usize, 0..3usize, size(70)).prop_map(|(sequences, tokens, prefix, width)| {
            AnyProblem::AddPositions { sequences, tokens, prefix, width: width.max(1) }
        }),
    ]
}

fn product(extents: &[usize]) -> usize {
    extents.iter().product()
}

/// Terms of a norm: `(|x| + |mean|) / deviation * |weight| + |bias|`. `group` numbers the values that
/// are normalised together.
fn norm_terms(inputs: &[Vec<f64>], epsilon: f32, group: impl Fn(usize) -> usize) -> Vec<f64> {
    let [x, weight, bias] = inputs else {
        panic!("x, weight and bias")
    };
    let mut sums = vec![[0.0; 3]; x.len()];
    for (at, x) in x.iter().enumerate() {
        let [count, sum, squares] = &mut sums[group(at)];
        (*count, *sum, *squares) = (*count + 1.0, *sum + x, *squares + x * x);
    }
    let term = |(at, x): (usize, &f64)| {
        let [count, sum, squares] = sums[group(at)];
        let mean = sum / count;
        let variance = (squares / count - mean * mean).max(0.0);
        let deviation = (variance + f64::from(epsilon)).sqrt();
        let channel = at % weight.len();
        (x.abs() + mean.abs()) / deviation * weight[channel].abs() + bias[channel].abs()
    };
    x.iter().enumerate().map(term).collect()
}

impl AnyProblem {
    /// Whether a value that is not finite reaches results whose kind of it is not defined.
    pub fn spreads(&self) -> bool {
        !matches!(
            self,
            Self::MaxPool2d { .. }
                | Self::UpsampleNearestAdd { .. }
                | Self::Embedding { .. }
                | Self::AddPositions { .. }
        )
    }
}

impl Problem for AnyProblem {
    fn inputs(&self) -> Vec<usize> {
        match self {
            Self::LayerNorm { rows, width, .. } => vec![rows * width, *width, *width],
            Self::GroupNorm {
                images,
                pixels,
                channels,
                ..
            } => {
                vec![images * pixels * channels, *channels, *channels]
            }
            Self::MaxPool2d { input, .. } | Self::ResizeBilinear { input, .. } => {
                vec![product(input)]
            }
            Self::UpsampleNearestAdd { input, .. } => vec![product(input), self.len()],
            Self::Activation { len, .. } => vec![*len],
            Self::NormalizeImage { .. } => vec![self.len()],
            Self::Embedding { rows, width, .. } => vec![rows * width],
            Self::AddPositions {
                sequences,
                tokens,
                prefix,
                width,
            } => {
                vec![
                    sequences * tokens * width,
                    prefix * width,
                    (prefix + tokens) * width,
                ]
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::LayerNorm { rows, width, .. } => rows * width,
            Self::GroupNorm {
                images,
                pixels,
                channels,
                ..
            } => images * pixels * channels,
            Self::MaxPool2d {
                input: [images, height, width, channels],
                params,
            } => {
                let extent =
                    |from: &usize| (from + 2 * params.padding - params.kernel) / params.stride + 1;
                images * extent(height) * extent(width) * channels
            }
            Self::UpsampleNearestAdd { input, output } => input[0] * product(output) * input[3],
            Self::ResizeBilinear { input, params } => {
                input[0] * params.height * params.width * input[3]
            }
            Self::Activation { len, .. } => *len,
            Self::NormalizeImage { pixels, mean, .. } => pixels * mean.len(),
            Self::Embedding { width, indices, .. } => indices.len() * width,
            Self::AddPositions {
                sequences,
                tokens,
                prefix,
                width,
            } => sequences * (prefix + tokens) * width,
        }
    }

    fn exact(&self, inputs: &[Vec<f64>]) -> Vec<f64> {
        let x = &inputs[0];
        let activate = |values: Vec<f64>, activation| -> Vec<f64> {
            let of = |x| match activation {
                Activation::None => x,
                Activation::Relu => reference::relu(x),
                Activation::Gelu => reference::gelu(x),
            };
            values.into_iter().map(of).collect()
        };
        match self {
            Self::LayerNorm { epsilon, .. } => {
                reference::layer_norm(x, &inputs[1], &inputs[2], f64::from(*epsilon))
            }
            Self::GroupNorm { pixels, params, .. } => {
                let epsilon = f64::from(params.epsilon);
                let (weight, bias) = (&inputs[1], &inputs[2]);
                let normal =
                    reference::group_norm(x, weight, bias, *pixels, params.groups, epsilon);
                activate(normal, params.activation)
            }
            Self::MaxPool2d { input, params } => {
                reference::max_pool2d(x, *input, params.kernel, params.stride, params.padding)
            }
            Self::UpsampleNearestAdd { input, output } => {
                reference::upsample_nearest_add(x, *input, &inputs[1], *output)
            }
            Self::ResizeBilinear { input, params } => {
                let output = [params.height, params.width];
                reference::resize_bilinear(x, *input, output, params.antialias)
            }
            Self::Activation { activation, .. } => activate(x.clone(), *activation),
            Self::NormalizeImage {
                mean, deviation, ..
            } => {
                let wide =
                    |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
                reference::normalize_image(x, &wide(mean), &wide(deviation))
            }
            Self::Embedding { width, indices, .. } => reference::embedding(x, *width, indices),
            Self::AddPositions { .. } => reference::add_positions(x, &inputs[1], &inputs[2]),
        }
    }

    fn terms(&self, inputs: &[Vec<f64>]) -> Vec<f64> {
        match self {
            Self::LayerNorm { width, epsilon, .. } => norm_terms(inputs, *epsilon, |at| at / width),
            Self::GroupNorm {
                pixels,
                channels,
                params,
                ..
            } => {
                let width = channels / params.groups;
                norm_terms(inputs, params.epsilon, |at| {
                    at / (pixels * channels) * params.groups + at % channels / width
                })
            }
            Self::MaxPool2d { .. } | Self::Embedding { .. } => vec![0.0; self.len()],
            Self::NormalizeImage {
                mean, deviation, ..
            } => {
                let channel = |at: usize| at % mean.len();
                let term = |(at, x): (usize, &f64)| {
                    (x.abs() + f64::from(mean[channel(at)])) / f64::from(deviation[channel(at)])
                };
                inputs[0].iter().enumerate().map(term).collect()
            }
            Self::Activation { .. } => inputs[0].iter().map(|x| x.abs()).collect(),
            Self::UpsampleNearestAdd { .. }
            | Self::ResizeBilinear { .. }
            | Self::AddPositions { .. } => {
                let size = |values: &Vec<f64>| values.iter().map(|x| x.abs()).collect::<Vec<f64>>();
                self.exact(&inputs.iter().map(size).collect::<Vec<_>>())
            }
        }
    }

    fn cpu<T: Float>(&self, inputs: &[&[T]], out: &mut [T]) {
        let x = inputs[0];
        match self {
            Self::LayerNorm { epsilon, .. } => {
                cpu::norm::layer_norm(x, inputs[1], inputs[2], *epsilon, out)
            }
            Self::GroupNorm { pixels, params, .. } => {
                cpu::norm::group_norm(x, inputs[1], inputs[2], *pixels, params, out)
            }
            Self::MaxPool2d { input, params } => cpu::spatial::max_pool2d(x, *input, params, out),
            Self::UpsampleNearestAdd { input, output } => {
                cpu::spatial::upsample_nearest_add(x, *input, inputs[1], *output, out)
            }
            Self::ResizeBilinear { input, params } => {
                cpu::spatial::resize_bilinear(x, *input, params, out)
            }
            Self::Activation { activation, .. } => {
                cpu::elementwise::activation(x, *activation, out)
            }
            Self::NormalizeImage {
                mean, deviation, ..
            } => cpu::elementwise::normalize_image(x, mean, deviation, out),
            Self::Embedding { width, indices, .. } => {
                cpu::elementwise::embedding(x, *width, indices, out)
            }
            Self::AddPositions { .. } => {
                cpu::elementwise::add_positions(x, inputs[1], inputs[2], out)
            }
        }
        .unwrap();
    }

    #[cfg(feature = "cuda")]
    fn cuda<T: Float>(
        &self,
        context: &Context,
        inputs: &[CudaView<'_, T>],
        out: CudaViewMut<'_, T>,
        workspace: CudaViewMut<'_, u8>,
    ) {
        launch(self, context, inputs, out, workspace).unwrap();
    }

    #[cfg(feature = "cuda")]
    fn workspace(&self) -> usize {
        match self {
            Self::GroupNorm {
                images,
                pixels,
                channels,
                params,
            } => {
                let extents = [*images, *pixels, *channels];
                cuda::group_norm::Plan::new(extents, params, ocelli::DType::F32)
                    .unwrap()
                    .workspace_bytes()
            }
            _ => 0,
        }
    }
}
