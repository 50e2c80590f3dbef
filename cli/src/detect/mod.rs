//! `ocelli detect`: objects in image files.

pub mod coco;
mod cornernet;
mod retinanet;

use crate::op::float_type;
use crate::pictures::{Picture, Pictures};
use crate::settings::Settings;
use crate::target::{self, Backend};
use crate::{draw, images};
use anyhow::{Result, bail};
use image::RgbImage;
use ocelli::io::{Weights, write_whole};
use ocelli::models::Detection;
use ocelli::{DType, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A detector of the command line.
struct Architecture {
    name: &'static str,
    /// What `--set` may set.
    keys: &'static [&'static str],
    load: fn(Weights, &Settings) -> Result<Box<dyn Detector>>,
}

const ARCHITECTURES: &[Architecture] = &[cornernet::ARCHITECTURE, retinanet::ARCHITECTURE];

/// A loaded detector.
trait Detector {
    /// What it finds in an image `[H, W, 3]` in 0..1, best first, in pixels of the image.
    fn detect(&self, image: &Tensor) -> Result<Vec<Detection>>;

    /// The category of a class.
    fn category(&self, class: usize) -> Category;
}

/// What a class is called in results.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Category {
    id: usize,
    name: String,
}

/// Arguments of `ocelli detect`.
#[derive(clap::Args)]
pub struct Options {
    /// The architecture; a wrong name lists all.
    #[arg(long)]
    model: String,
    /// The model's weights, a safetensors file.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// PNG and JPEG files, and folders of them.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Folder for pictures with the boxes drawn in.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Results in COCO's form; appears whole or not at all.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw and print only what scores above this; the results have all that the model gives.
    #[arg(long, value_name = "SCORE", default_value_t = 0.3)]
    show_above: f32,
    /// Detect so many times in each image, and print the median time, reading and drawing left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Where to compute [default: the GPU where one can be used, else cpu].
    #[arg(long)]
    device: Option<Backend>,
    /// Type to compute in.
    #[arg(long, value_parser = float_type, default_value = "f32")]
    dtype: DType,
    /// A scalar of the model.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Detects, draws and writes; an image that cannot be read is reported and passed over, and makes the whole an error.
pub fn run(options: &Options) -> Result<()> {
    let named = |architecture: &&Architecture| architecture.name == options.model;
    let Some(architecture) = ARCHITECTURES.iter().find(named) else {
        let names: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let (name, names) = (&options.model, names.join(", "));
        bail!("unknown model `{name}`; known: {names}");
    };
    let settings = Settings::parse(&options.settings, architecture.keys)?;
    let pictures = Pictures::list(&options.images, options.out.as_deref())?;
    let device = target::open_backend(options.device)?;
    let weights = Weights::open(&options.weights, &device, options.dtype)?;
    let detector = (architecture.load)(weights, &settings)?;
    let mut run = Run {
        detector: detector.as_ref(),
        show_above: options.show_above,
        repeat: options.repeat,
        results: Vec::new(),
    };
    let unreadable = pictures.each(|picture| run.image(picture))?;
    if let Some(path) = &options.json {
        write_whole(path, Value::Array(run.results).to_string().as_bytes())?;
    }
    unreadable.none()
}

/// What goes on over the images.
struct Run<'a> {
    detector: &'a dyn Detector,
    show_above: f32,
    repeat: Option<u32>,
    /// In COCO's form.
    results: Vec<Value>,
}

impl Run<'_> {
    /// What was found, as a line.
    fn image(&mut self, picture: &Picture) -> Result<String> {
        let pixels = images::tensor(picture.image)?;
        let (found, time) = timed(self.repeat, || self.detector.detect(&pixels))?;
        let time = time.map_or_else(String::new, |time| {
            let milliseconds = time.as_secs_f64() * 1e3;
            format!("; median {milliseconds:.1} ms")
        });
        for detection in &found {
            let [x1, y1, x2, y2] = detection.corners;
            self.results.push(json!({
                "image_id": picture.index,
                "file": picture.file.display().to_string(),
                "category_id": self.detector.category(detection.class).id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": detection.score,
            }));
        }
        let shown = found.iter().filter(|found| found.score > self.show_above);
        let shown: Vec<_> = shown.copied().collect();
        if let Some(path) = picture.output {
            self.draw(picture.image.clone(), &shown, path)?;
        }
        Ok(self.summary(&shown) + &time)
    }

    /// How many of what.
    fn summary(&self, found: &[Detection]) -> String {
        let mut counts = BTreeMap::new();
        for detection in found {
            *counts.entry(detection.class).or_insert(0usize) += 1;
        }
        if counts.is_empty() {
            return "nothing found".into();
        }
        let count = |(class, count)| format!("{count} x {}", self.detector.category(class).name);
        counts.into_iter().map(count).collect::<Vec<_>>().join(", ")
    }

    /// The best detection is drawn last, over the others.
    fn draw(&self, mut image: RgbImage, found: &[Detection], path: &Path) -> Result<()> {
        for detection in found.iter().rev() {
            let category = self.detector.category(detection.class);
            let label = format!("{} {:.2}", category.name, detection.score);
            draw::detection(&mut image, detection.corners, detection.class, &label);
        }
        images::write(&image, path)
    }
}

/// The result of a call, and the median time of `repeat` of them.
fn timed<T>(
    repeat: Option<u32>,
    mut call: impl FnMut() -> Result<T>,
) -> Result<(T, Option<Duration>)> {
    let Some(repeat) = repeat else {
        return Ok((call()?, None));
    };
    // The first call pays for what is made once.
    let mut result = call()?;
    let mut times = Vec::new();
    for _ in 0..repeat {
        let start = Instant::now();
        result = call()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok((result, Some(times[times.len() / 2])))
}
