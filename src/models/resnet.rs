//! Residual networks: the backbone of detectors.

use super::layers::Convolution;
use crate::error::Result;
use crate::io::Weights;
use crate::ops::max_pool2d;
use crate::params::{Activation, Conv2d, MaxPool2d};
use crate::tensor::Tensor;

/// What distinguishes one residual network from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions with four times as many outputs (from ResNet-50 on), or of two 3 x 3.
    pub bottleneck: bool,
    /// Blocks of each of the four stages.
    pub depths: [usize; 4],
    /// Channels of the stem; the stages' blocks have 1, 2, 4 and 8 times as many inside.
    pub width: usize,
}

impl Default for Config {
    /// ResNet-50.
    fn default() -> Self {
        Self {
            bottleneck: true,
            depths: [3, 4, 6, 3],
            width: 64,
        }
    }
}

impl Config {
    /// Reads it from the tensors below `prefix`; where they are missing, ResNet-50's.
    pub fn of(weights: &Weights, prefix: &str) -> Self {
        let default = Self::default();
        let stem = weights.shape(&format!("{prefix}.conv1.weight"));
        let Some(&[width, ..]) = stem else {
            return default;
        };
        let depth = |stage: usize| {
            let block = |&index: &usize| {
                weights.contains(&format!("{prefix}.layer{stage}.{index}.conv1.weight"))
            };
            // A stage without blocks is one whose tensors are missing, which loading then says.
            (0..).take_while(block).count().max(1)
        };
        Self {
            bottleneck: weights.contains(&format!("{prefix}.layer1.0.conv3.weight")),
            depths: [1, 2, 3, 4].map(depth),
            width,
        }
    }

    /// Channels that the four stages give.
    pub fn channels(&self) -> [usize; 4] {
        [1, 2, 4, 8].map(|factor| factor * self.width * self.expansion())
    }

    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

/// A residual network without its classifier, as torchvision's `resnet18` to `resnet101`: of a bottleneck's convolutions
/// the 3 x 3 one has the stride.
///
/// Below its prefix it reads `conv1`, `bn1`, `layer{1..4}.{i}.conv{n}`, `.bn{n}` and `.downsample.{0,1}`. The batch norms
/// are folded into the convolutions.
///
/// Source: He et al., *Deep Residual Learning for Image Recognition*, 2016.
#[derive(Debug, Clone)]
pub struct ResNet {
    stem: Convolution,
    stages: Vec<Vec<Block>>,
}

impl ResNet {
    /// Loads the tensors below `prefix`; `epsilon` is the batch norms'.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &Config,
        epsilon: f64,
    ) -> Result<Self> {
        let (conv, norm) = (format!("{prefix}.conv1"), format!("{prefix}.bn1"));
        let extents = [config.width, 3, 7, 7];
        let stem = Convolution::load_normed(weights, &conv, &norm, extents, epsilon, relu(2, 3))?;
        let mut inputs = config.width;
        let mut stages = Vec::new();
        for (stage, depth) in config.depths.into_iter().enumerate() {
            let mut blocks = Vec::new();
            for index in 0..depth {
                let block = Shape {
                    prefix: format!("{prefix}.layer{}.{index}", stage + 1),
                    inputs,
                    inner: config.width << stage,
                    outputs: config.channels()[stage],
                    stride: if stage > 0 && index == 0 { 2 } else { 1 },
                };
                inputs = block.outputs;
                blocks.push(block.load(weights, config.bottleneck, epsilon)?);
            }
            stages.push(blocks);
        }
        Ok(Self { stem, stages })
    }

    /// Of normalised images `[B, H, W, 3]` the maps of the four stages, a quarter, an eighth, a sixteenth and a 32nd as large.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let pool = MaxPool2d {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let mut x = max_pool2d(&self.stem.forward(images)?, &pool)?;
        let mut maps = Vec::new();
        for blocks in &self.stages {
            for block in blocks {
                x = block.forward(&x)?;
            }
            maps.push(x.clone());
        }
        Ok(maps)
    }
}

/// `relu(x + f(x))`, where `x` goes through a 1 x 1 convolution if its shape changes.
#[derive(Debug, Clone)]
struct Block {
    shortcut: Option<Convolution>,
    first: Vec<Convolution>,
    last: Convolution,
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.shortcut {
            Some(convolution) => &convolution.forward(x)?,
            None => x,
        };
        let mut inner = x.clone();
        for convolution in &self.first {
            inner = convolution.forward(&inner)?;
        }
        self.last.forward_add(&inner, Some(shortcut))
    }
}

/// Where a block's tensors are, and how large.
struct Shape {
    prefix: String,
    inputs: usize,
    inner: usize,
    outputs: usize,
    stride: usize,
}

impl Shape {
    fn load(&self, weights: &mut Weights, bottleneck: bool, epsilon: f64) -> Result<Block> {
        let Self {
            prefix,
            inputs,
            inner,
            outputs,
            stride,
        } = self;
        let mut normed = |conv: &str, norm: &str, extents, params| {
            let (conv, norm) = (format!("{prefix}.{conv}"), format!("{prefix}.{norm}"));
            Convolution::load_normed(weights, &conv, &norm, extents, epsilon, params)
        };
        let (first, last) = if bottleneck {
            let first = vec![
                normed("conv1", "bn1", [*inner, *inputs, 1, 1], relu(1, 0))?,
                normed("conv2", "bn2", [*inner, *inner, 3, 3], relu(*stride, 1))?,
            ];
            let last = normed("conv3", "bn3", [*outputs, *inner, 1, 1], relu(1, 0))?;
            (first, last)
        } else {
            let first = vec![normed(
                "conv1",
                "bn1",
                [*inner, *inputs, 3, 3],
                relu(*stride, 1),
            )?];
            let last = normed("conv2", "bn2", [*outputs, *inner, 3, 3], relu(1, 1))?;
            (first, last)
        };
        let changes = *stride != 1 || inputs != outputs;
        let params = Conv2d {
            stride: *stride,
            ..Conv2d::default()
        };
        let extents = [*outputs, *inputs, 1, 1];
        let shortcut = changes.then(|| normed("downsample.0", "downsample.1", extents, params));
        Ok(Block {
            shortcut: shortcut.transpose()?,
            first,
            last,
        })
    }
}

fn relu(stride: usize, padding: usize) -> Conv2d {
    Conv2d {
        stride,
        padding,
        activation: Activation::Relu,
    }
}
