//! `input_ids`, `attention_mask` and `token_type_ids` (optional) `[B, N]` i32 to `hidden [B, N, D]`.

use super::{Call, Model, Outputs};
use crate::bert_config::BertConfig;
use anyhow::{Result, bail};
use ocelli::models::bert::{self, Bert, Config, Padding};

pub const MODEL: Model = Model {
    name: "bert",
    keys: &["heads"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let beside = BertConfig::beside(&call.weights)?;
    let Some(heads) = call.settings.optional("heads")?.or(beside.heads) else {
        bail!(
            "bert: the weights do not say how many heads: --set heads=.., or config.json beside them"
        );
    };
    let mut weights = call.weights()?;
    bert::own_names(&mut weights)?;
    let mut config = Config::of(&weights, heads);
    config.layer.epsilon = beside.epsilon.unwrap_or(config.layer.epsilon);
    let model = Bert::load(&mut weights, &config)?;
    weights.finish()?;
    let padding = Padding::of(
        &call.host_input("attention_mask")?,
        &call.device,
        call.dtype,
    )?;
    let types = "token_type_ids";
    let types = call.inputs.contains(types).then(|| call.input(types));
    let types = types.transpose()?;
    let hidden = model.forward(&call.input("input_ids")?, types.as_ref(), &padding.mask())?;
    Ok(Outputs::from([("hidden".into(), hidden)]))
}
