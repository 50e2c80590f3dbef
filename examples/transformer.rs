//! The Transformer, with weights of `torch.nn.Transformer` or invented ones: what comes later in the target changes
//! nothing before it.
//!
//!     cargo run --release --example transformer [WEIGHTS.safetensors]
//!
//! On a simulated GPU: `LD_PRELOAD=$PWD/target/release/libptxsim.so target/release/examples/transformer`.

use ocelli::io::{Weights, write_tensors};
use ocelli::models::transformer::{Config, Transformer};
use ocelli::{DType, Device, Result, Tensor};
use std::path::PathBuf;

fn main() -> Result<()> {
    let device = Device::cuda(0).unwrap_or(Device::Cpu);
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.map_or_else(invented_weights, Ok)?;
    let mut weights = Weights::open(path, &device, DType::F32)?;
    let config = Config::of(&weights);
    let model = Transformer::load(&mut weights, &config)?;
    weights.finish()?;

    let (width, tokens) = (config.layer.width, 5);
    let src = Tensor::from_vec(waves(7 * width, 1.0), &[1, 7, width], &device)?;
    let mut values = waves(tokens * width, 0.7);
    let tgt = Tensor::from_vec(values.clone(), &[1, tokens, width], &device)?;
    values[(tokens - 1) * width] += 1.0;
    let changed = Tensor::from_vec(values, &[1, tokens, width], &device)?;
    let before = model.forward(&src, &tgt)?.to_vec::<f32>()?;
    let after = model.forward(&src, &changed)?.to_vec::<f32>()?;
    println!("on {device}, the last of {tokens} targets changed:");
    for (token, (before, after)) in before.chunks(width).zip(after.chunks(width)).enumerate() {
        let apart = before.iter().zip(after).map(|(a, b)| (a - b).abs());
        let most = apart.fold(0.0, f32::max);
        println!("target {token}: outputs up to {most:.3} apart");
    }
    Ok(())
}

/// A file of weights for a small model: its listing has the names and shapes.
fn invented_weights() -> Result<PathBuf> {
    let mut config = Config::default();
    (config.layer.width, config.layer.feedforward) = (64, 128);
    (config.encoder_layers, config.decoder_layers) = (1, 1);
    let mut listing = Weights::listing();
    Transformer::load(&mut listing, &config)?;
    let tensors = listing.parameters().iter().map(|(name, shape)| {
        let values = waves(shape.iter().product(), name.len() as f32);
        Ok((name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?))
    });
    let path = std::env::temp_dir().join("transformer.safetensors");
    write_tensors(&path, &tensors.collect::<Result<_>>()?)?;
    Ok(path)
}

fn waves(len: usize, frequency: f32) -> Vec<f32> {
    (0..len)
        .map(|at| (at as f32 * frequency).sin() / 8.0)
        .collect()
}
