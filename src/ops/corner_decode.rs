//! Corner decoding.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::CornerDecode;
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "corner_decode";

/// What a network says of one kind of corner. All three are of one type, f32, f16 or bf16.
#[derive(Debug, Clone, Copy)]
pub struct CornerMaps<'a> {
    /// `[B, H, W, K]` logits, a class each.
    pub heat: &'a Tensor,
    /// `[B, H, W, 1]`: corners of one object have embeddings close to each other.
    pub embedding: &'a Tensor,
    /// `[B, H, W, 2]`: `(x, y)` in cells, added to the corner's cell.
    pub offset: &'a Tensor,
}

/// Boxes of a batch of images, `num_dets` places each.
#[derive(Debug, Clone)]
pub struct CornerBoxes {
    /// `[B, num_dets, 4]` f32: `(x1, y1, x2, y2)` in cells of the maps, best first, then 0.
    pub boxes: Tensor,
    /// `[B, num_dets]` f32: in [0, 1]; 0 behind the last box.
    pub scores: Tensor,
    /// `[B, num_dets]` i32: -1 behind the last box.
    pub classes: Tensor,
    /// `[B]` i32: how many boxes there are.
    pub count: Tensor,
}

/// Boxes from the corners that CornerNet finds: peaks of two heatmaps, paired.
///
/// 1. A corner's score is `sigmoid(logit)` where the logit is a peak, the maximum of the `kernel` x `kernel` window
///    around it in its class, and 0 elsewhere.
/// 2. The best `topk` corners of each kind are taken: peaks by descending logit, ties by (class, y, x). Where there are
///    fewer peaks, places that are none follow in that order, as in the official code.
/// 3. Each top-left corner is paired with each bottom-right one. A pair is a box where the classes are equal, the
///    embeddings at most `ae_threshold` apart, and `x2 >= x1` and `y2 >= y1`, offsets included.
/// 4. Its score is the mean of the two; the best `num_dets` are returned, ties by the rank of the top-left, then of the
///    bottom-right corner.
///
/// Logits are compared as they are, so they may come without a sigmoid; the official code compares the sigmoids, which
/// differs only where those round to one number. A sigmoid is rounded to f32 once, on every device to the same bits;
/// coordinates and distances are f32. A NaN logit is no peak and hides none; a NaN embedding, or an offset that is not
/// finite, makes no box.
///
/// The heatmaps are read once; on CUDA the borders of tiles are read twice, at most a seventh of the map at `kernel` 3
/// (an eighth up to 128 columns). Nothing is synchronised. Every result is bit-identical from run to run.
///
/// # Errors
/// Shapes, types or devices that do not fit; `topk` not in 1..=512, `num_dets` not in 1..=4096, an even `kernel` or one
/// above 15, a NaN threshold; an image of 2^31 logits or more.
///
/// # Example
/// ```
/// use ocelli::ops::{CornerMaps, corner_decode};
/// use ocelli::params::CornerDecode;
/// use ocelli::{DType, Device, Tensor};
///
/// // One class on 4 x 4 cells: a top-left corner in cell (0, 0), a bottom-right one in cell (2, 3).
/// let heat = |peak: usize| {
///     let mut logits = vec![-20f32; 16];
///     logits[peak] = 0.0;
///     Tensor::from_vec(logits, &[1, 4, 4, 1], &Device::Cpu)
/// };
/// let embedding = Tensor::zeros(&[1, 4, 4, 1], DType::F32, &Device::Cpu)?;
/// let offset = Tensor::from_vec(vec![0.25f32; 32], &[1, 4, 4, 2], &Device::Cpu)?;
/// let (top_left, bottom_right) = (heat(0)?, heat(3 * 4 + 2)?);
/// let maps = |heat| CornerMaps { heat, embedding: &embedding, offset: &offset };
/// let params = CornerDecode { num_dets: 1, ..CornerDecode::default() };
/// let found = corner_decode(maps(&top_left), maps(&bottom_right), &params)?;
/// assert_eq!(found.boxes.to_vec::<f32>()?, [0.25, 0.25, 2.25, 3.25]);
/// assert_eq!(found.scores.to_vec::<f32>()?, [0.5]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Law and Deng, *CornerNet: Detecting Objects as Paired Keypoints*, 2018, and `_decode` of the official code.
pub fn corner_decode(
    top_left: CornerMaps<'_>,
    bottom_right: CornerMaps<'_>,
    params: &CornerDecode,
) -> Result<CornerBoxes> {
    let extents = checked(&top_left, &bottom_right, params)?;
    let [images, height, width, classes] = extents;
    let (row, n) = ([images, params.num_dets], params.num_dets);
    let device = top_left.heat.device();
    if extents.contains(&0) {
        return nothing(images, n, &device);
    }
    on_device!(&device,
        cpu => with_float!(OP, "tl_heat", top_left.heat, T => {
            let extents = cpu::corner_decode::Extents { images, height, width, classes };
            let (a, b) = (slices::<T>(&top_left)?, slices::<T>(&bottom_right)?);
            let found = cpu::corner_decode::corner_decode(extents, a, b, params)?;
            Ok(CornerBoxes {
                boxes: Tensor::from_cpu(found.boxes, &[images, n, 4]),
                scores: Tensor::from_cpu(found.scores, &row),
                classes: Tensor::from_cpu(found.classes, &row),
                count: Tensor::from_cpu(found.counts, &[images]),
            })
        }),
        cuda(context) => with_float!(OP, "tl_heat", top_left.heat, T => {
            let (a, b) = (buffers(&top_left)?, buffers(&bottom_right)?);
            let [boxes, scores, classes, count] =
                crate::cuda::corner_decode::run::<T>(context, extents, params, a, b)?;
            Ok(CornerBoxes {
                boxes: Tensor::from_cuda(boxes, &[images, n, 4]),
                scores: Tensor::from_cuda(scores, &row),
                classes: Tensor::from_cuda(classes, &row),
                count: Tensor::from_cuda(count, &[images]),
            })
        }),
    )
}

