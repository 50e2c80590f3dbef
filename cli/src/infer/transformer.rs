//! `src [B, S, D]`, `tgt [B, T, D]` (causal) to `out [B, T, D]`, by the weights of a `torch.nn.Transformer`.

use super::{Call, Model, Outputs};
use anyhow::{Result, bail};
use ocelli::models::transformer::{Config, Transformer};
use ocelli::params::Activation;

pub const MODEL: Model = Model {
    name: "transformer",
    keys: &["nhead", "norm_first", "activation"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let mut weights = call.weights()?;
    let mut config = Config::of(&weights);
    config.layer.heads = call.settings.get("nhead", config.layer.heads)?;
    config.layer.norm_first = call.settings.get("norm_first", false)?;
    let activation = call.settings.get("activation", String::from("relu"))?;
    config.layer.activation = match activation.as_str() {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        other => bail!("--set activation={other}: must be relu or gelu"),
    };
    let model = Transformer::load(&mut weights, &config)?;
    weights.finish()?;
    let out = model.forward(&call.input("src")?, &call.input("tgt")?)?;
    Ok(Outputs::from([("out".into(), out)]))
}
