//! `logits_0`.. `[B, H, W, A * K]`, `deltas_0`.. `[B, H, W, A * 4]` to `boxes [B, M, 4]`, `scores`, `classes`
//! `[B, M]`, `count [B]`.

use super::anchors::{boxes_of, pyramid};
use super::{Call, Op, Outputs};
use crate::target::Target;
use anyhow::{Result, bail};
use ocelli::ops::Candidates;
use ocelli::params::{AnchorDecode, Anchors};
use ocelli::reference::{self, DecodeLevel};
use ocelli::{DType, Device, Tensor, ops};

pub const OP: Op = Op {
    name: "anchor_decode",
    keys: &[
        "image_height",
        "image_width",
        "score_threshold",
        "topk",
        "style",
    ],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let default = AnchorDecode::default();
    let params = AnchorDecode {
        score_threshold: call
            .settings
            .get("score_threshold", default.score_threshold)?,
        topk: call.settings.get("topk", default.topk)?,
    };
    let (logits, deltas) = (levels(call, "logits")?, levels(call, "deltas")?);
    let grid = |level: &Tensor| match level.shape() {
        &[_, height, width, _] => Ok([height, width]),
        shape => bail!("logits must be [B, H, W, A * K], got {shape:?}"),
    };
    let grids = logits.iter().map(grid).collect::<Result<Vec<_>>>()?;
    let anchors = pyramid(call, &grids)?;
    // For the reference, too: the op checks the input.
    let found = ops::anchor_decode(&logits, &deltas, &anchors, None, &params)?;
    let found = match call.target {
        Target::Reference => by_reference(&logits, &deltas, &anchors, &params, &found)?,
        Target::Device(_) => found,
    };
    Ok(Outputs::from([
        ("boxes".into(), found.boxes),
        ("scores".into(), found.scores),
        ("classes".into(), found.classes),
        ("count".into(), found.count),
    ]))
}

/// `name_0`, `name_1` and so on, as many as there are.
fn levels(call: &Call, name: &str) -> Result<Vec<Tensor>> {
    let mut levels = vec![call.input(&format!("{name}_0"))?];
    while let Some(level) = call.optional_input(&format!("{name}_{}", levels.len()))? {
        levels.push(level);
    }
    Ok(levels)
}

/// In the shapes of what the op found.
fn by_reference(
    logits: &[Tensor],
    deltas: &[Tensor],
    anchors: &Anchors,
    params: &AnchorDecode,
    found: &Candidates,
) -> Result<Candidates> {
    let &[images, most] = found.scores.shape() else {
        bail!("candidates of no images");
    };
    let rule = reference::AnchorDecode {
        score_threshold: params.score_threshold,
        topk: params.topk,
        image: anchors.image().map(|side| side as f64),
    };
    let host = |levels: &[Tensor]| -> Result<Vec<Vec<f32>>> {
        let values = |level: &Tensor| Ok(level.to_dtype(DType::F32)?.to_vec::<f32>()?);
        levels.iter().map(values).collect()
    };
    let (logits, deltas) = (host(logits)?, host(deltas)?);
    let anchors = boxes_of(anchors);
    let (mut boxes, mut scores) = (vec![0f32; images * most * 4], vec![0f32; images * most]);
    let (mut classes, mut count) = (vec![-1; images * most], vec![0; images]);
    for (image, count) in count.iter_mut().enumerate() {
        let levels: Vec<_> = (0..anchors.len())
            .map(|i| level_of(image, images, &logits[i], &deltas[i], &anchors[i]))
            .collect();
        let channels = levels.iter().find(|level| !level.anchors.is_empty());
        let k = channels.map_or(1, |level| level.logits.len() / level.anchors.len());
        let candidates = reference::anchor_decode(&levels, k, rule);
        *count = candidates.len() as i32;
        for (place, candidate) in (image * most..).zip(candidates) {
            boxes[4 * place..4 * place + 4].copy_from_slice(&candidate.corners.map(|x| x as f32));
            scores[place] = candidate.score as f32;
            classes[place] = candidate.class as i32;
        }
    }
    Ok(Candidates {
        boxes: Tensor::from_vec(boxes, &[images, most, 4], &Device::Cpu)?,
        scores: Tensor::from_vec(scores, &[images, most], &Device::Cpu)?,
        classes: Tensor::from_vec(classes, &[images, most], &Device::Cpu)?,
        count: Tensor::from_vec(count, &[images], &Device::Cpu)?,
    })
}

/// What of a level belongs to an image.
fn level_of<'a>(
    image: usize,
    images: usize,
    logits: &'a [f32],
    deltas: &'a [f32],
    anchors: &'a [[f32; 4]],
) -> DecodeLevel<'a> {
    let row = |level: &'a [f32]| {
        let length = level.len() / images;
        &level[image * length..(image + 1) * length]
    };
    DecodeLevel {
        logits: row(logits),
        deltas: row(deltas),
        anchors,
    }
}
