//! CornerNet: objects as pairs of corners.
//!
//! Law and Deng, *CornerNet: Detecting Objects as Paired Keypoints*, 2018; princeton-vl/CornerNet. Features of a
//! [stacked hourglass](super::hourglass) go through two corner modules, for top-left and for bottom-right corners, whose
//! [corner pooling](crate::ops::corner_pool_pair) gathers what lies along an object's edges. Of each corner three heads
//! tell class (heatmaps), partner (embeddings) and exact place (offsets); [`corner_decode`](crate::ops::corner_decode)
//! pairs them.

mod detect;
mod loss;
mod names;

pub use detect::{DetectionRule, Detector};
pub use loss::{LossRule, Losses, loss_with_gradient};
pub use names::{Naming, rename};

use super::hourglass::{HourglassConfig, StackedHourglass, normed, outputs, unit};
use crate::io::Weights;
use crate::models::layers::Convolution;
use crate::ops::{CornerMaps, corner_pool_pair, upsample_nearest_add};
use crate::params::{Activation, Conv2d, Corner, Layout};
use crate::{DType, Device, Error, Result, Tensor};
use std::str::FromStr;

const MODEL: &str = "cornernet";

/// Extents of a CornerNet. The default is the published one, of Hourglass-104 and COCO's 80 classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The backbone.
    pub hourglass: HourglassConfig,
    /// Channels that corners are pooled in.
    pub pooled: usize,
    /// Channels inside of a head.
    pub hidden: usize,
    /// Kinds of objects.
    pub classes: usize,
    /// Whether corners are pooled. A network without, trained to measure what pooling is worth, adds the two maps as
    /// they are.
    pub pooling: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hourglass: HourglassConfig::default(),
            pooled: 128,
            hidden: 256,
            classes: 80,
            pooling: true,
        }
    }
}

impl Config {
    /// What the shapes of the weights say, under the names of the official code ([`rename`] brings others to them), and
    /// the file's metadata `pooling`, `true` where there are none.
    ///
    /// # Errors
    /// Other metadata.
    pub fn of(weights: &Weights) -> Result<Self> {
        let default = Self::default();
        let or = |name: &str, default| outputs(weights, name).unwrap_or(default);
        Ok(Self {
            hourglass: HourglassConfig::of(weights),
            pooled: or("tl_cnvs.0.p1_conv1.conv.weight", default.pooled),
            hidden: or("tl_heats.0.0.conv.weight", default.hidden),
            classes: or("tl_heats.0.1.weight", default.classes),
            pooling: metadata(weights, "pooling", "`true` or `false`")?.unwrap_or(true),
        })
    }
}

/// An entry of the file's metadata.
fn metadata<T: FromStr>(weights: &Weights, key: &str, rule: &str) -> Result<Option<T>> {
    let parse = |text: &str| {
        let rule = format!("{rule} in the file's metadata");
        text.parse()
            .map_err(|_| Error::input(MODEL, key, rule, text))
    };
    weights.metadata(key).map(parse).transpose()
}

/// What the network says of one kind of corner, cell by cell.
#[derive(Debug, Clone)]
pub struct CornerHeads {
    /// `[B, H, W, K]` logits, a class each.
    pub heat: Tensor,
    /// `[B, H, W, 1]`: near to each other for the corners of one object.
    pub embedding: Tensor,
    /// `[B, H, W, 2]`: `(x, y)` in cells, from the cell to the corner.
    pub offset: Tensor,
}

impl CornerHeads {
    /// As [`corner_decode`](crate::ops::corner_decode) takes them.
    pub fn maps(&self) -> CornerMaps<'_> {
        CornerMaps {
            heat: &self.heat,
            embedding: &self.embedding,
            offset: &self.offset,
        }
    }
}

/// What the network says of an image: H and W are a quarter of its extents, rounded up.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// Of top-left corners.
    pub top_left: CornerHeads,
    /// Of bottom-right corners.
    pub bottom_right: CornerHeads,
}

/// A CornerNet with its weights.
#[derive(Debug, Clone)]
pub struct CornerNet {
    backbone: StackedHourglass,
    top_left: CornerBranch,
    bottom_right: CornerBranch,
    config: Config,
    device: Device,
    dtype: DType,
}

impl CornerNet {
    /// Loads the tensors of the official checkpoint; [`rename`] brings the names of other files to them.
    ///
    /// The corner modules of all stacks but the last serve training alone: they are checked and dropped.
    ///
    /// # Errors
    /// A configuration that is none; from the device.
    pub fn load(weights: &mut Weights, config: &Config) -> Result<Self> {
        let backbone = StackedHourglass::load(weights, &config.hourglass)?;
        let last = config.hourglass.stacks - 1;
        for stack in 0..last {
            CornerBranch::load(weights, Corner::TopLeft, stack, config)?;
            CornerBranch::load(weights, Corner::BottomRight, stack, config)?;
        }
        Ok(Self {
            backbone,
            top_left: CornerBranch::load(weights, Corner::TopLeft, last, config)?,
            bottom_right: CornerBranch::load(weights, Corner::BottomRight, last, config)?,
            config: config.clone(),
            device: weights.device().clone(),
            dtype: weights.dtype(),
        })
    }

