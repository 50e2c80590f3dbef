//! RetinaNet with ResNet-50 from a normalised image to its head outputs, on random weights.

use crate::bench::{Bench, normal};
use ocelli::io::{TensorFile, Weights};
use ocelli::models::retinanet::{Config, RetinaNet};
use ocelli::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;

/// The model's tensors and their shapes.
fn parameters(config: &Config) -> BTreeMap<String, Vec<usize>> {
    let mut listing = Weights::listing();
    RetinaNet::load(&mut listing, config).expect("a listing");
    listing.parameters().clone()
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A file of random weights under which the features neither vanish nor grow much.
fn file(parameters: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    let tensors = parameters.iter().enumerate();
    let tensors = tensors.map(|(seed, (name, shape))| {
        let inputs: usize = shape.iter().skip(1).product();
        let values = if name.contains(".running_var") {
            vec![1.0; shape[0]]
        } else {
            let spread = 1.5 / (inputs as f32).sqrt();
            normal(spread, elements(shape), seed as u64)
        };
        (
            name,
            shape,
            bytemuck::cast_slice::<f32, u8>(&values).to_vec(),
        )
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes).expect("a tensor");
        (*name, view)
    });
    safetensors::serialize(views, None).expect("a file")
}

pub fn run(bench: &mut Bench) {
    for (name, config) in [
        ("retinanet_resnet50_fpn", Config::default()),
        ("retinanet_resnet50_fpn_v2", Config::v2()),
    ] {
        let height = bench.size(480).next_multiple_of(32);
        let width = bench.size(640).next_multiple_of(32);
        let parameters = parameters(&config);
        let elements: usize = parameters.values().map(|shape| elements(shape)).sum();
        let load = |device: &Device| {
            let bytes = file(&parameters);
            let file = TensorFile::from_bytes("random".into(), bytes).expect("a file");
            let mut weights = Weights::new(file, device, DType::F32);
            let model = RetinaNet::open(&mut weights).expect("a model");
            weights.finish().expect("all weights");
            let values = normal(1.0, height * width * 3, 1);
            let image = Tensor::from_vec(values, &[1, height, width, 3], device);
            (model, image.expect("an image"))
        };
        let case = "[1, 480, 640, 3] f32";
        bench.case(name, case, 4 * elements, |device| {
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
