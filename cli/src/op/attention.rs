//! `q [B, Nq, H, D]`, `k`, `v [B, Nk, Hkv, D]`, `bias`, `kv_lengths` and `dout` (optional) to `out`, `lse`, and with `dout`
//! `dq`, `dk`, `dv` and `dbias`.

use super::{Call, Op, Outputs, from_f64, to_f64};
use crate::target::Target;
use anyhow::{Result, bail};
use ocelli::ops::{Attended, AttentionMask, Upstream};
use ocelli::params::{Attention, attention::Qkv};
use ocelli::{DType, Tensor, ops, reference};

pub const OP: Op = Op {
    name: "attention",
    keys: &["scale", "causal", "window_left", "window_right", "softcap"],
    run,
};

/// The tensors of the file.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Option<Tensor>,
    kv_lengths: Option<Tensor>,
    dout: Option<Tensor>,
}

fn run(call: &Call) -> Result<Outputs> {
    let settings = &call.settings;
    let params = Attention {
        scale: settings.optional("scale")?,
        causal: settings.get("causal", false)?,
        window_left: window(call, "window_left")?,
        window_right: window(call, "window_right")?,
        softcap: settings.get("softcap", 0.0)?,
        dropout: None,
    };
    let inputs = Inputs {
        q: call.input("q")?,
        k: call.input("k")?,
        v: call.input("v")?,
        bias: call.optional_input("bias")?,
        kv_lengths: call.optional_input("kv_lengths")?,
        dout: call.optional_input("dout")?,
    };
    // For the reference, too: the op checks the input.
    let outputs = by_op(&inputs, &params)?;
    match call.target {
        Target::Reference => by_reference(&inputs, &params, &outputs),
        Target::Device(_) => Ok(outputs),
    }
}

/// A window of keys; -1 stands for none.
fn window(call: &Call, key: &str) -> Result<Option<usize>> {
    match call.settings.get(key, -1i64)? {
        -1 => Ok(None),
        keys => match usize::try_from(keys) {
            Ok(keys) => Ok(Some(keys)),
            Err(_) => bail!("--set {key}={keys}: must be -1 for none, or at least 0"),
        },
    }
}

fn by_op(inputs: &Inputs, params: &Attention) -> Result<Outputs> {
    let Inputs {
        q,
        k,
        v,
        bias,
        kv_lengths,
        dout,
    } = inputs;
    let qkv = Qkv::Separate { q, k, v };
    let mask = AttentionMask {
        bias: bias.as_ref(),
        kv_lengths: kv_lengths.as_ref(),
        sequences: None,
    };
    let attended = ops::attention(qkv, &mask, params)?;
    let mut outputs = Outputs::new();
    if let Some(dout) = dout {
        let upstream = Upstream {
            dout,
            dlse: None,
            dbias: bias.is_some(),
        };
        let gradient = ops::attention_backward(qkv, &mask, params, &attended, &upstream)?;
        let [dq, dk, dv] = gradient.qkv.parts().map(Tensor::clone);
        outputs.extend([("dq".into(), dq), ("dk".into(), dk), ("dv".into(), dv)]);
        outputs.extend(gradient.dbias.map(|dbias| ("dbias".into(), dbias)));
    }
    let Attended { out, lse } = attended;
    outputs.extend([("out".into(), out), ("lse".into(), lse)]);
    Ok(outputs)
}

/// The results of the reference in the shapes of those of the op.
fn by_reference(inputs: &Inputs, params: &Attention, like: &Outputs) -> Result<Outputs> {
    let Inputs {
        q,
        k,
        v,
        bias,
        kv_lengths,
        dout,
    } = inputs;
    let &[batch, queries, heads, head_dim] = q.shape() else {
        bail!("attention: q must be [B, Nq, H, D]")
    };
    let (keys, kv_heads) = (k.shape()[1], k.shape()[2]);
    let values = [to_f64(q)?, to_f64(k)?, to_f64(v)?];
    let lengths = kv_lengths.as_ref().map(Tensor::to_vec::<i32>).transpose()?;
    let bias = bias
        .as_ref()
        .map(|bias| Ok::<_, anyhow::Error>(([bias.shape()[0], bias.shape()[1]], to_f64(bias)?)));
    let bias = bias.transpose()?;
    let problem = reference::AttentionInputs {
        heads,
        kv_heads,
        head_dim,
        q: &values[0],
        k: &values[1],
        v: &values[2],
        sequences: reference::AttentionSequences::Dense {
            batch,
            queries,
            keys,
        },
        kv_lengths: lengths.as_deref(),
        bias: bias
            .as_ref()
            .map(|(extents, values)| (*extents, &values[..])),
    };
    let rule = reference::Attention {
        scale: params
            .scale
            .unwrap_or((head_dim as f32).sqrt().recip())
            .into(),
        causal: params.causal,
        window_left: params.window_left,
        window_right: params.window_right,
        softcap: params.softcap.into(),
        dropout: None,
    };
    let (out, lse) = reference::attention(&problem, &rule);
    let mut results = vec![("out", out), ("lse", lse)];
    if let Some(dout) = dout {
        let gradient = reference::attention_gradient(&problem, &rule, &to_f64(dout)?, None);
        results.extend([
            ("dq", gradient.dq),
            ("dk", gradient.dk),
            ("dv", gradient.dv),
            ("dbias", gradient.dbias),
        ]);
    }
    let in_shape = results.into_iter().filter_map(|(name, values)| {
        let like = like.get(name)?;
        let dtype = if name == "lse" { DType::F32 } else { q.dtype() };
        Some(from_f64(&values, like.shape(), dtype).map(|tensor| (name.to_owned(), tensor)))
    });
    in_shape.collect()
}
