//! Sigmoid focal loss.

use super::{check, on_device, with_float};
use crate::cpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::SigmoidFocalLoss;
use crate::tensor::{ShapeText, Tensor};

const OP: &str = "sigmoid_focal_loss";
/// Labels are `i32`, and the kernel numbers the elements of 8 rows in 31 bits.
const MAX_CLASSES: usize = 1 << 27;

/// Focal loss of independent classes, summed over all anchors and divided by a normalizer.
///
/// For a logit `x` and its class's label `y` in {0, 1}, with `p = sigmoid(x)` for `y = 0` and `1 -
/// sigmoid(x)` for `y = 1` (the probability of the wrong answer), the loss is
///
/// ```text
/// FL = w * p^gamma * -ln(1 - p),    w = alpha if y = 1, else 1 - alpha
/// ```
///
/// | argument | shape | type |
/// |---|---|---|
/// | `logits` | `[R, K]`, or any with `R * K` elements and `K` last | f32, f16, bf16 |
/// | `labels` | `[R]`, or the leading extents of `logits` | i32 |
/// | returned loss | `[1]` | f32 |
///
/// A label in `0..K` makes that class the positive one, -1 makes the whole row negative
/// (background), and **any other** leaves the row out: it adds nothing, even where it holds NaN.
///
/// `-ln(1 - p)` is computed as a softplus, exact in both tails; an infinite logit gives the limit
/// (0 or infinity; with label smoothing, something not finite), NaN gives NaN. Arithmetic is in
/// f32, the sum in f64 in a fixed order: the same on every run.
///
/// The logits are read once: `R * K` elements and `R` labels are all that is moved.
///
/// Source: Lin et al., *Focal Loss for Dense Object Detection*, 2017, equation 5; label smoothing
/// as in NVIDIA's apex. Unlike torchvision's function it takes labels, not a one-hot tensor.
///
/// # Errors
/// [`Error::Input`] when shapes, types, devices or scalars do not fit; the environment family from
/// the device.
pub fn sigmoid_focal_loss(
    logits: &Tensor,
    labels: &Tensor,
    params: &SigmoidFocalLoss,
) -> Result<Tensor> {
    let classes = checked(logits, labels, params)?;
    on_device!(&logits.device(),
        cpu => with_float!(OP, "logits", logits, T => {
            let (logits, labels) = (logits.as_slice::<T>()?, labels.as_slice()?);
            let loss = cpu::sigmoid_focal_loss::forward(logits, labels, classes, params)?;
            Ok(Tensor::from_cpu(vec![loss], &[1]))
        }),
        cuda(context) => with_float!(OP, "logits", logits, T => {
            let loss = crate::cuda::sigmoid_focal_loss::forward::<T>(
                context, logits.as_cuda()?, labels.as_cuda()?, classes, params)?;
            Ok(Tensor::from_cuda(loss, &[1]))
        }),
    )
}

/// [`sigmoid_focal_loss`] and its gradient with respect to `logits`, in one pass over them.
///
/// The gradient has the shape and type of `logits` and is multiplied by `upstream`, a `[1]` tensor
/// of f32 on the same device (1 where it is `None`); the returned loss is not. `upstream` is read
/// by the device alone, so nothing waits for it.
///
/// `R * K` elements are read and written.
///
/// # Errors
/// As [`sigmoid_focal_loss`].
pub fn sigmoid_focal_loss_with_gradient(
    logits: &Tensor,
    labels: &Tensor,
    upstream: Option<&Tensor>,
    params: &SigmoidFocalLoss,
) -> Result<(Tensor, Tensor)> {
    let classes = checked(logits, labels, params)?;
    let device = logits.device();
    if let Some(upstream) = upstream {
        check::device(OP, "upstream", upstream, &device)?;
        check::dtype(OP, "upstream", upstream, DType::F32)?;
        check::shape(OP, "upstream", upstream, &[1])?;
    }
    on_device!(&device,
        cpu => with_float!(OP, "logits", logits, T => {
            let scale = upstream.map_or(Ok(1.0), |scalar| Ok(scalar.as_slice::<f32>()?[0]))?;
            let mut gradient = vec![T::default(); logits.len()];
            let loss = cpu::sigmoid_focal_loss::forward_backward(
                logits.as_slice::<T>()?, labels.as_slice()?, classes, params, scale, &mut gradient)?;
            Ok((Tensor::from_cpu(vec![loss], &[1]), Tensor::from_cpu(gradient, logits.shape())))
        }),
        cuda(context) => with_float!(OP, "logits", logits, T => {
            let upstream = upstream.map(Tensor::as_cuda).transpose()?;
            let (loss, gradient) = crate::cuda::sigmoid_focal_loss::forward_backward::<T>(
                context, logits.as_cuda()?, labels.as_cuda()?, classes, params, upstream)?;
            Ok((Tensor::from_cuda(loss, &[1]), Tensor::from_cuda(gradient, logits.shape())))
        }),
    )
}

/// Checks what both forms share and returns the number of classes.
fn checked(logits: &Tensor, labels: &Tensor, params: &SigmoidFocalLoss) -> Result<usize> {
    params.check()?;
    let Some((&classes, rows)) = logits.shape().split_last() else {
        return Err(Error::input(
            OP,
            "logits",
            "[.., K]",
            ShapeText(logits.shape()),
        ));
    };
    check::dtype(OP, "labels", labels, DType::I32)?;
    check::device(OP, "labels", labels, &logits.device())?;
    let flat = rows.iter().product::<usize>();
    if labels.shape() != rows && labels.shape() != [flat] {
        let rule = match rows {
            [_] => format!("[{flat}]"),
            _ => format!("{} or [{flat}]", ShapeText(rows)),
        };
        return Err(Error::input(OP, "labels", rule, ShapeText(labels.shape())));
    }
    if classes > MAX_CLASSES {
        return Err(Error::input(
            OP,
            "logits",
            format!("[.., K] with K <= {MAX_CLASSES}"),
            classes,
        ));
    }
    Ok(classes)
}
