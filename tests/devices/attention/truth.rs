//! The exact results.

use super::case::{Case, Form, Operands};
use ocelli::Float;
use ocelli::reference::{self, AttentionInputs, AttentionSequences};

/// Results, or numbers that belong to them, `[tokens, heads, D]` and as the op orders the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub dbias: Vec<f64>,
}

impl Values {
    /// Each with its name and the length of its rows.
    pub fn named(&self, case: &Case) -> [(&'static str, &[f64], usize); 6] {
        [
            ("out", &self.out, case.head_dim),
            ("lse", &self.lse, 1),
            ("dq", &self.dq, case.head_dim),
            ("dk", &self.dk, case.head_dim),
            ("dv", &self.dv, case.head_dim),
            ("dbias", &self.dbias, case.keys.max(1)),
        ]
    }
}

pub fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// The inputs of the reference, for a call of it.
pub fn reference_inputs<T: Float, R>(
    case: &Case,
    operands: &Operands<T>,
    call: impl FnOnce(&AttentionInputs<'_>) -> R,
) -> R {
    let [offsets_q, offsets_k] = case.offsets();
    let lengths = case.kv_lengths();
    let (q, k, v) = (wide(&operands.q), wide(&operands.k), wide(&operands.v));
    let bias = wide(&operands.bias);
    call(&AttentionInputs {
        heads: case.heads,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
        q: &q,
        k: &k,
        v: &v,
        sequences: match case.form {
            Form::Sequences => AttentionSequences::Packed {
                offsets_q: &offsets_q,
                offsets_k: &offsets_k,
                max_queries: case.queries,
                max_keys: case.keys,
            },
            _ => AttentionSequences::Dense {
                batch: case.batch,
                queries: case.queries,
                keys: case.keys,
            },
        },
        kv_lengths: case.has_kv_lengths.then_some(&lengths),
        bias: case.bias_extents().map(|extents| (extents, &bias[..])),
    })
}

/// The reference on inputs of type `T`. A log-sum-exp that is given as no number makes its row what a query of NaN makes
/// it.
pub fn exact<T: Float>(case: &Case, operands: &Operands<T>) -> Values {
    let rule = case.rule();
    let dlse = case.has_dlse.then(|| wide(&operands.dlse));
    let (out, lse) = reference_inputs(case, operands, |inputs| reference::attention(inputs, &rule));
    let mut operands = operands.clone();
    if let Some((row, _)) = operands.given_lse {
        operands.q[case.query_of(row)] = T::from_f32(f32::NAN);
    }
    reference_inputs(case, &operands, |inputs| {
        let dout = wide(&operands.dout);
        let gradient = reference::attention_gradient(inputs, &rule, &dout, dlse.as_deref());
        let reference::AttentionGradient { dq, dk, dv, dbias } = gradient;
        Values {
            out,
            lse,
            dq,
            dk,
            dv,
            dbias,
        }
    })
}
