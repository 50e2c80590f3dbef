//! ViT-B/16 as a whole: an image on the CPU, a batch on CUDA.

use super::bench::{Bench, Cost};
use ocelli::io::{Weights, write_tensors};
use ocelli::models::vit::{Config, Vit};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Result, Tensor};
use std::path::{Path, PathBuf};

pub fn run(bench: &mut Bench) {
    // A model of hundreds of megabytes is not made for cases that were not asked for.
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = filters
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    if !filters.is_empty() && !filters.iter().any(|word| word.contains("vit")) {
        return;
    }
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
    let (file, parameters) = random_weights(&config).expect("weights");
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
            bytes: parameters * dtype.size(),
            operations: images as f64 * 35.1e9,
        };
        bench.costly_case("vit", case, cost, devices, |device| {
            let model = load(&file, &config, device, dtype).expect("a model");
            let pixels = Data::Spread(1.0).values(images * 224 * 224 * 3, 1);
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
    std::fs::remove_file(&file).expect("the weights can be removed");
}

fn load(file: &Path, config: &Config, device: &Device, dtype: DType) -> Result<Vit> {
    let mut weights = Weights::open(file, device, dtype)?;
    let vit = Vit::load(&mut weights, config)?;
    weights.finish()?;
    Ok(vit)
}

/// A file of the model's tensors, of values that keep activations in range, and how many parameters they are.
fn random_weights(config: &Config) -> Result<(PathBuf, usize)> {
    let mut listing = Weights::listing();
    Vit::load(&mut listing, config)?;
    let tensors = listing
        .parameters()
        .iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let values = Data::Spread(0.03).values(shape.iter().product(), seed as u64);
            Ok((name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?))
        });
    let path = std::env::temp_dir().join(format!("ocelli-bench-vit-{}", std::process::id()));
    write_tensors(&path, &tensors.collect::<Result<_>>()?)?;
    let parameters = listing.parameters().values();
    let parameters = parameters
        .map(|shape| shape.iter().product::<usize>())
        .sum();
    Ok((path, parameters))
}
