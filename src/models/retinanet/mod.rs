//! RetinaNet: a dense detector over a feature pyramid.

mod detections;
mod image_batch;
mod losses;

pub use detections::DetectionParams;
pub use image_batch::{ImageBatch, ImageTransform};
pub use losses::{GroundTruth, LossParams, Losses};

use super::Detection;
use super::fpn::{FeaturePyramid, SixthFrom};
use super::layers::{Convolution, GroupNorm};
use super::resnet::{self, ResNet};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::Weights;
use crate::params::{self, Activation, Anchors, Conv2d};
use crate::tensor::{Device, Tensor};

const BODY: &str = "backbone.body";
const PYRAMID: &str = "backbone.fpn";
const HEADS: [&str; 2] = ["head.classification_head", "head.regression_head"];
/// Anchors of a cell: three sizes in three shapes.
const ANCHORS: usize = 9;
/// Convolutions of a head before its last.
const HEAD_DEPTH: usize = 4;
/// Of the heads' group norms.
const GROUPS: usize = 32;

/// What distinguishes one RetinaNet from another.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The backbone.
    pub backbone: resnet::Config,
    /// What is added to the variance in the backbone's batch norms. torchvision sets it to 0 for the published weights of
    /// the first version, whose backbone was converted.
    pub norm_eps: f64,
    /// Channels of the pyramid and of the heads.
    pub channels: usize,
    /// What the sixth level of the pyramid is made from.
    pub sixth_from: SixthFrom,
    /// Whether the heads' convolutions are followed by group norms, and so have no bias.
    pub head_norm: bool,
    /// Classes, the background that torchvision counts among them included.
    pub classes: usize,
}

impl Default for Config {
    /// torchvision's `retinanet_resnet50_fpn`.
    fn default() -> Self {
        Self {
            backbone: resnet::Config::default(),
            norm_eps: 1e-5,
            channels: 256,
            sixth_from: SixthFrom::P5,
            head_norm: false,
            classes: 91,
        }
    }
}

impl Config {
    /// torchvision's `retinanet_resnet50_fpn_v2`.
    pub fn v2() -> Self {
        Self {
            sixth_from: SixthFrom::C5,
            head_norm: true,
            ..Self::default()
        }
    }

    /// Reads it from weights that [`RetinaNet::rename`] has gone over; what they do not show is that of the default.
    pub fn of(weights: &Weights) -> Self {
        let default = Self::default();
        let extent = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
        let sixth = format!("{PYRAMID}.extra_blocks.p6.weight");
        let channels = extent(&sixth, 0).unwrap_or(default.channels);
        let of_sixth = extent(&sixth, 1).unwrap_or(channels);
        let logits = extent(&format!("{}.cls_logits.weight", HEADS[0]), 0);
        Self {
            backbone: resnet::Config::of(weights, BODY),
            channels,
            sixth_from: if of_sixth == channels {
                SixthFrom::P5
            } else {
                SixthFrom::C5
            },
            head_norm: weights.contains(&format!("{}.conv.0.1.weight", HEADS[0])),
            classes: logits.map_or(default.classes, |outputs| outputs / ANCHORS),
            ..default
        }
    }
}

/// What the heads make of the pyramid's five levels.
#[derive(Debug, Clone)]
pub struct HeadOutputs {
    /// Of each level `[B, H, W, 9 * classes]`.
    pub logits: Vec<Tensor>,
    /// Of each level `[B, H, W, 9 * 4]`.
    pub deltas: Vec<Tensor>,
}

impl HeadOutputs {
    /// torchvision's anchors of these levels for images of this height and width, padding included.
    ///
    /// # Errors
    /// As [`Anchors::new`].
    pub fn anchors(&self, image: [usize; 2]) -> Result<Anchors> {
        let grid = |level: &Tensor| match *level.shape() {
            [_, height, width, _] => [height, width],
            _ => [0, 0],
        };
        let grids: Vec<_> = self.logits.iter().map(grid).collect();
        Anchors::torchvision(image, &grids)
    }
}

