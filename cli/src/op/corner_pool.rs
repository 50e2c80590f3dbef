//! `x [B, H, W, C]`, `dout` (optional) to `out`, and `dx` where there is `dout`.

use super::{Call, Op, Outputs, from_f64, required, to_f64};
use crate::target::Target;
use anyhow::Result;
use ocelli::params::{Direction, Layout};
use ocelli::{Tensor, ops, reference};

pub const OP: Op = Op {
    name: "corner_pool",
    keys: &["direction"],
    run,
};

fn run(call: &Call) -> Result<Outputs> {
    let direction: Direction = required(&call.settings, "direction")?;
    let map = call.input("x")?;
    let upstream = call.optional_input("dout")?;
    let layout = Layout::ChannelsLast;
    // For the reference, too: the op checks the input.
    let (mut pooled, bits) = ops::corner_pool_with_bits(&map, direction, layout)?;
    let mut gradient = upstream
        .as_ref()
        .map(|upstream| ops::corner_pool_backward(upstream, &bits, direction, layout))
        .transpose()?;
    if matches!(call.target, Target::Reference) {
        pooled = reference_pool(&map, direction)?;
        gradient = upstream
            .map(|upstream| reference_gradient(&map, &upstream, direction))
            .transpose()?;
    }
    let mut outputs = Outputs::from([("out".into(), pooled)]);
    outputs.extend(gradient.map(|gradient| ("dx".into(), gradient)));
    Ok(outputs)
}

/// The lines of a `[B, H, W, C]` map.
fn lines(map: &Tensor, direction: Direction) -> Result<reference::Lines> {
    Ok(reference::Lines {
        shape: map.shape().try_into()?,
        axis: if direction.is_vertical() { 1 } else { 2 },
        from_end: direction.from_end(),
    })
}

/// The pool of a `[B, H, W, C]` map by the definition.
pub(super) fn reference_pool(map: &Tensor, direction: Direction) -> Result<Tensor> {
    let pooled = reference::corner_pool(&to_f64(map)?, &lines(map, direction)?);
    from_f64(&pooled, map.shape(), map.dtype())
}

/// Its gradient by the definition.
pub(super) fn reference_gradient(
    map: &Tensor,
    upstream: &Tensor,
    direction: Direction,
) -> Result<Tensor> {
    let lines = lines(map, direction)?;
    let gradient = reference::corner_pool_gradient(&to_f64(map)?, &to_f64(upstream)?, &lines);
    from_f64(&gradient, upstream.shape(), upstream.dtype())
}
