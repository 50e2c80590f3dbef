//! `tl_heat`, `br_heat [B, H, W, K]`, `tl_embed`, `br_embed [B, H, W, 1]`, `tl_offset`, `br_offset [B, H, W, 2]` to
//! `boxes [B, num_dets, 4]`, `scores`, `classes [B, num_dets]`, `count [B]`.

use super::{Call, Op, Outputs};
use crate::target::Target;
use anyhow::Result;
use ocelli::ops::{CornerBoxes, CornerMaps};
use ocelli::params::CornerDecode;
use ocelli::{DType, Device, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "corner_decode",
    keys: &["topk", "kernel", "ae_threshold", "num_dets"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let (default, set) = (CornerDecode::default(), &call.settings);
    let params = CornerDecode {
        topk: set.get("topk", default.topk)?,
        kernel: set.get("kernel", default.kernel)?,
        ae_threshold: set.get("ae_threshold", default.ae_threshold)?,
        num_dets: set.get("num_dets", default.num_dets)?,
    };
    let top_left = [
        call.input("tl_heat")?,
        call.input("tl_embed")?,
        call.input("tl_offset")?,
    ];
    let bottom_right = [
        call.input("br_heat")?,
        call.input("br_embed")?,
        call.input("br_offset")?,
    ];
    // For the reference, too: the op checks the input.
    let found = ops::corner_decode(maps(&top_left), maps(&bottom_right), &params)?;
    let found = match call.target {
        Target::Reference => by_reference(&top_left, &bottom_right, &params)?,
        Target::Device(_) => found,
    };
    Ok(Outputs::from([
        ("boxes".into(), found.boxes),
        ("scores".into(), found.scores),
        ("classes".into(), found.classes),
        ("count".into(), found.count),
    ]))
}

fn maps([heat, embedding, offset]: &[Tensor; 3]) -> CornerMaps<'_> {
    CornerMaps {
        heat,
        embedding,
        offset,
    }
}

/// The part of one of so many images.
fn of_image(maps: &[Vec<f32>], image: usize, images: usize) -> reference::CornerMaps<'_> {
    let part = |map: usize| {
        let len = maps[map].len() / images;
        &maps[map][image * len..(image + 1) * len]
    };
    reference::CornerMaps {
        heat: part(0),
        embedding: part(1),
        offset: part(2),
    }
}

fn by_reference(
    top_left: &[Tensor; 3],
    bottom_right: &[Tensor; 3],
    params: &CornerDecode,
) -> Result<CornerBoxes> {
    let shape = top_left[0].shape();
    let (images, image_shape) = (shape[0], [shape[1], shape[2], shape[3]]);
    let n = params.num_dets;
    let rule = reference::CornerDecode {
        topk: params.topk,
        kernel: params.kernel,
        ae_threshold: params.ae_threshold,
        num_dets: n,
    };
    let values = |maps: &[Tensor; 3]| -> Result<Vec<Vec<f32>>> {
        let wide = |map: &Tensor| Ok(map.to_dtype(DType::F32)?.to_vec()?);
        maps.iter().map(wide).collect()
    };
    let (a, b) = (values(top_left)?, values(bottom_right)?);
    let (mut boxes, mut scores) = (vec![0f32; 4 * n * images], vec![0f32; n * images]);
    let (mut classes, mut counts) = (vec![-1; n * images], Vec::new());
    for image in 0..images {
        let (a, b) = (of_image(&a, image, images), of_image(&b, image, images));
        let found = reference::corner_decode(image_shape, a, b, rule);
        counts.push(found.len() as i32);
        for (place, found) in (image * n..).zip(found) {
            boxes[4 * place..4 * place + 4].copy_from_slice(&found.corners);
            (scores[place], classes[place]) = (found.score, found.class);
        }
    }
    Ok(CornerBoxes {
        boxes: Tensor::from_vec(boxes, &[images, n, 4], &Device::Cpu)?,
        scores: Tensor::from_vec(scores, &[images, n], &Device::Cpu)?,
        classes: Tensor::from_vec(classes, &[images, n], &Device::Cpu)?,
        count: Tensor::from_vec(counts, &[images], &Device::Cpu)?,
    })
}