/// RetinaNet as torchvision builds it: a ResNet, a feature pyramid, and two heads of four 3 x 3 convolutions and a last
/// one that all levels share.
///
/// It reads torchvision's state dicts: `backbone.body.*` (see [`ResNet`]), `backbone.fpn.*` (see [`FeaturePyramid`]),
/// `head.{classification_head,regression_head}.conv.{0..3}.{0,1}`, `head.classification_head.cls_logits` and
/// `head.regression_head.bbox_reg`. Number of classes, widths and depths are the file's: see [`Config::of`].
///
/// # Example
/// ```no_run
/// use ocelli::io::Weights;
/// use ocelli::models::retinanet::RetinaNet;
/// use ocelli::{DType, Device, Tensor};
///
/// let device = Device::Cpu;
/// let mut weights = Weights::open("retinanet.safetensors", &device, DType::F32)?;
/// let model = RetinaNet::open(&mut weights)?;
/// weights.finish()?;
/// let image = Tensor::zeros(&[480, 640, 3], DType::F32, &device)?; // 0 is black, 1 is white
/// for found in &model.detect(&[image], &Default::default(), &Default::default())?[0] {
///     println!("class {} at {:?}: {}", found.class, found.corners, found.score);
/// }
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Lin et al., *Focal Loss for Dense Object Detection*, 2017; torchvision's `retinanet_resnet50_fpn` and `_v2`.
#[derive(Debug, Clone)]
pub struct RetinaNet {
    backbone: ResNet,
    pyramid: FeaturePyramid,
    /// Of classes and of boxes.
    heads: [Head; 2],
    device: Device,
    dtype: DType,
}

impl RetinaNet {
    /// Brings the names of all of torchvision's state dicts to those of the newest, and drops the counters of batches.
    ///
    /// # Errors
    /// When two tensors come to the same name.
    pub fn rename(weights: &mut Weights) -> Result<()> {
        weights.rename(newest_name)
    }

    /// [`rename`](Self::rename), and the configuration that the file shows. A backbone whose norms have no counters of
    /// batches is a frozen one, as torchvision's published first version has, and gets its `norm_eps` of 0.
    ///
    /// # Errors
    /// As [`rename`](Self::rename).
    pub fn configure(weights: &mut Weights) -> Result<Config> {
        let is_frozen = !weights.contains(&format!("{BODY}.bn1.num_batches_tracked"));
        Self::rename(weights)?;
        let config = Config::of(weights);
        Ok(match is_frozen {
            true => Config {
                norm_eps: 0.0,
                ..config
            },
            false => config,
        })
    }

    /// [`configure`](Self::configure), and [`load`](Self::load) with it.
    ///
    /// # Errors
    /// As both.
    pub fn open(weights: &mut Weights) -> Result<Self> {
        let config = Self::configure(weights)?;
        Self::load(weights, &config)
    }

    /// Loads the model from weights that [`rename`](Self::rename) has gone over.
    ///
    /// # Errors
    /// From the device.
    pub fn load(weights: &mut Weights, config: &Config) -> Result<Self> {
        if config.classes == 0 {
            weights.fault("a model of no classes".into());
        }
        if config.head_norm && !config.channels.is_multiple_of(GROUPS) {
            let channels = config.channels;
            weights.fault(format!(
                "{GROUPS} groups do not divide the {channels} channels"
            ));
        }
        let backbone = ResNet::load(weights, BODY, &config.backbone, config.norm_eps)?;
        let [_, c3, c4, c5] = config.backbone.channels();
        let (inputs, channels) = ([c3, c4, c5], config.channels);
        let pyramid = FeaturePyramid::load(weights, PYRAMID, inputs, channels, config.sixth_from)?;
        let logits = Head::load(weights, HEADS[0], "cls_logits", config, config.classes)?;
        let deltas = Head::load(weights, HEADS[1], "bbox_reg", config, 4)?;
        Ok(Self {
            backbone,
            pyramid,
            heads: [logits, deltas],
            device: weights.device().clone(),
            dtype: weights.dtype(),
        })
    }

    /// Head outputs of normalised images `[B, H, W, 3]`, of the model's type on its device.
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn forward(&self, images: &Tensor) -> Result<HeadOutputs> {
        let maps = self.backbone.forward(images)?;
        let levels = self.pyramid.forward(&maps[1..])?;
        let [logits, deltas] = &self.heads;
        Ok(HeadOutputs {
            logits: logits.forward(&levels)?,
            deltas: deltas.forward(&levels)?,
        })
    }

