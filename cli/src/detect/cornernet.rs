//! CornerNet: the official one, CornerNet-Lite's, mmdetection's, and the project's own, which `training/train.py` writes.

use super::{Architecture, Category, Detector, coco};
use crate::settings::Settings;
use anyhow::Result;
use ocelli::Tensor;
use ocelli::io::Weights;
use ocelli::models::Detection;
use ocelli::models::cornernet::{self, Config, CornerNet, DetectionRule};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "cornernet",
    keys: &[
        "pooling",
        "flip",
        "cell",
        "topk",
        "ae_threshold",
        "score_threshold",
        "max_detections",
    ],
    load,
};

/// COCO's classes, of which the networks are trained on no others.
const COCO_CLASSES: usize = 80;

struct Model {
    detector: cornernet::Detector,
    categories: Vec<Category>,
}

fn load(mut weights: Weights, settings: &Settings) -> Result<Box<dyn Detector>> {
    let naming = cornernet::rename(&mut weights)?;
    let rule = rule(DetectionRule::of(&weights, naming)?, settings)?;
    let of_file = Config::of(&weights)?;
    let config = Config {
        pooling: settings.get("pooling", of_file.pooling)?,
        ..of_file
    };
    let categories = categories(&mut weights, config.classes);
    let model = CornerNet::load(&mut weights, &config)?;
    weights.finish()?;
    Ok(Box::new(Model {
        detector: cornernet::Detector { model, rule },
        categories,
    }))
}

fn rule(of_file: DetectionRule, settings: &Settings) -> Result<DetectionRule> {
    let mut rule = DetectionRule {
        flip: settings.get("flip", of_file.flip)?,
        cell: settings.optional("cell")?.or(of_file.cell),
        score_threshold: settings.get("score_threshold", of_file.score_threshold)?,
        max_detections: settings.get("max_detections", of_file.max_detections)?,
        ..of_file
    };
    let decode = &mut rule.decode;
    decode.topk = settings.get("topk", decode.topk)?;
    decode.ae_threshold = settings.get("ae_threshold", decode.ae_threshold)?;
    Ok(rule)
}

/// By the names in the file's metadata, numbered as they come; else COCO's, which the networks number without the gaps.
fn categories(weights: &mut Weights, classes: usize) -> Vec<Category> {
    let named = |(id, name): (usize, &str)| Category {
        id,
        name: name.to_string(),
    };
    let names = weights.metadata("classes");
    let categories: Vec<Category> = match names {
        Some(names) => names.split(',').enumerate().map(named).collect(),
        None if classes == COCO_CLASSES => {
            let known = coco::NAMES.into_iter().enumerate();
            known
                .filter(|(_, name)| !name.is_empty())
                .map(named)
                .collect()
        }
        None => {
            let name = |id| Category {
                id,
                name: format!("class {id}"),
            };
            (0..classes).map(name).collect()
        }
    };
    if categories.len() != classes {
        let named = categories.len();
        weights.fault(format!(
            "the metadata name {named} classes, the heads have {classes}"
        ));
    }
    categories
}

impl Detector for Model {
    fn detect(&self, image: &Tensor) -> Result<Vec<Detection>> {
        Ok(self.detector.detect(image)?)
    }

    fn category(&self, class: usize) -> Category {
        self.categories[class].clone()
    }
}
