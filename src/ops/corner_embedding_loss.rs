//! Pull and push losses of corner embeddings.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::CornerEmbeddingLoss;
use crate::params::corner_targets::MAX_BOXES;
use crate::tensor::{Device, ShapeText, Tensor};

const OP: &str = "corner_embedding_loss";

/// The losses that teach a CornerNet which corners belong together: pull the embeddings of a box's two
/// corners together, push those of different boxes apart.
///
/// Of n boxes of an image, with embeddings `a_k` and `b_k` at their corners, mean `m_k` and e = 1e-4:
///
/// ```text
/// pull = pull_weight * sum over k of ((a_k - m_k)^2 + (b_k - m_k)^2) / (n + e)
/// push = push_weight * sum over j, k of (max(0, 1 - |m_j - m_k|) - 1 / (n + e)) / (n (n - 1) + e)
/// ```
///
/// both summed over the images. The pairs of push include a box with itself, whose 1 the subtraction
/// removes; what is left of it is constant (0.9999 for a lone box), as in the authors' code.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `embeddings` | two of `[B, H, W, 1]`: of the top-left, of the bottom-right corners | f32, f16, bf16 |
/// | `indices` | two of `[B, M]`: cells `y * W + x` of each box's corners, M at most 1024 | i32 |
/// | returned | `[2]`: pull, push | f32 |
///
/// A box with an index outside `0..H * W` is left out. Embeddings that are NaN give NaN. Arithmetic and
/// sums are in f64, in a fixed order: the same on every run.
///
/// Source: Law and Deng, *CornerNet*, 2018, equations 4 and 5, and `models/py_utils/kp_utils.py` of
/// princeton-vl/CornerNet.
///
/// # Errors
/// [`Error::Input`] when shapes, types, devices or scalars do not fit; the environment family from the
/// device.
pub fn corner_embedding_loss(
    embeddings: [&Tensor; 2],
    indices: [&Tensor; 2],
    params: &CornerEmbeddingLoss,
) -> Result<Tensor> {
    let [images, ..] = checked(embeddings, indices, params)?;
    on_device!(&embeddings[0].device(),
        cpu => with_float!(OP, "top_left", embeddings[0], T => {
            let maps = [embeddings[0].as_slice::<T>()?, embeddings[1].as_slice()?];
            let indices = [indices[0].as_slice()?, indices[1].as_slice()?];
            let losses = cpu::corner_losses::embedding_loss(maps, indices, images, params, None)?;
            Ok(Tensor::from_cpu(losses.to_vec(), &[2]))
        }),
        cuda(context) => with_float!(OP, "top_left", embeddings[0], T => {
            let maps = [embeddings[0].as_cuda()?, embeddings[1].as_cuda()?];
            let boxes = (cuda_indices(indices)?, extents(embeddings, indices));
            let losses = crate::cuda::corner_embedding_loss::run::<T>(
                context, maps, boxes, params, None, None)?;
            Ok(Tensor::from_cuda(losses, &[2]))
        }),
    )
}

