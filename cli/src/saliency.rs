//! `ocelli saliency`: where people look in image files.

use crate::images;
use crate::op::float_type;
use crate::overlay::overlay;
use crate::pictures::Pictures;
use crate::target::{self, Backend};
use anyhow::Result;
use ocelli::DType;
use ocelli::io::Weights;
use ocelli::models::saliency::{EXTENT, Fitted, Saliency};
use ocelli::models::vit::Config;
use std::path::PathBuf;

/// Arguments of `ocelli saliency`.
#[derive(clap::Args)]
pub struct Options {
    /// The model's weights, a safetensors file: `cargo xtask weights` makes one.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// PNG and JPEG files, and folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Folder for pictures with the importance laid over.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Backend>,
    /// Type to compute in.
    #[arg(long, value_parser = float_type, default_value = "f32")]
    dtype: DType,
}

/// Finds, prints and draws.
pub fn run(options: &Options) -> Result<()> {
    let pictures = Pictures::list(&options.images, options.out.as_deref())?;
    let device = target::open_backend(options.device)?;
    let mut weights = Weights::open(&options.weights, &device, options.dtype)?;
    let config = Config::of(&weights)?;
    let model = Saliency::load(&mut weights, &config, [EXTENT; 2])?;
    weights.finish()?;
    let unreadable = pictures.each(|picture| {
        let image = picture.image;
        let fitted = Fitted::new(&images::tensor(image)?, EXTENT)?;
        let input = fitted.image.to_dtype(options.dtype)?.to_device(&device)?;
        let (width, height) = image.dimensions();
        let map = fitted.restore(&model.forward(&input)?, [height as usize, width as usize])?;
        let map = map.to_vec::<f32>()?;
        if let Some(path) = picture.output {
            images::write(&overlay(image, &map), path)?;
        }
        Ok(summary(&map, width as usize))
    })?;
    unreadable.none()
}

/// The mean importance, and where the greatest lies.
fn summary(map: &[f32], width: usize) -> String {
    let mean = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len() as f64;
    let greatest = map.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (at, value) = greatest.map_or((0, 0.0), |(at, &value)| (at, value));
    let (x, y) = (at % width, at / width);
    format!("importance {mean:.3} on average, greatest {value:.3} at {x}, {y}")
}
