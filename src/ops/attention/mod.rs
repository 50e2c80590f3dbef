//! Scaled dot-product attention.

mod backward;
mod checked;
mod probabilities;

pub use backward::{AttentionGradient, Upstream, attention_backward};
pub use probabilities::attention_probabilities;

use super::{on_device, with_float};
use crate::cpu;
use crate::dtype::Float;
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::{Mask, Qkv};
use crate::tensor::Tensor;
use checked::Checked;

const OP: &str = "attention";

/// What limits or biases the scores of [`attention`], besides its scalars. All may be combined, but for a bias with
/// packed sequences.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionMask<'a> {
    /// Added to the scores: `[B or 1, H or 1, Nq, Nk]`, of the type of the queries. `-inf` hides a key.
    pub bias: Option<&'a Tensor>,
    /// How many keys of each sequence may be seen: `[B]` i32, clamped to `[0, Nk]`, or to the sequence's own number.
    pub kv_lengths: Option<&'a Tensor>,
    /// Where sequences of different lengths lie one behind another.
    pub sequences: Option<Sequences<'a>>,
}

/// Sequences of different lengths, packed one behind another.
///
/// Offset `b` stands for `clamp(max(offsets[..=b]), 0, T)` of `T` tokens, so that no value leads out of the tensor;
/// sequence `b` reaches from offset `b` to offset `b + 1`, but no further than the longest allowed. A token in no
/// sequence has output 0, log-sum-exp `-inf` and gradient 0.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// First query of each sequence, and the end of the last: `[B + 1]` i32.
    pub offsets_q: &'a Tensor,
    /// The same of the keys.
    pub offsets_k: &'a Tensor,
    /// Queries of the longest sequence.
    pub max_queries: usize,
    /// Keys of the longest sequence.
    pub max_keys: usize,
}

/// What [`attention`] gives, and [`attention_backward`] takes.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[B, Nq, H, D]`, or `[Tq, H, D]`, of the type of the queries.
    pub out: Tensor,
    /// The natural logarithm of each row's sum of `exp(s)`: f32, `[B, H, Nq]`, or `[H, Tq]`.
    pub lse: Tensor,
}

