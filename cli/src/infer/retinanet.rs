//! RetinaNet: `image [B, H, W, 3]`, normalised, to `logits_0..4` and `deltas_0..4`.

use super::{Call, Model, Outputs};
use anyhow::{Result, bail};
use ocelli::models::retinanet::{Config, RetinaNet};

pub const V1: Model = Model {
    name: "retinanet_resnet50_fpn",
    keys: &["norm_eps"],
    run: |call| run(call, false),
};

pub const V2: Model = Model {
    name: "retinanet_resnet50_fpn_v2",
    keys: &["norm_eps"],
    run: |call| run(call, true),
};

/// Widths, depths and classes are the file's; the version says whether the heads have norms.
fn run(call: &Call, second: bool) -> Result<Outputs> {
    let mut weights = call.weights()?;
    let of_file = RetinaNet::configure(&mut weights)?;
    let config = Config {
        norm_eps: call.settings.get("norm_eps", of_file.norm_eps)?,
        head_norm: second,
        ..of_file
    };
    if !(config.norm_eps >= 0.0 && config.norm_eps.is_finite()) {
        bail!(
            "--set norm_eps={}: must be finite and at least 0",
            config.norm_eps
        );
    }
    let model = RetinaNet::load(&mut weights, &config)?;
    weights.finish()?;
    let outputs = model.forward(&call.input("image")?)?;
    let levels = |name: &'static str, levels| {
        let numbered = Vec::into_iter(levels).enumerate();
        numbered.map(move |(level, tensor)| (format!("{name}_{level}"), tensor))
    };
    let logits = levels("logits", outputs.logits);
    Ok(logits.chain(levels("deltas", outputs.deltas)).collect())
}
