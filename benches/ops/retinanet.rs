//! RetinaNet with ResNet-50 from a normalised image to its head outputs, on random weights.

use crate::bench::Bench;
use ocelli::io::{TensorFile, Weights};
use ocelli::models::retinanet::{Config, RetinaNet};
use ocelli::testing::strategy::Data;
use ocelli::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

/// A file of random weights under which the features neither vanish nor grow much.
fn file(config: &Config) -> (Vec<u8>, usize) {
    let mut listing = Weights::listing();
    RetinaNet::load(&mut listing, config).expect("a listing");
    let tensors = listing.parameters().iter().enumerate();
    let tensors = tensors.map(|(seed, (name, shape))| {
        let inputs: usize = shape.iter().skip(1).product();
        let values = if name.contains(".running_var") {
            vec![1.0; shape[0]]
        } else {
            let spread = 1.5 / (inputs as f32).sqrt();
            Data::Spread(spread).values(shape.iter().product(), seed as u64)
        };
        (
            name,
            shape,
            bytemuck::cast_slice::<f32, u8>(&values).to_vec(),
        )
    });
    let tensors: Vec<_> = tensors.collect();
    let elements = tensors.iter().map(|(_, _, bytes)| bytes.len() / 4).sum();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes).expect("a tensor");
        (*name, view)
    });
    let bytes = safetensors::serialize(views, None).expect("a file");
    (bytes, elements)
}

pub fn run(bench: &mut Bench) {
    for (name, config) in [
        ("retinanet_resnet50_fpn", Config::default()),
        ("retinanet_resnet50_fpn_v2", Config::v2()),
    ] {
        let height = bench.size(480).next_multiple_of(32);
        let width = bench.size(640).next_multiple_of(32);
        let (bytes, elements) = file(&config);
        let load = |device: &Device| {
            let file = TensorFile::from_bytes("random".into(), bytes.clone()).expect("a file");
            let mut weights = Weights::new(file, device, DType::F32);
            let model = RetinaNet::open(&mut weights).expect("a model");
            weights.finish().expect("all weights");
            let values = Data::Spread(1.0).values(height * width * 3, 1);
            let image = Tensor::from_vec(values, &[1, height, width, 3], device);
            (model, image.expect("an image"))
        };
        let case = format!("[1, {height}, {width}, 3] f32");
        bench.case(name, &case, 4 * elements, |device| {
            let (model, image) = load(device);
            let outputs = model.forward(&image).expect("a result");
            let finite = |level: &Tensor| {
                level
                    .to_vec::<f32>()
                    .expect("values")
                    .iter()
                    .all(|x| x.is_finite())
            };
            assert!(
                outputs.logits.iter().chain(&outputs.deltas).all(finite),
                "{name}"
            );
            move || drop(model.forward(&image).expect("a result"))
        });
    }
}