/// [`corner_embedding_loss`], and the gradients of pull + push with respect to both maps.
///
/// The gradients have the shape and type of the maps, zero but at the boxes' cells, where those of
/// several boxes add up. They are multiplied by `upstream`, a `[1]` tensor of f32 on the same device (1
/// where it is `None`); the losses are not. Where two means are equal, or 1 apart or more, push has no
/// slope.
///
/// # Errors
/// As [`corner_embedding_loss`].
pub fn corner_embedding_loss_with_gradient(
    embeddings: [&Tensor; 2],
    indices: [&Tensor; 2],
    upstream: Option<&Tensor>,
    params: &CornerEmbeddingLoss,
) -> Result<(Tensor, [Tensor; 2])> {
    let shape = checked(embeddings, indices, params)?;
    let device = embeddings[0].device();
    check_upstream(OP, upstream, &device)?;
    on_device!(&device,
        cpu => with_float!(OP, "top_left", embeddings[0], T => {
            let scale = upstream.map_or(Ok(1.0), |scalar| Ok(scalar.as_slice::<f32>()?[0]))?;
            let maps = [embeddings[0].as_slice::<T>()?, embeddings[1].as_slice()?];
            let indices = [indices[0].as_slice()?, indices[1].as_slice()?];
            let [mut first, mut last] = [0, 1].map(|corner: usize| vec![T::default(); maps[corner].len()]);
            let gradients = Some((scale, [&mut first[..], &mut last[..]]));
            let losses =
                cpu::corner_losses::embedding_loss(maps, indices, shape[0], params, gradients)?;
            let gradients = [first, last].map(|gradient| Tensor::from_cpu(gradient, &shape));
            Ok((Tensor::from_cpu(losses.to_vec(), &[2]), gradients))
        }),
        cuda(context) => with_float!(OP, "top_left", embeddings[0], T => {
            let maps = [embeddings[0].as_cuda()?, embeddings[1].as_cuda()?];
            let boxes = (cuda_indices(indices)?, extents(embeddings, indices));
            let gradient = || crate::cuda::Buffer::uninitialised(
                context, embeddings[0].dtype(), embeddings[0].len());
            let mut gradients = [gradient()?, gradient()?];
            let upstream = upstream.map(Tensor::as_cuda).transpose()?;
            let losses = crate::cuda::corner_embedding_loss::run::<T>(
                context, maps, boxes, params, upstream, Some(&mut gradients))?;
            let gradients = gradients.map(|gradient| Tensor::from_cuda(gradient, &shape));
            Ok((Tensor::from_cuda(losses, &[2]), gradients))
        }),
    )
}

/// Checks what both forms share and returns the shape of the maps.
fn checked(
    embeddings: [&Tensor; 2],
    indices: [&Tensor; 2],
    params: &CornerEmbeddingLoss,
) -> Result<[usize; 4]> {
    params.check()?;
    let [first, last] = embeddings;
    let &[images, height, width, 1] = first.shape() else {
        let value = ShapeText(first.shape());
        return Err(Error::input(OP, "top_left", "[B, H, W, 1]", value));
    };
    check::shape(OP, "bottom_right", last, first.shape())?;
    check::dtype(OP, "bottom_right", last, first.dtype())?;
    check::device(OP, "bottom_right", last, &first.device())?;
    let names = ["top_left_indices", "bottom_right_indices"];
    for (name, indices) in names.into_iter().zip(indices) {
        check_indices(OP, name, indices, images)?;
        check::device(OP, name, indices, &first.device())?;
    }
    check::shape(OP, names[1], indices[1], indices[0].shape())?;
    Ok([images, height, width, 1])
}

/// Checks the cells of the boxes of `images` images, `[B, M]`.
pub(super) fn check_indices(
    op: &'static str,
    argument: &str,
    indices: &Tensor,
    images: usize,
) -> Result<()> {
    check::dtype(op, argument, indices, DType::I32)?;
    match indices.shape() {
        &[batch, boxes] if batch == images && boxes <= MAX_BOXES => Ok(()),
        shape => {
            let rule = format!("[{images}, M] with M <= {MAX_BOXES}");
            Err(Error::input(op, argument, rule, ShapeText(shape)))
        }
    }
}

/// Checks the scalar that multiplies a gradient.
pub(super) fn check_upstream(
    op: &'static str,
    upstream: Option<&Tensor>,
    device: &Device,
) -> Result<()> {
    let Some(upstream) = upstream else {
        return Ok(());
    };
    check::device(op, "upstream", upstream, device)?;
    check::dtype(op, "upstream", upstream, DType::F32)?;
    check::shape(op, "upstream", upstream, &[1])
}

#[cfg(feature = "cuda")]
fn cuda_indices(indices: [&Tensor; 2]) -> Result<[&crate::cuda::Buffer; 2]> {
    Ok([indices[0].as_cuda()?, indices[1].as_cuda()?])
}

#[cfg(feature = "cuda")]
fn extents(
    embeddings: [&Tensor; 2],
    indices: [&Tensor; 2],
) -> crate::cuda::corner_embedding_loss::Extents {
    crate::cuda::corner_embedding_loss::Extents {
        images: embeddings[0].shape()[0],
        cells: embeddings[0].shape()[1..].iter().product(),
        boxes: indices[0].shape()[1],
    }
}
