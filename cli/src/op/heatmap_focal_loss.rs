//! `logits`, `target [B, H, W, K]` to `loss [1]`, `dlogits`.

use super::{Call, Op, Outputs, from_f64, to_f64};
use crate::target::Target;
use anyhow::Result;
use ocelli::ops::HeatmapTargets;
use ocelli::params::HeatmapFocalLoss;
use ocelli::{DType, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "heatmap_focal_loss",
    keys: &["alpha", "beta", "normalizer", "clamp"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let default = HeatmapFocalLoss::default();
    let params = HeatmapFocalLoss {
        alpha: call.settings.get("alpha", default.alpha)?,
        beta: call.settings.get("beta", default.beta)?,
        normalizer: call.settings.get("normalizer", default.normalizer)?,
        clamp: call.settings.get("clamp", default.clamp)?,
    };
    // Targets stay f32: in 16 bits what is almost 1 would become a positive.
    let logits = call.input("logits")?;
    let target = call.exact_input("target")?;
    let targets = HeatmapTargets::Map(&target);
    // For the reference, too: the op checks the input.
    let (loss, gradient) = ops::heatmap_focal_loss_with_gradient(&logits, &targets, None, &params)?;
    let (loss, gradient) = match call.target {
        Target::Reference => by_reference(&logits, &target, &params)?,
        Target::Device(_) => (loss, gradient),
    };
    Ok(Outputs::from([
        ("loss".into(), loss),
        ("dlogits".into(), gradient),
    ]))
}

fn by_reference(
    logits: &Tensor,
    target: &Tensor,
    params: &HeatmapFocalLoss,
) -> Result<(Tensor, Tensor)> {
    let scalars = reference::HeatmapFocalLoss {
        alpha: params.alpha.into(),
        beta: params.beta.into(),
        normalizer: params.normalizer.into(),
        clamp: params.clamp.into(),
        upstream: 1.0,
    };
    let (loss, gradient) =
        reference::heatmap_focal_loss(&to_f64(logits)?, &to_f64(target)?, &scalars);
    let loss = from_f64(&[loss], &[1], DType::F32)?;
    Ok((loss, from_f64(&gradient, logits.shape(), logits.dtype())?))
}
