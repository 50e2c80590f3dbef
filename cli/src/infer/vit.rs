//! `image [B, H, W, C]` to `features [B, N, D]` and, where the file has a head, `logits [B, K]`.

use super::{Call, Model, Outputs};
use anyhow::{Result, bail};
use ocelli::models::vit::{Config, Vit};

pub const MODEL: Model = Model {
    name: "vit",
    keys: &["heads"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let image = call.input("image")?;
    let &[_, height, width, _] = image.shape() else {
        bail!("image must be [B, H, W, C], got {:?}", image.shape());
    };
    let mut weights = call.weights()?;
    let mut config = Config::of(&weights)?;
    config.heads = call.settings.get("heads", config.heads)?;
    let vit = Vit::load(&mut weights, &config)?;
    weights.finish()?;
    let encoded = vit.with_extents([height, width])?.forward(&image)?;
    let mut outputs = Outputs::from([("features".into(), encoded.features)]);
    outputs.extend(encoded.logits.map(|logits| ("logits".into(), logits)));
    Ok(outputs)
}
