//! The feature pyramid of dense detectors.

use super::layers::Convolution;
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{activation, upsample_nearest_add};
use crate::params::{Activation, Conv2d};
use crate::tensor::Tensor;

/// The map that the sixth level is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SixthFrom {
    /// The fifth level of the pyramid.
    P5,
    /// The last map of the backbone.
    C5,
}

/// A feature pyramid of levels 3 to 7 over the backbone's maps C3, C4 and C5:
///
/// ```text
/// M5 = lateral(C5)    M4 = lateral(C4) + upsample(M5)    M3 = lateral(C3) + upsample(M4)
/// P3, P4, P5 = conv3x3(M3, M4, M5)    P6 = conv3x3 by 2(P5 or C5)    P7 = conv3x3 by 2(relu(P6))
/// ```
///
/// as torchvision's `FeaturePyramidNetwork` with `LastLevelP6P7`. Below its prefix it reads `inner_blocks.{0..2}.0`,
/// `layer_blocks.{0..2}.0` and `extra_blocks.{p6,p7}`, each with `weight` and `bias`.
///
/// Source: Lin et al., *Feature Pyramid Networks for Object Detection*, 2017; *Focal Loss for Dense Object Detection*, 2017.
#[derive(Debug, Clone)]
pub struct FeaturePyramid {
    lateral: Vec<Convolution>,
    output: Vec<Convolution>,
    sixth: Convolution,
    seventh: Convolution,
    sixth_from: SixthFrom,
}

impl FeaturePyramid {
    /// Loads the tensors below `prefix` for maps of `inputs` channels and a pyramid of `channels`.
    ///
    /// # Errors
    /// From the device.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        inputs: [usize; 3],
        channels: usize,
        sixth_from: SixthFrom,
    ) -> Result<Self> {
        let conv3 = |stride| Conv2d {
            stride,
            padding: 1,
            activation: Activation::None,
        };
        let mut load = |name: String, extents, params| {
            Convolution::load(weights, &format!("{prefix}.{name}"), extents, true, params)
        };
        let (mut lateral, mut output) = (Vec::new(), Vec::new());
        for (level, inputs) in inputs.into_iter().enumerate() {
            let (inner, layer) = (
                format!("inner_blocks.{level}.0"),
                format!("layer_blocks.{level}.0"),
            );
            lateral.push(load(inner, [channels, inputs, 1, 1], Conv2d::default())?);
            output.push(load(layer, [channels, channels, 3, 3], conv3(1))?);
        }
        let of_sixth = match sixth_from {
            SixthFrom::P5 => channels,
            SixthFrom::C5 => inputs[2],
        };
        let (p6, p7) = ("extra_blocks.p6".into(), "extra_blocks.p7".into());
        Ok(Self {
            lateral,
            output,
            sixth: load(p6, [channels, of_sixth, 3, 3], conv3(2))?,
            seventh: load(p7, [channels, channels, 3, 3], conv3(2))?,
            sixth_from,
        })
    }

    /// Levels 3 to 7 of the maps C3, C4 and C5, `[B, H, W, C]`.
    ///
    /// # Errors
    /// Other numbers of maps; shapes, types and devices that do not fit.
    pub fn forward(&self, maps: &[Tensor]) -> Result<Vec<Tensor>> {
        let [_, _, c5] = maps else {
            let rule = "3: C3, C4 and C5";
            return Err(Error::input("feature pyramid", "maps", rule, maps.len()));
        };
        let mut merged: Option<Tensor> = None;
        let mut levels = Vec::new();
        let pairs = self.lateral.iter().zip(&self.output).zip(maps);
        for ((lateral, output), map) in pairs.rev() {
            let mut inner = lateral.forward(map)?;
            if let Some(coarser) = &merged {
                inner = upsample_nearest_add(coarser, &inner)?;
            }
            levels.push(output.forward(&inner)?);
            merged = Some(inner);
        }
        levels.reverse();
        let from = match self.sixth_from {
            SixthFrom::P5 => &levels[2],
            SixthFrom::C5 => c5,
        };
        let sixth = self.sixth.forward(from)?;
        let active = activation(&sixth, Activation::Relu)?;
        levels.extend([sixth, self.seventh.forward(&active)?]);
        Ok(levels)
    }
}
