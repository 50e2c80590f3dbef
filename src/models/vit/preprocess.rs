//! From an image's pixels to what the weights were trained on.

use super::{Config, Naming, OP};
use crate::error::Result;
use crate::models::resample::{Filter, pixel_extents, resample};
use crate::tensor::{Device, Tensor};

/// Mean and deviation of ImageNet's pixels, red, green, blue, in 0..1.
pub(crate) const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Resizing, cutting out the middle, and normalising, as the weights' own library does it before inference.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// Rows and columns of the result.
    pub extents: [usize; 2],
    /// What the shorter side becomes before the middle is cut out; `None` resizes to `extents` whatever the shape.
    pub shorter: Option<usize>,
    /// Of the resizing.
    pub filter: Filter,
    /// Of red, green and blue, in 0..1.
    pub mean: [f32; 3],
    /// Of red, green and blue, in 0..1.
    pub deviation: [f32; 3],
}

impl Preprocess {
    /// As the default weights of each library want it, for images of the config's own extents:
    ///
    /// | | resizing | mean, deviation |
    /// |---|---|---|
    /// | torchvision | shorter side to 8/7 of the extent, bilinear | ImageNet's |
    /// | timm | shorter side to 10/9, bicubic | 0.5, 0.5 |
    /// | Hugging Face | to the extents, bilinear | 0.5, 0.5 |
    /// | timm's with layer scale, as DINOv2 | shorter side to the extent, bicubic | ImageNet's |
    /// | DINOv2 in the others | shorter side to 8/7, bicubic | ImageNet's |
    ///
    /// Source: the weights' `transforms()`, `default_cfg` and `preprocessor_config.json`.
    pub fn of(config: &Config) -> Self {
        let extents = config.extents();
        let least = extents[0].min(extents[1]);
        let half = [[0.5; 3]; 2];
        let (shorter, filter, [mean, deviation]) = match config.naming {
            Naming::Torchvision | Naming::TorchvisionLegacy => {
                (Some(least * 8 / 7), Filter::BilinearAntialiased, IMAGENET)
            }
            Naming::Timm if config.layer_scale => {
                (Some(least), Filter::BicubicAntialiased, IMAGENET)
            }
            Naming::Timm => (Some(least * 10 / 9), Filter::BicubicAntialiased, half),
            Naming::HuggingFace => (None, Filter::BilinearAntialiased, half),
            Naming::Dinov2 | Naming::HuggingFaceDinov2 => {
                (Some(least * 8 / 7), Filter::BicubicAntialiased, IMAGENET)
            }
        };
        Self {
            extents,
            shorter,
            filter,
            mean,
            deviation,
        }
    }

    /// An image `[H, W, 3]`, f32 in 0..1 on any device, as `[1, extents, 3]` f32 on the CPU.
    ///
    /// Pixels are rounded to 256 levels after the resizing, as Pillow's are.
    ///
    /// # Errors
    /// When the image has another shape or type, or no pixels.
    pub fn apply(&self, image: &Tensor) -> Result<Tensor> {
        let [height, width] = pixel_extents(OP, image)?;
        let [rows, columns] = self.extents;
        let resized = self.resized([height, width]);
        let step = [
            height as f64 / resized[0] as f64,
            width as f64 / resized[1] as f64,
        ];
        let pixels = image.to_device(&Device::Cpu)?.to_vec::<f32>()?;
        let [top, left] = [middle(resized[0], rows), middle(resized[1], columns)];
        // No more than the middle, however long the longer side.
        let window = [top..top + rows, left..left + columns];
        let pixels = resample(&pixels, [height, width, 3], window, step, self.filter);
        let levels = pixels.iter().enumerate().map(|(index, value)| {
            let value = (value * 255.0).round_ties_even().clamp(0.0, 255.0) / 255.0;
            let channel = index % 3;
            (value - self.mean[channel]) / self.deviation[channel]
        });
        let out = levels.collect();
        Tensor::from_vec(out, &[1, rows, columns, 3], &Device::Cpu)
    }

    /// Rows and columns after the resizing of an image of `extents`; not less than the result's.
    fn resized(&self, extents: [usize; 2]) -> [usize; 2] {
        let Some(shorter) = self.shorter else {
            return self.extents;
        };
        let least = extents[0].min(extents[1]);
        // The longer side is rounded down, as torchvision and timm do.
        let resized =
            extents.map(|extent| (extent as u128 * shorter as u128 / least as u128) as usize);
        [0, 1].map(|axis| resized[axis].max(self.extents[axis]))
    }
}

/// Where the middle part of an extent begins: half of what is left over, halves to the even number.
fn middle(extent: usize, part: usize) -> usize {
    ((extent - part) as f64 / 2.0).round_ties_even() as usize
}
