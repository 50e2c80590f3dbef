//! From pixels to the input of a detector.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{normalize_image, resize_bilinear};
use crate::params::ResizeBilinear;
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "image batch";
/// Rows and columns of a batch are multiples of this: the stride of the backbone's last map.
const MULTIPLE: usize = 32;

/// How images are brought to a detector's scale: torchvision's `GeneralizedRCNNTransform`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTransform {
    /// Lengths in pixels to which the shorter side is scaled, and which the longer side may then have at most, where it
    /// decides instead; `None` leaves images as they are.
    pub sides: Option<[usize; 2]>,
    /// Subtracted from each channel of pixels in 0..1.
    pub mean: [f32; 3],
    /// Each channel is then divided by this.
    pub deviation: [f32; 3],
}

impl Default for ImageTransform {
    /// A shorter side of 800 and a longer one of at most 1333 pixels, ImageNet's mean and deviation.
    fn default() -> Self {
        Self {
            sides: Some([800, 1333]),
            mean: [0.485, 0.456, 0.406],
            deviation: [0.229, 0.224, 0.225],
        }
    }
}

/// Images of one scale, in one tensor.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// `[B, H, W, 3]` f32 on the CPU: normalised images, each with zeros below and to the right up to multiples of 32.
    pub pixels: Tensor,
    /// Height and width of each image in it.
    pub sizes: Vec<[usize; 2]>,
    /// Height and width of each image as it was given.
    pub originals: Vec<[usize; 2]>,
}

impl ImageTransform {
    /// Height and width to which an image of these is scaled: each `floor(side * scale)`, at least 1, with
    /// `scale = min(shortest / min(side), longest / max(side))` in f64.
    pub fn scaled(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let Some([shortest, longest]) = self.sides else {
            return [height, width];
        };
        let (short, long) = (height.min(width) as f64, height.max(width) as f64);
        let scale = (shortest as f64 / short).min(longest as f64 / long);
        [height, width].map(|side| ((side as f64 * scale) as usize).max(1))
    }

    /// Normalises, scales (bilinearly, without antialiasing) and pads images `[H, W, 3]` of any float type in 0..1, on the
    /// CPU, so that every device gets the same pixels.
    ///
    /// # Errors
    /// Images of other shapes, or without pixels.
    pub fn batch(&self, images: &[Tensor]) -> Result<ImageBatch> {
        let mut scaled = Vec::new();
        let (mut sizes, mut originals) = (Vec::new(), Vec::new());
        for image in images {
            let &[height, width, 3] = image.shape() else {
                let value = ShapeText(image.shape());
                return Err(Error::input(OP, "image", "[H, W, 3]", value));
            };
            if height * width == 0 {
                let value = ShapeText(image.shape());
                return Err(Error::input(OP, "image", "not empty", value));
            }
            let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let image = image.reshape(&[1, height, width, 3])?;
            let size = self.scaled([height, width]);
            scaled.push(self.one(&image, [height, width], size)?);
            sizes.push(size);
            originals.push([height, width]);
        }
        Ok(ImageBatch {
            pixels: padded(&scaled, &sizes)?,
            sizes,
            originals,
        })
    }

    fn one(&self, image: &Tensor, original: [usize; 2], size: [usize; 2]) -> Result<Tensor> {
        let normalised = normalize_image(image, &self.mean, &self.deviation)?;
        if size == original {
            return Ok(normalised);
        }
        let [height, width] = size;
        let params = ResizeBilinear {
            height,
            width,
            antialias: false,
        };
        resize_bilinear(&normalised, &params)
    }
}

/// All images in one tensor with zeros around.
fn padded(images: &[Tensor], sizes: &[[usize; 2]]) -> Result<Tensor> {
    let extent = |axis: usize| {
        let largest = sizes.iter().map(|size| size[axis]).max();
        largest.unwrap_or(0).next_multiple_of(MULTIPLE)
    };
    let [height, width] = [extent(0), extent(1)];
    let mut pixels = vec![0f32; images.len() * height * width * 3];
    let targets = pixels.chunks_exact_mut((height * width * 3).max(1));
    for ((target, image), size) in targets.zip(images).zip(sizes) {
        let rows = image.as_slice::<f32>()?.chunks_exact(size[1] * 3);
        for (target, row) in target.chunks_exact_mut(width * 3).zip(rows) {
            target[..row.len()].copy_from_slice(row);
        }
    }
    Tensor::from_vec(pixels, &[images.len(), height, width, 3], &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_torchvisions() {
        let transform = ImageTransform::default();
        assert_eq!(transform.scaled([480, 640]), [800, 1066]);
        assert_eq!(transform.scaled([100, 1000]), [133, 1333]);
        assert_eq!(transform.scaled([1, 1]), [800, 800]);
        // torchvision has no image of 0 rows.
        assert_eq!(transform.scaled([1, 100_000]), [1, 1333]);
        let native = ImageTransform {
            sides: None,
            ..transform
        };
        assert_eq!(native.scaled([7, 9]), [7, 9]);
    }

    #[test]
    fn images_share_a_padded_batch() {
        let transform = ImageTransform {
            sides: None,
            mean: [0.0; 3],
            deviation: [0.5; 3],
        };
        let image = |height: usize, width: usize| {
            let values = vec![0.5f32; height * width * 3];
            Tensor::from_vec(values, &[height, width, 3], &Device::Cpu).unwrap()
        };
        let batch = transform.batch(&[image(2, 33), image(40, 1)]).unwrap();
        assert_eq!(batch.pixels.shape(), [2, 64, 64, 3]);
        let pixels = batch.pixels.to_vec::<f32>().unwrap();
        assert_eq!(pixels.iter().sum::<f32>(), (66 + 40) as f32 * 3.0);
        assert_eq!(pixels[(64 + 32) * 3], 1.0);
        assert_eq!(pixels[(64 + 33) * 3], 0.0);
        assert_eq!(transform.batch(&[]).unwrap().pixels.shape(), [0, 0, 0, 3]);
        assert!(transform.batch(&[image(0, 5)]).is_err());
    }
}
