//! CornerNet: `image [B, H, W, 3]`, normalised, to `tl_heat`, `br_heat`, `tl_embed`, `br_embed`, `tl_offset` and
//! `br_offset` of the last stack.

use super::{Call, Model, Outputs};
use anyhow::Result;
use ocelli::models::cornernet::{Config, CornerNet, rename};

pub const MODEL: Model = Model {
    name: "cornernet_hourglass104",
    keys: &["pooling"],
    run,
};

/// Stacks, scales, widths and classes are the file's.
fn run(call: &Call) -> Result<Outputs> {
    let mut weights = call.weights()?;
    rename(&mut weights)?;
    let of_file = Config::of(&weights)?;
    let config = Config {
        pooling: call.settings.get("pooling", of_file.pooling)?,
        ..of_file
    };
    let model = CornerNet::load(&mut weights, &config)?;
    weights.finish()?;
    let outputs = model.forward(&call.input("image")?)?;
    let corners = [("tl", outputs.top_left), ("br", outputs.bottom_right)];
    let named = corners.into_iter().flat_map(|(corner, heads)| {
        let heads = [
            ("heat", heads.heat),
            ("embed", heads.embedding),
            ("offset", heads.offset),
        ];
        heads.map(|(head, tensor)| (format!("{corner}_{head}"), tensor))
    });
    Ok(named.collect())
}
