//! `logits [R, K]`, `labels [R]` to `loss [1]`, `dlogits [R, K]`.

use super::{Call, Op, Outputs, from_f64, to_f64};
use crate::target::Target;
use anyhow::Result;
use ocelli::params::SigmoidFocalLoss;
use ocelli::{DType, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "sigmoid_focal_loss",
    keys: &["alpha", "gamma", "normalizer", "label_smoothing"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let default = SigmoidFocalLoss::default();
    let params = SigmoidFocalLoss {
        alpha: call.settings.get("alpha", default.alpha)?,
        gamma: call.settings.get("gamma", default.gamma)?,
        label_smoothing: call
            .settings
            .get("label_smoothing", default.label_smoothing)?,
        normalizer: call.settings.get("normalizer", default.normalizer)?,
    };
    let (logits, labels) = (call.input("logits")?, call.input("labels")?);
    // For the reference, too: the op checks the input.
    let (loss, gradient) = ops::sigmoid_focal_loss_with_gradient(&logits, &labels, None, &params)?;
    let (loss, gradient) = match call.target {
        Target::Reference => by_reference(&logits, &labels, &params)?,
        Target::Device(_) => (loss, gradient),
    };
    Ok(Outputs::from([
        ("loss".into(), loss),
        ("dlogits".into(), gradient),
    ]))
}

fn by_reference(
    logits: &Tensor,
    labels: &Tensor,
    params: &SigmoidFocalLoss,
) -> Result<(Tensor, Tensor)> {
    let scalars = reference::SigmoidFocalLoss {
        alpha: params.alpha.into(),
        gamma: params.gamma.into(),
        label_smoothing: params.label_smoothing.into(),
        normalizer: params.normalizer.into(),
        upstream: 1.0,
    };
    let classes = logits.shape().last().copied().unwrap_or(0);
    let (loss, gradient) =
        reference::sigmoid_focal_loss(&to_f64(logits)?, &labels.to_vec()?, classes, &scalars);
    let loss = from_f64(&[loss], &[1], DType::F32)?;
    Ok((loss, from_f64(&gradient, logits.shape(), logits.dtype())?))
}
