//! Anchors, as the command line names them.

use super::Call;
use anyhow::{Result, bail};
use ocelli::params::Anchors;

/// RetinaNet's anchors for these grids, by `image_height`, `image_width` and `style`.
pub fn pyramid(call: &Call, grids: &[[usize; 2]]) -> Result<Anchors> {
    let side = |key: &str| match call.settings.optional(key)? {
        Some(side) => Ok(side),
        None => bail!("--set {key}=.. is missing"),
    };
    let image: [usize; 2] = [side("image_height")?, side("image_width")?];
    let style = call.settings.get("style", "torchvision".to_owned())?;
    Ok(match style.as_str() {
        "torchvision" => Anchors::torchvision(image, grids)?,
        "detectron2" => Anchors::detectron2(image, grids)?,
        other => bail!("--set style={other}: must be torchvision or detectron2"),
    })
}

/// The anchors of each level.
pub fn boxes_of(anchors: &Anchors) -> Vec<Vec<[f32; 4]>> {
    let levels = anchors.levels().iter();
    levels
        .map(|level| (0..level.count()).map(|i| level.anchor(i)).collect())
        .collect()
}
