//! ViT-B/16 as a whole: an image on the CPU, a batch on CUDA.

use crate::bench::{Bench, Cost, normal};
use ocelli::io::{Weights, write_tensors};
use ocelli::models::vit::{Config, Vit};
use ocelli::{DType, Device, Result, Tensor};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub fn run(bench: &mut Bench) {
    let smoke = bench.size(100) < 100;
    let config = match smoke {
        true => Config {
            depth: 1,
            width: 64,
            heads: 1,
            hidden: 64,
            ..Config::default()
        },
        false => Config::default(),
    };
    let parameters = parameters(&config).expect("a listing");
    let elements: usize = parameters.values().map(|shape| elements(shape)).sum();
    // Hundreds of megabytes, made for the first case that is run.
    let file = OnceCell::new();
    for (case, images, dtype, devices) in [
        ("[1, 224, 224, 3] f32 B/16", 1, DType::F32, [true, true]),
        (
            "[32, 224, 224, 3] bf16 B/16",
            32,
            DType::BF16,
            [false, true],
        ),
    ] {
        let cost = Cost {
            bytes: elements * dtype.size(),
            operations: images as f64 * 35.1e9,
        };
        bench.costly_case("vit", case, cost, devices, |device| {
            let file = file.get_or_init(|| random_weights(&parameters).expect("weights"));
            let model = load(file, &config, device, dtype).expect("a model");
            let pixels = normal(1.0, images * 224 * 224 * 3, 1);
            let image = Tensor::from_vec(pixels, &[images, 224, 224, 3], &Device::Cpu);
            let image = image.and_then(|image| image.to_dtype(dtype)?.to_device(device));
            let image = image.expect("an image");
            let call = move || model.forward(&image).expect("features");
            let features = call()
                .features
                .to_dtype(DType::F32)
                .and_then(|x| x.to_vec::<f32>());
            assert!(
                features
                    .expect("values")
                    .iter()
                    .all(|value| value.is_finite())
            );
            move || drop(call())
        });
    }
    if let Some(file) = file.get() {
        std::fs::remove_file(file).expect("the weights can be removed");
    }
}

fn load(file: &Path, config: &Config, device: &Device, dtype: DType) -> Result<Vit> {
    let mut weights = Weights::open(file, device, dtype)?;
    let vit = Vit::load(&mut weights, config)?;
    weights.finish()?;
    Ok(vit)
}

/// The model's tensors and their shapes.
fn parameters(config: &Config) -> Result<BTreeMap<String, Vec<usize>>> {
    let mut listing = Weights::listing();
    Vit::load(&mut listing, config)?;
    Ok(listing.parameters().clone())
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A file of these tensors, of values that keep activations in range.
fn random_weights(parameters: &BTreeMap<String, Vec<usize>>) -> Result<PathBuf> {
    let tensors = parameters.iter().enumerate().map(|(seed, (name, shape))| {
        let values = normal(0.03, elements(shape), seed as u64);
        Ok((name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?))
    });
    let path = std::env::temp_dir().join(format!("ocelli-bench-vit-{}", std::process::id()));
    write_tensors(&path, &tensors.collect::<Result<_>>()?)?;
    Ok(path)
}
