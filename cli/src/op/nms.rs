//! `boxes [B, N, 4]`, `scores [B, N]`, `classes [B, N]` (optional) to `indices [B, max_output]`,
//! `count [B]`.

use super::{Call, Op, Outputs};
use crate::target::Target;
use anyhow::Result;
use ocelli::ops::Kept;
use ocelli::params::Nms;
use ocelli::{Device, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "nms",
    keys: &["iou_threshold", "score_threshold", "max_output"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let default = Nms::default();
    let params = Nms {
        iou_threshold: call.settings.get("iou_threshold", default.iou_threshold)?,
        score_threshold: call.settings.optional("score_threshold")?,
        max_output: call.settings.optional("max_output")?,
    };
    let (boxes, scores) = (call.f32_input("boxes")?, call.f32_input("scores")?);
    let classes = call.optional_input("classes")?;
    // For the reference, too: the op checks the input.
    let kept = ops::nms(&boxes, &scores, classes.as_ref(), None, &params)?;
    let Kept { indices, count } = match call.target {
        Target::Reference => by_reference(&boxes, &scores, classes.as_ref(), &params)?,
        Target::Device(_) => kept,
    };
    Ok(Outputs::from([
        ("indices".into(), indices),
        ("count".into(), count),
    ]))
}

fn by_reference(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&Tensor>,
    params: &Nms,
) -> Result<Kept> {
    let (images, n) = (scores.shape()[0], scores.shape()[1]);
    let max_output = params.max_output.unwrap_or(n);
    let rule = reference::Nms {
        iou_threshold: params.iou_threshold,
        score_threshold: params.score_threshold,
        max_output,
    };
    let (boxes, scores) = (boxes.to_vec::<f32>()?, scores.to_vec::<f32>()?);
    let classes = classes.map(Tensor::to_vec::<i32>).transpose()?;
    let (mut indices, mut counts) = (vec![-1; images * max_output], vec![0; images]);
    for image in 0..images {
        let range = image * n..(image + 1) * n;
        let of_image = classes.as_ref().map(|classes| &classes[range.clone()]);
        let corners = &boxes[4 * range.start..4 * range.end];
        let kept = reference::nms(corners, &scores[range], of_image, rule);
        counts[image] = kept.len() as i32;
        for (index, kept) in indices[image * max_output..].iter_mut().zip(kept) {
            *index = kept as i32;
        }
    }
    Ok(Kept {
        indices: Tensor::from_vec(indices, &[images, max_output], &Device::Cpu)?,
        count: Tensor::from_vec(counts, &[images], &Device::Cpu)?,
    })
}