/// Fused scaled dot-product attention: the scores are never stored.
///
/// For query `i` and key `j` of a sequence, in each head,
///
/// ```text
/// s_ij = softcap(scale * q_i . k_j) + bias_ij        softcap(x) = cap * tanh(x / cap)
/// p_ij = exp(s_ij - lse_i)                           lse_i = ln(sum over the j that i sees of exp(s_ij))
/// out_i = sum over j of p_ij * v_j
/// ```
///
/// | tensor | dense | packed sequences ([`AttentionMask::sequences`]) |
/// |---|---|---|
/// | `q` | `[B, Nq, H, D]` | `[Tq, H, D]` |
/// | `k`, `v` | `[B, Nk, Hkv, D]` | `[Tk, Hkv, D]` |
/// | or all in one | `[B, N, 3, H, D]` | `[T, 3, H, D]` |
///
/// f32, f16 or bf16; `D` a multiple of 8 up to 256; `H` a multiple of `Hkv`: query head `h` reads head `h / (H / Hkv)`
/// (grouped-query attention; multi-query with `Hkv = 1`). [`Qkv::Packed`] is a projection as one matrix product writes
/// it; it is read in place, and its gradient comes in the same form.
///
/// Query `i` stands at place `i + Nk - Nq` of the keys, with the numbers of its own sequence where sequences are packed,
/// before key lengths: `causal` and the windows align to the bottom right. It sees key `j` where `place - window_left <=
/// j <= place + window_right` (0 with `causal`) and `j` is below the key length.
///
/// A query that sees no key, or only scores of `-inf`, has output 0, log-sum-exp `-inf`, and no part in any gradient. One
/// that sees a score of NaN or `+inf` has a row of NaN: output, log-sum-exp, and each gradient that it has a part in. A NaN
/// or an infinity in one row reaches those rows alone that may see it. What is not finite by the formulas is not finite
/// here, but NaN may stand for an infinity, and the other way round: probabilities are f32, and where that of an infinite
/// value underflows, `0 * inf` is NaN. A GPU has scores in base 2: from 2.3e38 on they are infinite.
///
/// Sums are in f32. For 16-bit types a GPU rounds `p` to the type before it is multiplied by `v`; the CPU does not. The
/// output is rounded once. f32 has the error of f32, not that of tf32. [Dropout](crate::params::attention::Dropout)
/// acts on `p` after `lse`. Every result is bit-identical from run to run, and on the CPU whatever the number of threads.
///
/// It reads `q`, `k` and `v` and writes `out` and `lse`; `4 * B * H * Nq * Nk * D` operations, fewer where masks leave
/// whole tiles out. No memory grows with `Nq * Nk`.
///
/// # Errors
/// Shapes, types, devices or scalars that do not fit; a bias with packed sequences; the environment family from the
/// device.
///
/// # Example
/// ```
/// use ocelli::ops::{AttentionMask, attention};
/// use ocelli::params::{Attention, attention::Qkv};
/// use ocelli::{Device, Tensor};
///
/// // One head of eight elements: the second query sees both keys, which are alike, and takes the mean of the values.
/// let ones = Tensor::from_vec(vec![1f32; 16], &[1, 2, 1, 8], &Device::Cpu)?;
/// let v: Vec<f32> = (0..16).map(|i| (i / 8) as f32).collect();
/// let v = Tensor::from_vec(v, &[1, 2, 1, 8], &Device::Cpu)?;
/// let causal = Attention { causal: true, ..Attention::default() };
/// let qkv = Qkv::Separate { q: &ones, k: &ones, v: &v };
/// let attended = attention(qkv, &AttentionMask::default(), &causal)?;
/// assert_eq!(attended.out.to_vec::<f32>()?, [[0.0; 8], [0.5; 8]].concat());
/// assert_eq!(attended.lse.shape(), [1, 1, 2]);
/// # Ok::<(), ocelli::Error>(())
/// ```
///
/// Source: Vaswani et al., *Attention Is All You Need*, 2017; without stored scores after Dao, *FlashAttention-2*, 2023.
pub fn attention(
    qkv: Qkv<&Tensor>,
    mask: &AttentionMask<'_>,
    params: &Attention,
) -> Result<Attended> {
    let call = Checked::new(qkv, mask, params)?;
    let geometry = &call.geometry;
    let (shape, rows) = (call.out_shape(), call.rows_shape());
    if call.sees_nothing() {
        let lse = vec![f32::NEG_INFINITY; geometry.rows()];
        let out = Tensor::zeros(&shape, call.dtype, &call.device)?;
        return Ok(Attended {
            out,
            lse: Tensor::from_vec(lse, &rows, &call.device)?,
        });
    }
    let first = *qkv.parts()[0];
    on_device!(&call.device,
        cpu => with_float!(OP, "q", first, T => {
            let (mut out, mut lse) = (vec![T::default(); shape.iter().product()], vec![0.0; geometry.rows()]);
            let (qkv, mask) = (slices::<T>(qkv)?, mask_slices::<T>(mask)?);
            cpu::attention::forward(geometry, params, qkv, &mask, &mut out, &mut lse)?;
            Ok(Attended { out: Tensor::from_cpu(out, &shape), lse: Tensor::from_cpu(lse, &rows) })
        }),
        cuda(context) => with_float!(OP, "q", first, T => {
            let (qkv, mask) = (qkv.try_map(Tensor::as_cuda)?, mask_buffers(mask)?);
            let [out, lse] = crate::cuda::attention::forward::run::<T>(context, geometry, params, qkv, &mask)?;
            Ok(Attended { out: Tensor::from_cuda(out, &shape), lse: Tensor::from_cuda(lse, &rows) })
        }),
    )
}

/// The elements of tensors on the CPU.
fn slices<T: Float>(qkv: Qkv<&Tensor>) -> Result<Qkv<&[T]>> {
    qkv.try_map(Tensor::as_slice::<T>)
}

fn mask_slices<'a, T: Float>(mask: &AttentionMask<'a>) -> Result<Mask<&'a [T], &'a [i32]>> {
    let offsets = mask
        .sequences
        .map(|sequences| [sequences.offsets_q, sequences.offsets_k]);
    let offsets = offsets
        .map(|[q, k]| Ok([q.as_slice()?, k.as_slice()?]))
        .transpose()?;
    Ok(Mask {
        bias: mask.bias.map(Tensor::as_slice).transpose()?,
        kv_lengths: mask.kv_lengths.map(Tensor::as_slice).transpose()?,
        offsets,
    })
}

/// The memory of tensors on CUDA.
#[cfg(feature = "cuda")]
fn mask_buffers<'a>(
    mask: &AttentionMask<'a>,
) -> Result<Mask<&'a crate::cuda::Buffer, &'a crate::cuda::Buffer>> {
    let offsets = mask
        .sequences
        .map(|sequences| [sequences.offsets_q, sequences.offsets_k]);
    let offsets = offsets
        .map(|[q, k]| Ok([q.as_cuda()?, k.as_cuda()?]))
        .transpose()?;
    Ok(Mask {
        bias: mask.bias.map(Tensor::as_cuda).transpose()?,
        kv_lengths: mask.kv_lengths.map(Tensor::as_cuda).transpose()?,
        offsets,
    })
}
