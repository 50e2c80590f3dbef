//! `ocelli attend`: what chosen places of an image attend to in a Vision Transformer.

use crate::images;
use crate::op::float_type;
use crate::overlay::overlay;
use crate::pictures::Pictures;
use crate::settings::Settings;
use crate::target::{self, Backend};
use anyhow::{Result, anyhow};
use image::{GenericImage, Rgb, RgbImage};
use ocelli::io::Weights;
use ocelli::models::vit::{Config, Interpolation, Preprocess, Vit};
use ocelli::{DType, Device, Tensor, ops, params};
use std::path::PathBuf;
use std::str::FromStr;

/// Rows or columns of the longer side of the images that the model sees, where its positions fit any.
const EXTENT: usize = 448;

/// Arguments of `ocelli attend`.
#[derive(clap::Args)]
pub struct Options {
    /// Weights of a Vision Transformer, or of a model with one under `backbone.`: a safetensors file.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// PNG and JPEG files, and folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A place that looks, in parts of the image's width and height, e.g. 0.5,0.25. May be given several times.
    #[arg(long, value_name = "X,Y", required = true)]
    at: Vec<Place>,
    /// The block, from 0 on [default: the last].
    #[arg(long)]
    block: Option<usize>,
    /// Folder for pictures: the image with the places marked, then for each what it attends to, the mean over heads.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Backend>,
    /// Type to compute in.
    #[arg(long, value_parser = float_type, default_value = "f32")]
    dtype: DType,
    /// A scalar of the model: heads [default: the width over 64].
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Parts of an image's width and height, in 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    x: f32,
    y: f32,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |text: &str| text.parse().ok().filter(|part| (0.0..1.0).contains(part));
        let parts = text.split_once(',');
        let parts = parts.and_then(|(x, y)| Some((part(x)?, part(y)?)));
        let (x, y) = parts.ok_or("must be two numbers in 0..1, as 0.5,0.25")?;
        Ok(Self { x, y })
    }
}

/// Looks, prints and draws.
pub fn run(options: &Options) -> Result<()> {
    let settings = Settings::parse(&options.settings, &["heads"])?;
    let pictures = Pictures::list(&options.images, Some(&options.out))?;
    let device = target::open_backend(options.device)?;
    let mut weights = Weights::open(&options.weights, &device, options.dtype)?;
    let mut config = Config::of(&weights)?;
    config.heads = settings.get("heads", config.heads)?;
    if config.prefix == "backbone." {
        // What stands on the backbone has no part in its attention.
        weights.rename(|name| name.starts_with("backbone.").then(|| name.into()))?;
    }
    let vit = Vit::load(&mut weights, &config)?;
    weights.finish()?;
    let block = options.block.unwrap_or(config.depth.saturating_sub(1));
    let unreadable = pictures.each(|picture| {
        let image = picture.image;
        let extents = seen(&config, image);
        let preprocess = Preprocess {
            extents,
            shorter: None,
            ..Preprocess::of(&config)
        };
        let input = preprocess.apply(&images::tensor(image)?)?;
        let input = input.to_dtype(options.dtype)?.to_device(&device)?;
        let vit = vit.clone().with_extents(extents)?;
        let grid = [0, 1].map(|axis| extents[axis] / config.patch[axis]);
        let before = 1 + config.registers;
        let token = |place: &Place| before + patch(*place, grid);
        let tokens: Vec<usize> = options.at.iter().map(token).collect();
        let probabilities = vit.attention(&input, block, &tokens)?.to_vec::<f32>()?;
        let maps = mean_over_heads(&probabilities, config.heads, tokens.len(), before);
        if let Some(path) = picture.output {
            images::write(&tiles(image, &options.at, &maps, grid)?, path)?;
        }
        let seen = format!("{} x {} patches", grid[0], grid[1]);
        Ok(format!(
            "{} places over {seen} in block {block}",
            tokens.len()
        ))
    })?;
    unreadable.none()
}

/// Rows and columns in which the model sees an image: its shape, as far as positions and patches allow.
fn seen(config: &Config, image: &RgbImage) -> [usize; 2] {
    if config.interpolation == Interpolation::None {
        return config.extents();
    }
    let sides = [image.height(), image.width()].map(|side| side as f64);
    let longer = sides[0].max(sides[1]);
    [0, 1].map(|axis| {
        let patch = config.patch[axis];
        let patches = (sides[axis] / longer * EXTENT as f64 / patch as f64).round();
        (patches as usize).max(1) * patch
    })
}

