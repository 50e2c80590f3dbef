//! `boxes [B, M, 4]`, `classes [B, M]`, `count [B]` (optional) to `labels [B, R]`, `matched [B, R]`, `foreground [B]`.

use super::anchors::{boxes_of, pyramid};
use super::{Call, Op, Outputs, required};
use crate::target::Target;
use anyhow::Result;
use ocelli::ops::Matches;
use ocelli::params::{Anchors, MatchAnchors};
use ocelli::reference::{self, AnchorMatch};
use ocelli::{Device, Tensor, ops};
use std::str::FromStr;

pub const OP: Op = Op {
    name: "match_anchors",
    keys: &[
        "image_height",
        "image_width",
        "grids",
        "style",
        "high_threshold",
        "low_threshold",
        "low_quality",
    ],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let default = MatchAnchors::default();
    let params = MatchAnchors {
        high_threshold: call
            .settings
            .get("high_threshold", default.high_threshold)?,
        low_threshold: call.settings.get("low_threshold", default.low_threshold)?,
        low_quality: call.settings.get("low_quality", default.low_quality)?,
    };
    let Grids(grids) = required(&call.settings, "grids")?;
    let anchors = pyramid(call, &grids)?;
    let (boxes, classes) = (call.f32_input("boxes")?, call.input("classes")?);
    let count = call.optional_input("count")?;
    // For the reference, too: the op checks the input.
    let found = ops::match_anchors(&boxes, &classes, count.as_ref(), &anchors, &params)?;
    let found = match call.target {
        Target::Reference => by_reference(&boxes, &classes, count.as_ref(), &anchors, &params)?,
        Target::Device(_) => found,
    };
    Ok(Outputs::from([
        ("labels".into(), found.labels),
        ("matched".into(), found.matched),
        ("foreground".into(), found.foreground),
    ]))
}

/// `8x8,4x4`: height and width of each level.
#[derive(Debug, PartialEq)]
struct Grids(Vec<[usize; 2]>);

impl FromStr for Grids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let grid = |part: &str| {
            let (height, width) = part.split_once('x')?;
            Some([height.parse().ok()?, width.parse().ok()?])
        };
        let grids: Option<Vec<_>> = text.split(',').map(grid).collect();
        grids
            .map(Self)
            .ok_or_else(|| "must be as in 8x8,4x4".into())
    }
}

fn by_reference(
    boxes: &Tensor,
    classes: &Tensor,
    count: Option<&Tensor>,
    anchors: &Anchors,
    params: &MatchAnchors,
) -> Result<Matches> {
    let (images, m) = (classes.shape()[0], classes.shape()[1]);
    let rule = reference::MatchAnchors {
        high_threshold: params.high_threshold,
        low_threshold: params.low_threshold,
        low_quality: params.low_quality,
    };
    let corners: Vec<[f32; 4]> = boxes
        .to_vec::<f32>()?
        .chunks_exact(4)
        .map(|c| [c[0], c[1], c[2], c[3]])
        .collect();
    let classes = classes.to_vec::<i32>()?;
    let counts = count.map(Tensor::to_vec::<i32>).transpose()?;
    let anchors = boxes_of(anchors).concat();
    let (mut labels, mut matched, mut foreground) = (Vec::new(), Vec::new(), vec![0; images]);
    for image in 0..images {
        let live = counts
            .as_ref()
            .map_or(m, |counts| (counts[image].max(0) as usize).min(m));
        for found in reference::match_anchors(&corners[image * m..][..live], &anchors, rule) {
            let (label, index) = match found {
                AnchorMatch::Box(index) => (classes[image * m + index], index as i32),
                AnchorMatch::Background => (-1, -1),
                AnchorMatch::Between => (-2, -1),
            };
            labels.push(label);
            matched.push(index);
            foreground[image] += i32::from(index >= 0);
        }
    }
    let row = [images, anchors.len()];
    Ok(Matches {
        labels: Tensor::from_vec(labels, &row, &Device::Cpu)?,
        matched: Tensor::from_vec(matched, &row, &Device::Cpu)?,
        foreground: Tensor::from_vec(foreground, &[images], &Device::Cpu)?,
    })
}

#[cfg(test)]
mod tests {
    use super::Grids;

    #[test]
    fn grids_are_heights_and_widths() {
        let grids = Grids(vec![[13, 21], [7, 11]]);
        assert_eq!("13x21,7x11".parse::<Grids>(), Ok(grids));
        for bad in ["", "8", "8x", "8x8,", "8x8x8", "-1x2"] {
            assert!(bad.parse::<Grids>().is_err(), "{bad}");
        }
    }
}
