//! Finds objects in an image with CornerNet.
//!
//! ```sh
//! cargo run --release --example cornernet -- assets/cornernet_digits.safetensors assets/digits/00000.jpg
//! ```
//!
//! The weights may also be those of the official code, of CornerNet-Lite or of mmdetection, as safetensors.

use image::ImageReader;
use ocelli::io::Weights;
use ocelli::models::cornernet::Detector;
use ocelli::{DType, Device, Tensor};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image] = &arguments[..] else {
        return Err("usage: cornernet WEIGHTS.safetensors IMAGE".into());
    };

    // The GPU where there is one that can be used.
    let device = Device::cuda(0).unwrap_or(Device::Cpu);
    let mut weights = Weights::open(weights, &device, DType::F32)?;
    let names = weights.metadata("classes");
    let names: Vec<String> = names.map_or_else(Vec::new, |names| {
        names.split(',').map(String::from).collect()
    });
    let detector = Detector::open(&mut weights)?;
    // One error for all that is missing, misshapen or left over.
    weights.finish()?;

    let pixels = ImageReader::open(image)?.decode()?.into_rgb8();
    let shape = [pixels.height() as usize, pixels.width() as usize, 3];
    let values = pixels.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let pixels = Tensor::from_vec(values, &shape, &Device::Cpu)?;

    for found in detector.detect(&pixels)? {
        let [x1, y1, x2, y2] = found.corners;
        let class = found.class.to_string();
        let name = names.get(found.class).unwrap_or(&class);
        println!(
            "{name}: {:.3} at ({x1:.0}, {y1:.0}) to ({x2:.0}, {y2:.0})",
            found.score
        );
    }
    Ok(())
}
