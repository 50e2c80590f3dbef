//! A picture of floats to draw on.

use image::{Rgb, RgbImage};

/// A box `(x1, y1, x2, y2)` in pixels, continuous.
pub type Box4 = [f32; 4];
/// Red, green and blue in 0..=255.
pub type Colour = [f32; 3];

pub struct Canvas {
    pub size: u32,
    pixels: Vec<Colour>,
}

impl Canvas {
    pub fn over(photo: &RgbImage) -> Self {
        Self {
            size: photo.width(),
            pixels: photo.pixels().map(|p| p.0.map(f32::from)).collect(),
        }
    }

    /// Mean colour inside a box, which must lie in the picture.
    pub fn mean(&self, area: Box4) -> Colour {
        let mut sum = [0.0; 3];
        let mut count = 0.0;
        for y in area[1] as u32..(area[3].ceil() as u32).min(self.size) {
            for x in area[0] as u32..(area[2].ceil() as u32).min(self.size) {
                let pixel = self.pixels[(y * self.size + x) as usize];
                for (sum, channel) in sum.iter_mut().zip(pixel) {
                    *sum += channel;
                }
                count += 1.0;
            }
        }
        sum.map(|sum| sum / f32::max(count, 1.0))
    }

    /// Mixes `colour` in, `cover` of it at each pixel of a box, given the pixel's centre. Returns
    /// the smallest box around pixels with at least `visible` cover.
    pub fn paint(
        &mut self,
        area: Box4,
        colour: Colour,
        visible: f32,
        cover: impl Fn(f32, f32) -> f32,
    ) -> Option<Box4> {
        let limit = self.size as f32;
        let clip = |v: f32| v.clamp(0.0, limit);
        let (left, top) = (clip(area[0].floor()) as u32, clip(area[1].floor()) as u32);
        let (right, bottom) = (clip(area[2].ceil()) as u32, clip(area[3].ceil()) as u32);
        let mut seen: Option<Box4> = None;
        for y in top..bottom {
            for x in left..right {
                let cover = cover(x as f32 + 0.5, y as f32 + 0.5);
                if cover <= 0.0 {
                    continue;
                }
                let pixel = &mut self.pixels[(y * self.size + x) as usize];
                for (channel, colour) in pixel.iter_mut().zip(colour) {
                    *channel += (colour - *channel) * cover;
                }
                if cover >= visible {
                    let (x, y) = (x as f32, y as f32);
                    let b = seen.get_or_insert([x, y, x + 1.0, y + 1.0]);
                    *b = [
                        b[0].min(x),
                        b[1].min(y),
                        b[2].max(x + 1.0),
                        b[3].max(y + 1.0),
                    ];
                }
            }
        }
        seen
    }

    /// Applies `change` to each channel of each pixel.
    pub fn map(&mut self, mut change: impl FnMut(f32) -> f32) {
        for channel in self.pixels.iter_mut().flatten() {
            *channel = change(*channel);
        }
    }

    pub fn to_image(&self) -> RgbImage {
        RgbImage::from_fn(self.size, self.size, |x, y| {
            let pixel = self.pixels[(y * self.size + x) as usize];
            Rgb(pixel.map(|channel| channel.round().clamp(0.0, 255.0) as u8))
        })
    }
}
