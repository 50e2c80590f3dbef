//! What the class token of a Vision Transformer attends to, with weights of any naming or invented ones.
//!
//!     cargo run --release --example vit [WEIGHTS.safetensors]
//!
//! `cargo xtask weights` makes `target/weights/saliency.safetensors`, whose backbone is one. On a simulated GPU:
//! `LD_PRELOAD=$PWD/target/release/libptxsim.so target/release/examples/vit`.

use ocelli::io::{Weights, write_tensors};
use ocelli::models::vit::{Config, Vit};
use ocelli::{DType, Device, Result, Tensor};
use std::path::PathBuf;

fn main() -> Result<()> {
    let device = Device::cuda(0).unwrap_or(Device::Cpu);
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.map_or_else(invented_weights, Ok)?;
    let mut weights = Weights::open(path, &device, DType::F32)?;
    let config = Config::of(&weights)?;
    weights.rename(|name| (!name.starts_with("decoder.")).then(|| name.into()))?;
    let vit = Vit::load(&mut weights, &config)?;
    weights.finish()?;

    // Black, with a white lower half.
    let [height, width] = vit.extents();
    let half = height * width * 3 / 2;
    let pixels = [vec![-2f32; half], vec![2.0; half]].concat();
    let image = Tensor::from_vec(pixels, &[1, height, width, 3], &device)?;
    let attention = vit.attention(&image, config.depth - 1, &[0])?;
    let tokens = attention.shape()[3];
    println!("{tokens} tokens on {device}");
    let lower = tokens - config.grid * config.grid / 2;
    for (head, row) in attention.to_vec::<f32>()?.chunks(tokens).enumerate() {
        let part = 100.0 * row[lower..].iter().sum::<f32>();
        println!("head {head} of the last block looks at the lower half with {part:.0} %");
    }
    Ok(())
}

/// A file of weights for a small model: its listing has the names and shapes.
fn invented_weights() -> Result<PathBuf> {
    let config = Config {
        width: 64,
        depth: 2,
        heads: 1,
        hidden: 128,
        ..Config::default()
    };
    let mut listing = Weights::listing();
    Vit::load(&mut listing, &config)?;
    let tensors = listing.parameters().iter().map(|(name, shape)| {
        let values = (0..shape.iter().product()).map(|at: usize| (at as f32 * 0.7).sin() / 8.0);
        let tensor = Tensor::from_vec(values.collect(), shape, &Device::Cpu)?;
        Ok((name.clone(), tensor))
    });
    let path = std::env::temp_dir().join("vit.safetensors");
    write_tensors(&path, &tensors.collect::<Result<_>>()?)?;
    Ok(path)
}
