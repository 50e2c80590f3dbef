//! Attention probabilities of chosen queries.

use super::super::{check, on_device, with_float};
use super::{AttentionMask, Checked, OP, mask_slices, slices};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::Qkv;
use crate::tensor::{ShapeText, Tensor};

/// The probabilities `p_ij` of [`attention`](super::attention) for chosen queries `i`, which it never stores: what a
/// token attends to.
///
/// `rows` is `[R]` i32, places of queries within each sequence; one that is none gives zeros. The result is f32 `[B, H,
/// R, Nk]`, or `[B, H, R, max_keys]` where sequences are packed; keys that a query does not see, and rows that see none,
/// are 0; where a query sees a score of NaN or `+inf`, all that it sees is NaN. Probabilities are before dropout; values are not read.
///
/// `2 * B * H * R * Nk * D` operations. Bit-identical from run to run; on CUDA nothing is synchronised.
///
/// # Errors
/// As [`attention`](super::attention); `rows` of another shape, type or place.
///
/// # Example
/// ```
/// use ocelli::ops::{AttentionMask, attention_probabilities};
/// use ocelli::params::{Attention, attention::Qkv};
/// use ocelli::{Device, Tensor};
///
/// let ones = Tensor::from_vec(vec![1f32; 32], &[1, 4, 1, 8], &Device::Cpu)?;
/// let last = Tensor::from_vec(vec![3i32], &[1], &Device::Cpu)?;
/// let window = Attention { causal: true, window_left: Some(1), ..Attention::default() };
/// let qkv = Qkv::Separate { q: &ones, k: &ones, v: &ones };
/// let probabilities = attention_probabilities(qkv, &last, &AttentionMask::default(), &window)?;
/// assert_eq!(probabilities.to_vec::<f32>()?, [0.0, 0.0, 0.5, 0.5]);
/// # Ok::<(), ocelli::Error>(())
/// ```
pub fn attention_probabilities(
    qkv: Qkv<&Tensor>,
    rows: &Tensor,
    mask: &AttentionMask<'_>,
    params: &Attention,
) -> Result<Tensor> {
    let call = Checked::new(qkv, mask, params)?;
    let geometry = &call.geometry;
    let &[count] = rows.shape() else {
        return Err(Error::input(OP, "rows", "[R]", ShapeText(rows.shape())));
    };
    check::dtype(OP, "rows", rows, DType::I32)?;
    check::device(OP, "rows", rows, &call.device)?;
    let shape = [geometry.batch, geometry.heads, count, geometry.keys];
    if call.sees_nothing() || count == 0 {
        return Tensor::zeros(&shape, DType::F32, &call.device);
    }
    let first = *qkv.parts()[0];
    on_device!(&call.device,
        cpu => with_float!(OP, "q", first, T => {
            let mut to = vec![0.0; element_count(&shape)?];
            let (qkv, mask) = (slices::<T>(qkv)?, mask_slices::<T>(mask)?);
            cpu::attention::probabilities(geometry, params, qkv, &mask, rows.as_slice()?, &mut to)?;
            Ok(Tensor::from_cpu(to, &shape))
        }),
        cuda(context) => with_float!(OP, "q", first, T => {
            element_count(&shape)?;
            let (buffers, mask) = (qkv.try_map(Tensor::as_cuda)?, super::mask_buffers(mask)?);
            let probabilities = crate::cuda::attention::probabilities::run::<T>(
                context, geometry, params, buffers, &mask, rows.as_cuda()?)?;
            Ok(Tensor::from_cuda(probabilities, &shape))
        }),
    )
}

/// Elements of the result, few enough to be addressed.
fn element_count(shape: &[usize]) -> Result<usize> {
    crate::tensor::element_count(OP, "probabilities", shape)
}
