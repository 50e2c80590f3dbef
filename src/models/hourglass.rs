//! Stacked hourglass networks, the backbone of CornerNet.
//!
//! Newell et al., *Stacked Hourglass Networks for Human Pose Estimation*, 2016, in the form of Law and Deng, *CornerNet*,
//! 2018, section 3.5: halved by strides instead of pooling, one residual block where the original has several.

use crate::io::Weights;
use crate::models::layers::Convolution;
use crate::ops::upsample_nearest_add;
use crate::params::{Activation, Conv2d};
use crate::{Error, Result, Tensor};

/// PyTorch's default of a batch norm.
const EPSILON: f64 = 1e-5;
/// Images are framed to multiples of `4 * 2^(scales - 1)`: 512 pixels. The published network has 6 scales.
const MOST_SCALES: usize = 8;

/// Extents of a stacked hourglass network. The default is Hourglass-104.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourglassConfig {
    /// Channels after the first convolution.
    pub stem: usize,
    /// Channels of an hourglass at each scale, from its rim to its waist. Each but the first halves the extents.
    pub widths: Vec<usize>,
    /// Residual blocks of a branch at each scale.
    pub blocks: Vec<usize>,
    /// Hourglasses, one behind the other.
    pub stacks: usize,
    /// Channels of the features that an hourglass gives.
    pub features: usize,
}

impl Default for HourglassConfig {
    fn default() -> Self {
        Self {
            stem: 128,
            widths: vec![256, 256, 384, 384, 384, 512],
            blocks: vec![2, 2, 2, 2, 2, 4],
            stacks: 2,
            features: 256,
        }
    }
}

impl HourglassConfig {
    /// What the shapes of the weights say, under the names of the official code. Where they say nothing it is the default;
    /// loading then lists what is missing.
    pub fn of(weights: &Weights) -> Self {
        let default = Self::default();
        let rim = "kps.0.up1.0.conv1.weight";
        if !weights.contains(rim) {
            return default;
        }
        let (mut widths, mut blocks) = (Vec::new(), Vec::new());
        let mut scale = "kps.0".to_string();
        while let Some(width) = outputs(weights, &format!("{scale}.up1.0.conv1.weight")) {
            widths.push(width);
            blocks.push(count(weights, |block| format!("{scale}.up1.{block}")));
            scale += ".low2";
        }
        widths.push(outputs(weights, &format!("{scale}.0.conv1.weight")).unwrap_or(1));
        blocks.push(count(weights, |block| format!("{scale}.{block}")));
        let or = |name: &str, default| outputs(weights, name).unwrap_or(default);
        Self {
            stem: or("pre.0.conv.weight", default.stem),
            widths,
            blocks,
            stacks: count(weights, |stack| format!("kps.{stack}.up1.0")),
            features: or("cnvs.0.conv.weight", default.features),
        }
    }

    /// How often an hourglass halves the extents.
    pub fn depth(&self) -> usize {
        self.widths.len().saturating_sub(1)
    }

    fn check(&self) -> Result<()> {
        let (widths, blocks) = (self.widths.len(), self.blocks.len());
        let scales = 2..=MOST_SCALES;
        if !scales.contains(&widths) || widths != blocks || self.blocks.contains(&0) {
            let rule = "at least 1 at each of 2 to 8 scales, as many as widths";
            return Err(Error::input(
                "hourglass",
                "blocks",
                rule,
                format!("{:?}", self.blocks),
            ));
        }
        if self.stacks == 0 {
            return Err(Error::input("hourglass", "stacks", "at least 1", 0));
        }
        Ok(())
    }
}

/// The first extent of a tensor: outputs of a convolution.
pub(super) fn outputs(weights: &Weights, name: &str) -> Option<usize> {
    weights.shape(name)?.first().copied()
}

/// How many residual blocks there are under numbered names; at least one, which loading finds missing.
fn count(weights: &Weights, name: impl Fn(usize) -> String) -> usize {
    let there = |number: &usize| weights.contains(&format!("{}.conv1.weight", name(*number)));
    (0..).take_while(there).count().max(1)
}

