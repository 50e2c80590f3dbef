//! The gradient of attention.

use super::super::{check, on_device, with_float};
use super::{Attended, AttentionMask, Checked, OP, mask_slices, slices};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{GradientLayouts, Qkv};
use crate::tensor::Tensor;

/// What arrives at the outputs of [`attention`](super::attention), and what is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a> {
    /// Gradient of `out`, in its shape and type.
    pub dout: &'a Tensor,
    /// Gradient of `lse`, in its shape, f32; 0 where there is none.
    pub dlse: Option<&'a Tensor>,
    /// Whether the gradient of the bias is wanted: as much memory as the bias has.
    pub dbias: bool,
}

/// What [`attention_backward`] gives.
#[derive(Debug, Clone)]
pub struct AttentionGradient {
    /// Gradients of queries, keys and values, in the form, shape and type of these.
    pub qkv: Qkv<Tensor>,
    /// Gradient of the bias, in its shape and type, where it is wanted.
    pub dbias: Option<Tensor>,
}

/// The gradient of [`attention`](super::attention), from what that read and gave.
///
/// With `z_ij` what dropout multiplies `p_ij` by (1 without it) and `D_i = dout_i . out_i`,
///
/// ```text
/// dv_j    = sum over i of p_ij * z_ij * dout_i
/// ds_ij   = p_ij * (z_ij * dout_i . v_j - D_i + dlse_i)         which is dbias, summed over the axes it is broadcast on
/// dt_ij   = scale * ds_ij * (1 - tanh^2)                        tanh = 1 without a soft cap's
/// dq_i    = sum over j of dt_ij * k_j
/// dk_j    = sum over i of dt_ij * q_i
/// ```
///
/// Rows that see no key give 0, whatever `dout` and `lse` hold there, and so do rows whose `lse` is `-inf`. Where `lse` is
/// NaN or `+inf` the row's probabilities are NaN, and so is each gradient that it has a part in. A NaN or an infinity
/// reaches those gradients alone that depend on it, as in the forward pass; on a GPU those of a key that holds an infinity
/// may be NaN where the formulas give a number. Sums are in f32 in a fixed order, without atomics: bit-identical from run to run. 16-bit types are
/// rounded once, at the end; on a GPU `p` and `ds` are rounded to the type before they are multiplied.
///
/// `10 * B * H * Nq * Nk * D` operations; no memory grows with `Nq * Nk` but `dbias` itself.
///
/// # Errors
/// As [`attention`](super::attention); an `attended` or `upstream` in other shapes, types or places; `dbias` without a
/// bias.
pub fn attention_backward(
    qkv: Qkv<&Tensor>,
    mask: &AttentionMask<'_>,
    params: &Attention,
    attended: &Attended,
    upstream: &Upstream<'_>,
) -> Result<AttentionGradient> {
    let call = Checked::new(qkv, mask, params)?;
    check_rows(&call, attended, upstream)?;
    let bias = mask.bias.filter(|_| upstream.dbias);
    if upstream.dbias && bias.is_none() {
        return Err(Error::input(
            OP,
            "dbias",
            "false where there is no bias",
            true,
        ));
    }
    if call.sees_nothing() {
        let zeros = |tensor: &Tensor| Tensor::zeros(tensor.shape(), call.dtype, &call.device);
        return Ok(AttentionGradient {
            qkv: qkv.try_map(zeros)?,
            dbias: bias.map(zeros).transpose()?,
        });
    }
    let geometry = &call.geometry;
    let layouts = GradientLayouts {
        dout: geometry.out,
        dq: geometry.q,
        dk: geometry.k,
        dv: geometry.v,
    };
    let first = *qkv.parts()[0];
    on_device!(&call.device,
        cpu => with_float!(OP, "q", first, T => {
            let mut gradients = qkv.try_map(|tensor| Ok(vec![T::default(); tensor.len()]))?;
            let mut dbias = bias.map(|bias| vec![T::default(); bias.len()]);
            let inputs = cpu::attention::Inputs {
                qkv: slices::<T>(qkv)?,
                mask: mask_slices::<T>(mask)?,
                out: attended.out.as_slice()?,
                lse: attended.lse.as_slice()?,
                dout: upstream.dout.as_slice()?,
                dlse: upstream.dlse.map(Tensor::as_slice).transpose()?,
            };
            let views = gradients.each_mut().try_map(|gradient| Ok(gradient.as_mut_slice()))?;
            cpu::attention::backward(geometry, &layouts, params, &inputs, views, dbias.as_deref_mut())?;
            Ok(AttentionGradient {
                qkv: gradients.zip(&qkv, |gradient, like| Tensor::from_cpu(gradient, like.shape())),
                dbias: bias.zip(dbias).map(|(bias, dbias)| Tensor::from_cpu(dbias, bias.shape())),
            })
        }),
        cuda(context) => with_float!(OP, "q", first, T => {
            let rows = crate::cuda::attention::backward::Upstream {
                out: attended.out.as_cuda()?,
                lse: attended.lse.as_cuda()?,
                dout: upstream.dout.as_cuda()?,
                dlse: upstream.dlse.map(Tensor::as_cuda).transpose()?,
            };
            let (buffers, mask) = (qkv.try_map(Tensor::as_cuda)?, super::mask_buffers(mask)?);
            let (gradients, dbias) = crate::cuda::attention::backward::run::<T>(
                context, geometry, &layouts, params, buffers, &mask, &rows, bias.is_some())?;
            Ok(AttentionGradient {
                qkv: gradients.zip(&qkv, |gradient, like| Tensor::from_cuda(gradient, like.shape())),
                dbias: bias.zip(dbias).map(|(bias, dbias)| Tensor::from_cuda(dbias, bias.shape())),
            })
        }),
    )
}

/// Checks what is laid out like the outputs of the forward pass.
fn check_rows(call: &Checked, attended: &Attended, upstream: &Upstream<'_>) -> Result<()> {
    let (shape, rows) = (call.out_shape(), call.rows_shape());
    let tensors = [
        ("out", Some(&attended.out), &shape, call.dtype),
        ("lse", Some(&attended.lse), &rows, DType::F32),
        ("dout", Some(upstream.dout), &shape, call.dtype),
        ("dlse", upstream.dlse, &rows, DType::F32),
    ];
    for (argument, tensor, shape, dtype) in tensors {
        let Some(tensor) = tensor else { continue };
        check::shape(OP, argument, tensor, shape)?;
        check::dtype(OP, argument, tensor, dtype)?;
        check::device(OP, argument, tensor, &call.device)?;
    }
    Ok(())
}
