//! `ocelli classify`: what image files show.

use crate::images;
use crate::op::float_type;
use crate::pictures::Pictures;
use crate::settings::Settings;
use crate::target::{self, Backend};
use anyhow::{Result, bail};
use ocelli::DType;
use ocelli::io::Weights;
use ocelli::models::vit::{Config, Preprocess, Vit};
use std::path::PathBuf;

/// Classes that are printed of an image.
const BEST: usize = 5;

/// ImageNet's 1000 classes, a line each; lines with `#` tell where they come from.
const IMAGENET: &str = include_str!("imagenet.txt");

/// Arguments of `ocelli classify`.
#[derive(clap::Args)]
pub struct Options {
    /// Weights of a Vision Transformer with a head, a safetensors file.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// PNG and JPEG files, and folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
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

/// Classifies and prints.
pub fn run(options: &Options) -> Result<()> {
    let settings = Settings::parse(&options.settings, &["heads"])?;
    let pictures = Pictures::list(&options.images, None)?;
    let device = target::open_backend(options.device)?;
    let mut weights = Weights::open(&options.weights, &device, options.dtype)?;
    let mut config = Config::of(&weights)?;
    config.heads = settings.get("heads", config.heads)?;
    let vit = Vit::load(&mut weights, &config)?;
    weights.finish()?;
    if config.classes.is_none() {
        bail!(
            "{}: the model has no head to classify with",
            options.weights.display()
        );
    }
    let preprocess = Preprocess::of(&config);
    let unreadable = pictures.each(|picture| {
        let input = preprocess.apply(&images::tensor(picture.image)?)?;
        let input = input.to_dtype(options.dtype)?.to_device(&device)?;
        let Some(logits) = vit.forward(&input)?.logits else {
            bail!("the model has no head");
        };
        Ok(best(&logits.to_dtype(DType::F32)?.to_vec::<f32>()?))
    })?;
    unreadable.none()
}

/// The best classes with their probabilities, the lower index first where they are equal.
fn best(logits: &[f32]) -> String {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let greatest = classes.first().map_or(0.0, |&class| logits[class]);
    let sum: f32 = logits.iter().map(|logit| (logit - greatest).exp()).sum();
    let shown = classes.into_iter().take(BEST).map(|class| {
        let probability = 100.0 * (logits[class] - greatest).exp() / sum;
        format!("{} {probability:.1} %", label(class, logits.len()))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// ImageNet's name of a class of 1000, else its number.
fn label(class: usize, classes: usize) -> String {
    let mut names = IMAGENET.lines().filter(|line| !line.starts_with('#'));
    match names.nth(class) {
        Some(name) if classes == 1000 => name.to_owned(),
        _ => format!("class {class}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_thousand_names() {
        let names = IMAGENET.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(names.count(), 1000);
        assert_eq!(label(0, 1000), "tench");
        assert_eq!(label(281, 1000), "tabby");
        assert_eq!(label(999, 1000), "toilet tissue");
        assert_eq!(label(0, 5), "class 0");
    }

    #[test]
    fn the_best_come_first() {
        let line = best(&[0.0, 3f32.ln(), 3f32.ln(), 0.0]);
        let expected = "class 1 37.5 %, class 2 37.5 %, class 0 12.5 %, class 3 12.5 %";
        assert_eq!(line, expected);
    }
}
