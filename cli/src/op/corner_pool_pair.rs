//! `vertical`, `horizontal [B, H, W, C]`, `dout` (optional) to `out`, and `dvertical` and `dhorizontal`
//! where there is `dout`.

use super::corner_pool::{reference_gradient, reference_pool};
use super::{Call, Op, Outputs, from_f64, required, to_f64};
use crate::target::Target;
use anyhow::Result;
use ocelli::params::{Corner, Layout};
use ocelli::{Tensor, ops};

pub const OP: Op = Op {
    name: "corner_pool_pair",
    keys: &["corner"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let corner: Corner = required(&call.settings, "corner")?;
    let (vertical, horizontal) = (call.input("vertical")?, call.input("horizontal")?);
    let upstream = call.optional_input("dout")?;
    let layout = Layout::ChannelsLast;
    // For the reference, too: the op checks the input.
    let (mut sum, bits) = ops::corner_pool_pair_with_bits(&vertical, &horizontal, corner, layout)?;
    let mut gradients = upstream
        .as_ref()
        .map(|upstream| ops::corner_pool_pair_backward(upstream, &bits, corner, layout))
        .transpose()?;
    if matches!(call.target, Target::Reference) {
        sum = reference_sum(&vertical, &horizontal, corner)?;
        gradients = match upstream {
            Some(upstream) => Some((
                reference_gradient(&vertical, &upstream, corner.vertical())?,
                reference_gradient(&horizontal, &upstream, corner.horizontal())?,
            )),
            None => None,
        };
    }
    let mut outputs = Outputs::from([("out".into(), sum)]);
    if let Some((vertical, horizontal)) = gradients {
        outputs.insert("dvertical".into(), vertical);
        outputs.insert("dhorizontal".into(), horizontal);
    }
    Ok(outputs)
}

fn reference_sum(vertical: &Tensor, horizontal: &Tensor, corner: Corner) -> Result<Tensor> {
    let down = to_f64(&reference_pool(vertical, corner.vertical())?)?;
    let across = to_f64(&reference_pool(horizontal, corner.horizontal())?)?;
    let sum: Vec<f64> = down.iter().zip(&across).map(|(a, b)| a + b).collect();
    from_f64(&sum, vertical.shape(), vertical.dtype())
}