    /// What the weights were loaded as.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// In which type it computes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The heads of the last stack for normalised images `[B, H, W, 3]`.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, image: &Tensor) -> Result<Outputs> {
        let features = self.backbone.forward(image)?;
        Ok(Outputs {
            top_left: self.top_left.forward(&features)?,
            bottom_right: self.bottom_right.forward(&features)?,
        })
    }
}

/// A corner module and the heads on it.
#[derive(Debug, Clone)]
struct CornerBranch {
    module: CornerModule,
    heat: Head,
    embedding: Head,
    offset: Head,
}

impl CornerBranch {
    fn load(weights: &mut Weights, corner: Corner, stack: usize, config: &Config) -> Result<Self> {
        let prefix = match corner {
            Corner::TopLeft => "tl",
            Corner::BottomRight => "br",
        };
        let name = |part: &str| format!("{prefix}_{part}.{stack}");
        let module = CornerModule::load(weights, &name("cnvs"), corner, config)?;
        let mut head = |part: &str, outputs| {
            let channels = [config.hourglass.features, config.hidden, outputs];
            Head::load(weights, &name(part), channels)
        };
        Ok(Self {
            module,
            heat: head("heats", config.classes)?,
            embedding: head("tags", 1)?,
            offset: head("regrs", 2)?,
        })
    }

    fn forward(&self, features: &Tensor) -> Result<CornerHeads> {
        let x = self.module.forward(features)?;
        Ok(CornerHeads {
            heat: self.heat.forward(&x)?,
            embedding: self.embedding.forward(&x)?,
            offset: self.offset.forward(&x)?,
        })
    }
}

/// A residual block whose first convolution is replaced by corner pooling (figure 6 of the paper).
#[derive(Debug, Clone)]
struct CornerModule {
    corner: Corner,
    pooling: bool,
    vertical: Convolution,
    horizontal: Convolution,
    joined: Convolution,
    skip: Convolution,
    last: Convolution,
}

impl CornerModule {
    fn load(weights: &mut Weights, prefix: &str, corner: Corner, config: &Config) -> Result<Self> {
        let (width, pooled) = (config.hourglass.features, config.pooled);
        let name = |part: &str| format!("{prefix}.{part}");
        let (none, relu) = (Activation::None, Activation::Relu);
        let joined = [name("p_conv1"), name("p_bn1")];
        let skip = [name("conv1"), name("bn1")];
        Ok(Self {
            corner,
            pooling: config.pooling,
            vertical: unit(weights, &name("p1_conv1"), [pooled, width, 3], 1)?,
            horizontal: unit(weights, &name("p2_conv1"), [pooled, width, 3], 1)?,
            joined: normed(weights, joined, [width, pooled, 3], 1, relu)?,
            skip: normed(weights, skip, [width, width, 1], 1, none)?,
            last: unit(weights, &name("conv2"), [width, width, 3], 1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (vertical, horizontal) = (self.vertical.forward(x)?, self.horizontal.forward(x)?);
        let sum = if self.pooling {
            corner_pool_pair(&vertical, &horizontal, self.corner, Layout::ChannelsLast)?
        } else {
            // Of equal extents this adds and does no more.
            upsample_nearest_add(&vertical, &horizontal)?
        };
        let skip = self.skip.forward(x)?;
        self.last
            .forward(&self.joined.forward_add(&sum, Some(&skip))?)
    }
}

/// A convolution of 3 x 3 with ReLU and one of 1 x 1, both with bias.
#[derive(Debug, Clone)]
struct Head {
    hidden: Convolution,
    out: Convolution,
}

impl Head {
    fn load(
        weights: &mut Weights,
        prefix: &str,
        [channels, hidden, outputs]: [usize; 3],
    ) -> Result<Self> {
        let first = Conv2d {
            padding: 1,
            activation: Activation::Relu,
            ..Conv2d::default()
        };
        let (inner, last) = (format!("{prefix}.0.conv"), format!("{prefix}.1"));
        let extents = [[hidden, channels, 3, 3], [outputs, hidden, 1, 1]];
        Ok(Self {
            hidden: Convolution::load(weights, &inner, extents[0], true, first)?,
            out: Convolution::load(weights, &last, extents[1], true, Conv2d::default())?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.out.forward(&self.hidden.forward(x)?)
    }
}