    /// What is found in each of these images `[H, W, 3]` in 0..1, best first, in pixels of the images as they are given:
    /// [`ImageTransform::batch`], [`forward`](Self::forward) and [`HeadOutputs::detections`].
    ///
    /// # Errors
    /// As these.
    pub fn detect(
        &self,
        images: &[Tensor],
        transform: &ImageTransform,
        params: &DetectionParams,
    ) -> Result<Vec<Vec<Detection>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let batch = transform.batch(images)?;
        let pixels = batch.pixels.to_dtype(self.dtype)?.to_device(&self.device)?;
        self.forward(&pixels)?.detections(&batch, params)
    }
}

/// A head of one kind, shared by all levels.
#[derive(Debug, Clone)]
struct Head {
    convolutions: Vec<(Convolution, Option<GroupNorm>)>,
    last: Convolution,
}

impl Head {
    fn load(
        weights: &mut Weights,
        prefix: &str,
        last: &str,
        config: &Config,
        per_anchor: usize,
    ) -> Result<Self> {
        let channels = config.channels;
        let extents = [channels, channels, 3, 3];
        let conv3 = |activation| Conv2d {
            stride: 1,
            padding: 1,
            activation,
        };
        let convolution = |index: usize| {
            let (name, norm) = (
                format!("{prefix}.conv.{index}.0"),
                format!("{prefix}.conv.{index}.1"),
            );
            if !config.head_norm {
                let params = conv3(Activation::Relu);
                return Ok((
                    Convolution::load(weights, &name, extents, true, params)?,
                    None,
                ));
            }
            let params = conv3(Activation::None);
            let convolution = Convolution::load(weights, &name, extents, false, params)?;
            let params = params::GroupNorm {
                groups: GROUPS,
                activation: Activation::Relu,
                ..params::GroupNorm::default()
            };
            let norm = GroupNorm::load(weights, &norm, channels, params)?;
            Ok((convolution, Some(norm)))
        };
        let convolutions = (0..HEAD_DEPTH).map(convolution).collect::<Result<_>>()?;
        let (name, params) = (format!("{prefix}.{last}"), conv3(Activation::None));
        let extents = [ANCHORS * per_anchor, channels, 3, 3];
        Ok(Self {
            convolutions,
            last: Convolution::load(weights, &name, extents, true, params)?,
        })
    }

    fn forward(&self, levels: &[Tensor]) -> Result<Vec<Tensor>> {
        let level = |level: &Tensor| {
            let mut x = level.clone();
            for (convolution, norm) in &self.convolutions {
                x = convolution.forward(&x)?;
                if let Some(norm) = norm {
                    x = norm.forward(&x)?;
                }
            }
            self.last.forward(&x)
        };
        levels.iter().map(level).collect()
    }
}

/// torchvision's present name of a tensor; `None` for a counter of batches.
///
/// Older files lack the `.0` of the pyramid's convolutions, and number a head's convolutions together with the
/// activations between them.
fn newest_name(name: &str) -> Option<String> {
    if name.ends_with(".num_batches_tracked") {
        return None;
    }
    let parts: Vec<&str> = name.split('.').collect();
    let newest = match parts[..] {
        [
            "backbone",
            "fpn",
            blocks @ ("inner_blocks" | "layer_blocks"),
            level,
            kind,
        ] => {
            format!("{PYRAMID}.{blocks}.{level}.0.{kind}")
        }
        ["head", head, "conv", index, kind] => match index.parse::<usize>() {
            Ok(index) if index.is_multiple_of(2) => {
                format!("head.{head}.conv.{}.0.{kind}", index / 2)
            }
            _ => name.into(),
        },
        _ => name.into(),
    };
    Some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_names_become_the_newest() {
        let newest = |name| newest_name(name).unwrap();
        let pyramid = newest("backbone.fpn.inner_blocks.2.bias");
        assert_eq!(pyramid, "backbone.fpn.inner_blocks.2.0.bias");
        let head = newest("head.regression_head.conv.6.weight");
        assert_eq!(head, "head.regression_head.conv.3.0.weight");
        for name in [
            pyramid.as_str(),
            &head,
            "head.classification_head.conv.2.1.bias",
            "head.classification_head.conv.1.weight",
            "backbone.fpn.extra_blocks.p6.weight",
            "backbone.body.layer1.0.bn1.running_mean",
        ] {
            assert_eq!(newest(name), name);
        }
        assert_eq!(newest_name("backbone.body.bn1.num_batches_tracked"), None);
    }
}