/// A convolution without bias and the batch norm after it, padded so that stride 1 keeps the extents.
///
/// `names` are prefixes of the convolution and the norm, `extents` outputs, channels and the side of the kernel.
pub(super) fn normed(
    weights: &mut Weights,
    names: [String; 2],
    [outputs, channels, side]: [usize; 3],
    stride: usize,
    activation: Activation,
) -> Result<Convolution> {
    let [convolution, norm] = names;
    let params = Conv2d {
        stride,
        padding: side / 2,
        activation,
    };
    let extents = [outputs, channels, side, side];
    Convolution::load_normed(weights, &convolution, &norm, extents, EPSILON, params)
}

/// `<prefix>.conv`, `<prefix>.bn` and ReLU: the official `convolution`.
pub(super) fn unit(
    weights: &mut Weights,
    prefix: &str,
    extents: [usize; 3],
    stride: usize,
) -> Result<Convolution> {
    let names = [format!("{prefix}.conv"), format!("{prefix}.bn")];
    normed(weights, names, extents, stride, Activation::Relu)
}

/// Two convolutions of 3 x 3 beside a shortcut, which is projected where the extents change:
/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + skip(x))`.
#[derive(Debug, Clone)]
pub struct Residual {
    first: Convolution,
    second: Convolution,
    skip: Option<Convolution>,
}

impl Residual {
    /// Loads `<prefix>.{conv1, bn1, conv2, bn2}` and, where channels or extents change, `<prefix>.skip.{0, 1}`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        [channels, outputs]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let names = |number| {
            [
                format!("{prefix}.conv{number}"),
                format!("{prefix}.bn{number}"),
            ]
        };
        let relu = Activation::Relu;
        let first = normed(weights, names(1), [outputs, channels, 3], stride, relu)?;
        let second = normed(weights, names(2), [outputs, outputs, 3], 1, relu)?;
        let skip = (stride != 1 || channels != outputs).then(|| {
            let names = [format!("{prefix}.skip.0"), format!("{prefix}.skip.1")];
            let extents = [outputs, channels, 1];
            normed(weights, names, extents, stride, Activation::None)
        });
        Ok(Self {
            first,
            second,
            skip: skip.transpose()?,
        })
    }

    /// `x` is `[B, H, W, channels]`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let skip = match &self.skip {
            Some(projection) => projection.forward(x)?,
            None => x.clone(),
        };
        self.second
            .forward_add(&self.first.forward(x)?, Some(&skip))
    }
}

/// Residual blocks, one behind the other.
#[derive(Debug, Clone)]
struct Branch(Vec<Residual>);

impl Branch {
    /// The first block changes channels and extents.
    fn load(
        weights: &mut Weights,
        prefix: &str,
        [channels, outputs]: [usize; 2],
        blocks: usize,
        stride: usize,
    ) -> Result<Self> {
        let block = |block| {
            let name = format!("{prefix}.{block}");
            match block {
                0 => Residual::load(weights, &name, [channels, outputs], stride),
                _ => Residual::load(weights, &name, [outputs, outputs], 1),
            }
        };
        Ok(Self((0..blocks).map(block).collect::<Result<_>>()?))
    }

    /// The last block changes the channels.
    fn load_reversed(
        weights: &mut Weights,
        prefix: &str,
        [channels, outputs]: [usize; 2],
        blocks: usize,
    ) -> Result<Self> {
        let block = |block| {
            let last = if block + 1 == blocks {
                outputs
            } else {
                channels
            };
            Residual::load(weights, &format!("{prefix}.{block}"), [channels, last], 1)
        };
        Ok(Self((0..blocks).map(block).collect::<Result<_>>()?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for block in &self.0 {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}

/// One hourglass: a branch at full extents beside one at half of them, which holds the next smaller hourglass.
///
/// `y = up1(x) + upsample(low3(low2(low1(x))))`
#[derive(Debug, Clone)]
pub struct Hourglass {
    up1: Branch,
    low1: Branch,
    low2: Inner,
    low3: Branch,
}

#[derive(Debug, Clone)]
enum Inner {
    Smaller(Box<Hourglass>),
    Waist(Branch),
}

impl Hourglass {
    /// Loads `<prefix>.{up1, low1, low2, low3}`. `scales` are channels and blocks from the rim to the waist, two or more.
    fn load(weights: &mut Weights, prefix: &str, scales: &[[usize; 2]]) -> Result<Self> {
        let ([[outer, blocks], [inner, waist], ..], within) = (scales, &scales[1..]) else {
            let rule = "at least 2 scales";
            return Err(Error::input("hourglass", "widths", rule, scales.len()));
        };
        let name = |part: &str| format!("{prefix}.{part}");
        let (outer, inner, blocks) = (*outer, *inner, *blocks);
        Ok(Self {
            up1: Branch::load(weights, &name("up1"), [outer, outer], blocks, 1)?,
            low1: Branch::load(weights, &name("low1"), [outer, inner], blocks, 2)?,
            low2: if within.len() > 1 {
                Inner::Smaller(Box::new(Hourglass::load(weights, &name("low2"), within)?))
            } else {
                Inner::Waist(Branch::load(
                    weights,
                    &name("low2"),
                    [inner, inner],
                    *waist,
                    1,
                )?)
            },
            low3: Branch::load_reversed(weights, &name("low3"), [inner, outer], blocks)?,
        })
    }

    /// `[B, H, W, C]` to the same shape. Extents that halving does not divide are brought back by taking nearest pixels.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let low = self.low1.forward(x)?;
        let low = match &self.low2 {
            Inner::Smaller(hourglass) => hourglass.forward(&low)?,
            Inner::Waist(branch) => branch.forward(&low)?,
        };
        upsample_nearest_add(&self.low3.forward(&low)?, &self.up1.forward(x)?)
    }
}

/// A stem that brings an image to a quarter of its extents, and hourglasses behind it.
#[derive(Debug, Clone)]
pub struct StackedHourglass {
    stem: (Convolution, Residual),
    stacks: Vec<Stack>,
}

#[derive(Debug, Clone)]
struct Stack {
    hourglass: Hourglass,
    features: Convolution,
    /// To the next hourglass; the last has none.
    onward: Option<Onward>,
}

/// What the next hourglass sees: `block(relu(of_input(x) + of_features(y)))`.
#[derive(Debug, Clone)]
struct Onward {
    of_input: Convolution,
    of_features: Convolution,
    block: Residual,
}

impl StackedHourglass {
    /// Loads `pre`, and for each stack `kps.<s>` and `cnvs.<s>`, and between two `inters_.<s>`, `cnvs_.<s>`, `inters.<s>`.
    ///
    /// # Errors
    /// A configuration that is none; from the device.
    pub fn load(weights: &mut Weights, config: &HourglassConfig) -> Result<Self> {
        config.check()?;
        let width = config.widths[0];
        let first = unit(weights, "pre.0", [config.stem, 3, 7], 2)?;
        let stem = (
            first,
            Residual::load(weights, "pre.1", [config.stem, width], 2)?,
        );
        let scales: Vec<[usize; 2]> = (config.widths.iter().zip(&config.blocks))
            .map(|(&width, &blocks)| [width, blocks])
            .collect();
        let stack = |s: usize| {
            let features = config.features;
            Ok(Stack {
                hourglass: Hourglass::load(weights, &format!("kps.{s}"), &scales)?,
                features: unit(weights, &format!("cnvs.{s}"), [features, width, 3], 1)?,
                onward: (s + 1 < config.stacks)
                    .then(|| Onward::load(weights, s, [features, width]))
                    .transpose()?,
            })
        };
        let stacks = (0..config.stacks).map(stack).collect::<Result<_>>()?;
        Ok(Self { stem, stacks })
    }

    /// `[B, H, W, 3]` to the features `[B, ceil(H / 4), ceil(W / 4), C]` of the last hourglass.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.1.forward(&self.stem.0.forward(image)?)?;
        for stack in &self.stacks {
            let features = stack.features.forward(&stack.hourglass.forward(&x)?)?;
            x = match &stack.onward {
                Some(onward) => onward.forward(&x, &features)?,
                None => features,
            };
        }
        Ok(x)
    }
}

impl Onward {
    fn load(weights: &mut Weights, s: usize, [features, width]: [usize; 2]) -> Result<Self> {
        let names = |part: &str| [format!("{part}.{s}.0"), format!("{part}.{s}.1")];
        let (none, relu) = (Activation::None, Activation::Relu);
        Ok(Self {
            of_input: normed(weights, names("inters_"), [width, width, 1], 1, none)?,
            of_features: normed(weights, names("cnvs_"), [width, features, 1], 1, relu)?,
            block: Residual::load(weights, &format!("inters.{s}"), [width, width], 1)?,
        })
    }

    fn forward(&self, x: &Tensor, features: &Tensor) -> Result<Tensor> {
        let of_input = self.of_input.forward(x)?;
        let joined = self.of_features.forward_add(features, Some(&of_input))?;
        self.block.forward(&joined)
    }
}
