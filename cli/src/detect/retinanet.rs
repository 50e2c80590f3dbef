//! RetinaNet: torchvision's, and the project's own, which `training/train.py` writes.

use super::{Architecture, Category, Detector, coco};
use crate::settings::Settings;
use anyhow::{Result, bail};
use ocelli::Tensor;
use ocelli::io::Weights;
use ocelli::models::Detection;
use ocelli::models::retinanet::{Config, DetectionParams, ImageTransform, RetinaNet};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "retinanet",
    keys: &[
        "min_size",
        "max_size",
        "norm_eps",
        "score_threshold",
        "topk",
        "iou_threshold",
        "max_detections",
    ],
    load,
};

struct Model {
    model: RetinaNet,
    transform: ImageTransform,
    params: DetectionParams,
    /// The names of the classes, empty where one has none.
    names: Vec<String>,
}

fn load(mut weights: Weights, settings: &Settings) -> Result<Box<dyn Detector>> {
    let config = RetinaNet::configure(&mut weights)?;
    let config = Config {
        norm_eps: settings.get("norm_eps", config.norm_eps)?,
        ..config
    };
    if !(config.norm_eps >= 0.0 && config.norm_eps.is_finite()) {
        bail!(
            "--set norm_eps={}: must be finite and at least 0",
            config.norm_eps
        );
    }
    let names = names(&mut weights, config.classes);
    let transform = transform(&weights, settings)?;
    let model = RetinaNet::load(&mut weights, &config)?;
    weights.finish()?;
    Ok(Box::new(Model {
        model,
        transform,
        params: params(settings)?,
        names,
    }))
}

/// By the file's metadata; else COCO's, where the head has as many classes as torchvision's for COCO.
fn names(weights: &mut Weights, classes: usize) -> Vec<String> {
    let names: Vec<String> = match weights.metadata("classes") {
        Some(names) => names.split(',').map(str::to_string).collect(),
        None if classes == coco::NAMES.len() => coco::NAMES.map(str::to_string).to_vec(),
        None => vec![String::new(); classes],
    };
    if names.len() != classes {
        let named = names.len();
        weights.fault(format!(
            "the metadata name {named} classes, the head has {classes}"
        ));
    }
    names
}

/// A file with the metadata `resize` = `none`, as the project's own, sees images at the scale they have; all others at
/// torchvision's.
fn transform(weights: &Weights, settings: &Settings) -> Result<ImageTransform> {
    let default = ImageTransform::default();
    let native = weights.metadata("resize") == Some("none");
    let sides = if native { None } else { default.sides };
    let sides = match [
        settings.optional::<usize>("min_size")?,
        settings.optional::<usize>("max_size")?,
    ] {
        [None, None] => sides,
        [shortest, longest] => {
            let [short, long] = default.sides.unwrap_or([800, 1333]);
            Some([shortest.unwrap_or(short), longest.unwrap_or(long)])
        }
    };
    if let Some(sides) = sides
        && sides.iter().any(|side| !(1..=1 << 15).contains(side))
    {
        bail!("--set min_size, max_size: must be 1 to 32768, got {sides:?}");
    }
    Ok(ImageTransform { sides, ..default })
}

fn params(settings: &Settings) -> Result<DetectionParams> {
    let default = DetectionParams::default();
    let mut params = DetectionParams {
        iou_threshold: settings.get("iou_threshold", default.iou_threshold)?,
        most: settings.get("max_detections", default.most)?,
        ..default
    };
    let decode = &mut params.decode;
    decode.score_threshold = settings.get("score_threshold", decode.score_threshold)?;
    decode.topk = settings.get("topk", decode.topk)?;
    Ok(params)
}

impl Detector for Model {
    fn detect(&self, image: &Tensor) -> Result<Vec<Detection>> {
        let images = std::slice::from_ref(image);
        let found = self.model.detect(images, &self.transform, &self.params)?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Classes are numbered as the model does: torchvision's numbers are COCO's.
    fn category(&self, class: usize) -> Category {
        let name = match self.names[class].as_str() {
            "" => format!("class {class}"),
            name => name.to_string(),
        };
        Category { id: class, name }
    }
}
