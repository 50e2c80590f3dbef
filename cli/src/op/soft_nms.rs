//! `boxes [B, N, 4]`, `scores [B, N]`, `classes [B, N]` (optional) to `indices`, `scores [B, max_output]`,
//! `count [B]`.

use super::{Call, Op, Outputs};
use crate::target::Target;
use anyhow::Result;
use ocelli::ops::SoftKept;
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::reference::SoftNmsDecay;
use ocelli::{Device, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "soft_nms",
    keys: &[
        "method",
        "sigma",
        "iou_threshold",
        "score_threshold",
        "inclusive",
        "max_output",
    ],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let (default, set) = (SoftNms::default(), &call.settings);
    let params = SoftNms {
        method: set.get("method", default.method)?,
        sigma: set.get("sigma", default.sigma)?,
        iou_threshold: set.get("iou_threshold", default.iou_threshold)?,
        score_threshold: set.get("score_threshold", default.score_threshold)?,
        inclusive: set.get("inclusive", default.inclusive)?,
        max_output: set.optional("max_output")?,
    };
    let (boxes, scores) = (call.f32_input("boxes")?, call.f32_input("scores")?);
    let classes = call.optional_input("classes")?;
    // For the reference, too: the op checks the input.
    let kept = ops::soft_nms(&boxes, &scores, classes.as_ref(), None, &params)?;
    let kept = match call.target {
        Target::Reference => by_reference(&boxes, &scores, classes.as_ref(), &params)?,
        Target::Device(_) => kept,
    };
    Ok(Outputs::from([
        ("indices".into(), kept.indices),
        ("scores".into(), kept.scores),
        ("count".into(), kept.count),
    ]))
}

fn by_reference(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    params: &SoftNms,
) -> Result<SoftKept> {
    let (images, n) = (scores.shape()[0], scores.shape()[1]);
    let max_output = params.max_output.unwrap_or(n);
    let rule = reference::SoftNms {
        decay: match params.method {
            SoftNmsMethod::Linear => SoftNmsDecay::Linear {
                iou_threshold: params.iou_threshold,
            },
            SoftNmsMethod::Gaussian => SoftNmsDecay::Gaussian {
                sigma: params.sigma,
            },
        },
        score_threshold: params.score_threshold,
        inclusive: params.inclusive,
        max_output,
    };
    let (boxes, scores) = (boxes.to_vec::<f32>()?, scores.to_vec::<f32>()?);
    let classes = classes.map(Tensor::to_vec::<i32>).transpose()?;
    let rows = images * max_output;
    let (mut indices, mut left, mut counts) = (vec![-1; rows], vec![0f32; rows], Vec::new());
    for image in 0..images {
        let range = image * n..(image + 1) * n;
        let of_image = classes.as_ref().map(|classes| &classes[range.clone()]);
        let corners = &boxes[4 * range.start..4 * range.end];
        let kept = reference::soft_nms(corners, &scores[range], of_image, rule);
        counts.push(kept.len() as i32);
        for (place, (index, score)) in (image * max_output..).zip(kept) {
            (indices[place], left[place]) = (index as i32, score);
        }
    }
    Ok(SoftKept {
        indices: Tensor::from_vec(indices, &[images, max_output], &Device::Cpu)?,
        scores: Tensor::from_vec(left, &[images, max_output], &Device::Cpu)?,
        count: Tensor::from_vec(counts, &[images], &Device::Cpu)?,
    })
}