/// The patch in which a place lies, row by row.
fn patch(place: Place, [rows, columns]: [usize; 2]) -> usize {
    let at = |part: f32, count: usize| ((part * count as f32) as usize).min(count - 1);
    at(place.y, rows) * columns + at(place.x, columns)
}

/// Of probabilities `[heads, R, N]`, for each of the R rows the mean over heads of all but the first `before` tokens,
/// the greatest brought to 1.
fn mean_over_heads(values: &[f32], heads: usize, rows: usize, before: usize) -> Vec<Vec<f32>> {
    let tokens = values.len() / (heads * rows);
    let map = |row: usize| {
        let mean = |token: usize| -> f32 {
            let of_head = |head: usize| values[(head * rows + row) * tokens + token];
            (0..heads).map(of_head).sum()
        };
        let sums: Vec<f32> = (before..tokens).map(mean).collect();
        let greatest = sums.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        sums.into_iter().map(|sum| sum / greatest).collect()
    };
    (0..rows).map(map).collect()
}

/// The image with all places marked and, right of it, each map over the image with its own.
fn tiles(
    image: &RgbImage,
    places: &[Place],
    maps: &[Vec<f32>],
    [rows, columns]: [usize; 2],
) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let count = u32::try_from(1 + maps.len())
        .ok()
        .and_then(|count| width.checked_mul(count));
    let whole = count.ok_or_else(|| anyhow!("too many places for one picture"))?;
    let mut picture = RgbImage::new(whole, height);
    let mut marked = image.clone();
    places.iter().for_each(|place| mark(&mut marked, *place));
    picture.copy_from(&marked, 0, 0)?;
    let size = params::ResizeBilinear {
        height: height as usize,
        width: width as usize,
        antialias: false,
    };
    for (index, (map, place)) in maps.iter().zip(places).enumerate() {
        let map = Tensor::from_vec(map.clone(), &[1, rows, columns, 1], &Device::Cpu)?;
        let map = ops::resize_bilinear(&map, &size)?.to_vec::<f32>()?;
        let mut tile = overlay(image, &map);
        mark(&mut tile, *place);
        picture.copy_from(&tile, (1 + index as u32) * width, 0)?;
    }
    Ok(picture)
}

/// A white ring with a dark one around it.
fn mark(image: &mut RgbImage, place: Place) {
    let (width, height) = image.dimensions();
    let radius = width.min(height) as f32 / 50.0 + 3.0;
    let [x, y] = [place.x * width as f32, place.y * height as f32];
    for (column, row, pixel) in image.enumerate_pixels_mut() {
        let distance = (column as f32 + 0.5 - x).hypot(row as f32 + 0.5 - y) - radius;
        if distance.abs() <= radius / 4.0 {
            *pixel = Rgb([255; 3]);
        } else if distance.abs() <= radius / 2.0 {
            *pixel = Rgb([20; 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parts() {
        assert_eq!("0.5,0.25".parse(), Ok(Place { x: 0.5, y: 0.25 }));
        for text in ["", "0.5", "1,0", "-0.1,0", "a,b", "0.1,0.2,0.3", "nan,0"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        let place = Place { x: 0.99, y: 0.5 };
        assert_eq!(patch(place, [4, 6]), 2 * 6 + 5);
    }

    #[test]
    fn maps_are_means_over_heads() {
        // Two heads, one row, the class token and two patches.
        let maps = mean_over_heads(&[0.5, 0.1, 0.4, 0.2, 0.3, 0.4], 2, 1, 1);
        assert_eq!(maps.len(), 1);
        let expected = [0.5, 1.0];
        for (value, expected) in maps[0].iter().zip(expected) {
            assert!((value - expected).abs() <= 1e-6, "{maps:?}");
        }
    }

    #[test]
    fn a_tile_a_place() {
        let image = RgbImage::new(40, 30);
        let places = [Place { x: 0.5, y: 0.5 }, Place { x: 0.0, y: 0.99 }];
        let maps = [vec![0.0; 6], vec![1.0; 6]];
        let picture = tiles(&image, &places, &maps, [2, 3]).expect("a picture");
        assert_eq!(picture.dimensions(), (120, 30));
    }
}
