//! `image [B, H, W, 3]`, 224 x 224 in training, to `importance [B, H, W, 1]`, f32.

use super::{Call, Model, Outputs};
use anyhow::{Result, bail};
use ocelli::models::saliency::Saliency;
use ocelli::models::vit::Config;

pub const MODEL: Model = Model {
    name: "saliency",
    keys: &[],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let image = call.input("image")?;
    let &[_, height, width, _] = image.shape() else {
        bail!("image must be [B, H, W, 3], got {:?}", image.shape());
    };
    let mut weights = call.weights()?;
    let config = Config::of(&weights)?;
    let model = Saliency::load(&mut weights, &config, [height, width])?;
    weights.finish()?;
    let importance = model.forward(&image)?;
    Ok(Outputs::from([("importance".into(), importance)]))
}
