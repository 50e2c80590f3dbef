//! The gradient of attention.

use super::{Attention, AttentionInputs, bias_index, rows};

/// Gradients in the shapes of what they belong to.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGradient {
    /// Of the queries.
    pub dq: Vec<f64>,
    /// Of the keys.
    pub dk: Vec<f64>,
    /// Of the values.
    pub dv: Vec<f64>,
    /// Of the bias; empty where there is none.
    pub dbias: Vec<f64>,
}

/// The gradient, given that of the output and, where it is used, that of the log-sum-exp.
///
/// With `z` what dropout multiplies `p` by, `dp = z * dout . v` is the gradient of `p`. The softmax's Jacobian gives
/// `ds = p * (dp - sum(p dp) + dlse)`, since the log-sum-exp has slope `p`. The bias takes `ds`; through the soft cap
/// goes `ds * (1 - tanh^2)`, times `scale * k` to the query and `scale * q` to the key; the value takes `p z dout`.
pub fn attention_gradient(
    inputs: &AttentionInputs<'_>,
    rule: &Attention,
    dout: &[f64],
    dlse: Option<&[f64]>,
) -> AttentionGradient {
    let mut gradient = AttentionGradient {
        dq: vec![0.0; inputs.q.len()],
        dk: vec![0.0; inputs.k.len()],
        dv: vec![0.0; inputs.v.len()],
        dbias: vec![0.0; inputs.bias.map_or(0, |(_, bias)| bias.len())],
    };
    for row in rows(inputs, rule) {
        let slope = |element: usize| -> f64 {
            (0..inputs.head_dim)
                .map(|d| dout[row.query + d] * inputs.v[element + d])
                .sum()
        };
        let dp: Vec<f64> = row
            .keys
            .iter()
            .map(|key| key.kept * slope(key.element))
            .collect();
        let mean: f64 = row
            .keys
            .iter()
            .zip(&dp)
            .map(|(key, dp)| key.probability * dp)
            .sum();
        let from_sum = dlse.map_or(0.0, |dlse| dlse[row.index]);
        for (key, dp) in row.keys.iter().zip(&dp) {
            let ds = key.probability * (dp - mean + from_sum);
            if let Some((_, at)) = bias_index(inputs, row.place, key.place) {
                gradient.dbias[at] += ds;
            }
            let through_cap = if rule.softcap == 0.0 {
                1.0
            } else {
                1.0 - (key.raw / rule.softcap).tanh().powi(2)
            };
            let step = rule.scale * ds * through_cap;
            for d in 0..inputs.head_dim {
                let (query, element) = (row.query + d, key.element + d);
                gradient.dq[query] += step * inputs.k[element];
                gradient.dk[element] += step * inputs.q[query];
                gradient.dv[element] += key.probability * key.kept * dout[query];
            }
        }
    }
    gradient
}