fn slices<'a, T: crate::dtype::Element>(
    maps: &CornerMaps<'a>,
) -> Result<cpu::corner_decode::CornerMaps<'a, T>> {
    Ok(cpu::corner_decode::CornerMaps {
        heat: maps.heat.as_slice()?,
        embedding: maps.embedding.as_slice()?,
        offset: maps.offset.as_slice()?,
    })
}

#[cfg(feature = "cuda")]
fn buffers<'a>(maps: &CornerMaps<'a>) -> Result<[&'a crate::cuda::Buffer; 3]> {
    Ok([
        maps.heat.as_cuda()?,
        maps.embedding.as_cuda()?,
        maps.offset.as_cuda()?,
    ])
}

/// The result of maps without a cell or a class.
fn nothing(images: usize, n: usize, device: &Device) -> Result<CornerBoxes> {
    Ok(CornerBoxes {
        boxes: Tensor::zeros(&[images, n, 4], DType::F32, device)?,
        scores: Tensor::zeros(&[images, n], DType::F32, device)?,
        classes: Tensor::from_vec(vec![-1i32; images * n], &[images, n], device)?,
        count: Tensor::zeros(&[images], DType::I32, device)?,
    })
}

/// Checks everything and returns B, H, W and K.
fn checked(
    top_left: &CornerMaps<'_>,
    bottom_right: &CornerMaps<'_>,
    params: &CornerDecode,
) -> Result<[usize; 4]> {
    params.check()?;
    let heat = top_left.heat;
    let &[images, height, width, classes] = heat.shape() else {
        let is = ShapeText(heat.shape());
        return Err(Error::input(OP, "tl_heat", "[B, H, W, K]", is));
    };
    if !heat.dtype().is_float() {
        let rule = "of type f32, f16 or bf16";
        return Err(Error::input(OP, "tl_heat", rule, heat.dtype()));
    }
    let per_cell = |last| [images, height, width, last];
    let others = [
        ("br_heat", bottom_right.heat, classes),
        ("tl_embed", top_left.embedding, 1),
        ("br_embed", bottom_right.embedding, 1),
        ("tl_offset", top_left.offset, 2),
        ("br_offset", bottom_right.offset, 2),
    ];
    for (argument, tensor, last) in others {
        check::shape(OP, argument, tensor, &per_cell(last))?;
        check::dtype(OP, argument, tensor, heat.dtype())?;
        check::device(OP, argument, tensor, &heat.device())?;
    }
    // Places are 31-bit numbers; the extents' product fits, as that of a tensor's does.
    if height * width * classes >= 1 << 31 {
        let rule = "less than 2^31 logits an image";
        return Err(Error::input(OP, "tl_heat", rule, ShapeText(heat.shape())));
    }
    Ok([images, height, width, classes])
}
