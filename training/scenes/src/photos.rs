//! Photographs as backgrounds.

use crate::Split;
use anyhow::{Context, Result, ensure};
use image::RgbImage;
use image::imageops::{self, FilterType};
use rand::Rng;
use std::path::Path;

/// Held out for testing, by file name.
const HELD_OUT: [&str; 4] = ["chelsea", "coffee", "gravel", "rocket"];
/// Shortest side of a crop in pixels of the photograph.
const SMALLEST_CROP: u32 = 96;
/// Pictures that are drawings, text or symbols, where a reader could see a digit that has no box.
const NOT_PHOTOS: [&str; 9] = [
    "chessboard_GRAY",
    "chessboard_RGB",
    "clock_motion",
    "color",
    "horse",
    "logo",
    "page",
    "phantom",
    "text",
];

/// The photographs of one split.
pub struct Photos {
    photos: Vec<RgbImage>,
}

impl Photos {
    /// Reads every PNG and JPEG of `folder` that belongs to `split`, in the order of their names.
    pub fn load(folder: &Path, split: Split) -> Result<Self> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            let photo = ["png", "jpg", "jpeg"].contains(&extension.as_ref())
                && !NOT_PHOTOS.contains(&stem.as_ref());
            if photo && HELD_OUT.contains(&stem.as_ref()) == (split == Split::Test) {
                paths.push(path);
            }
        }
        paths.sort();
        let mut photos = Vec::new();
        for path in &paths {
            let photo = image::open(path).with_context(|| path.display().to_string())?;
            let photo = photo.to_rgb8();
            if photo.width().min(photo.height()) > SMALLEST_CROP {
                photos.push(photo);
            }
        }
        ensure!(
            !photos.is_empty(),
            "{}: no photographs for this split (held out: {HELD_OUT:?})",
            folder.display()
        );
        Ok(Self { photos })
    }

    /// A random square of a random photograph, mirrored half the time, at `size` x `size` pixels.
    pub fn pick(&self, rng: &mut impl Rng, size: u32) -> RgbImage {
        let photo = &self.photos[rng.random_range(0..self.photos.len())];
        let largest = photo.width().min(photo.height());
        let side = rng.random_range(SMALLEST_CROP..=largest);
        let left = rng.random_range(0..=photo.width() - side);
        let top = rng.random_range(0..=photo.height() - side);
        let crop = imageops::crop_imm(photo, left, top, side, side).to_image();
        let crop = imageops::resize(&crop, size, size, FilterType::Triangle);
        if rng.random() {
            imageops::flip_horizontal(&crop)
        } else {
            crop
        }
    }
}
