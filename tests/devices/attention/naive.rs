//! The results of a naive implementation, and how far a result may lie from the exact one.

use super::case::{Case, Form, Operands};
use super::truth::Values;
use ocelli::reference;
use ocelli::testing::budget::Budget;
use ocelli::{DType, Float};

/// One sequence of a case: first query, queries, first key, keys, keys that may be seen.
pub struct Sequence([usize; 5]);

pub fn sequences(case: &Case) -> Vec<Sequence> {
    let [offsets_q, offsets_k] = case.offsets();
    let lengths = case.kv_lengths();
    let bounds = |offsets: &[i32], b: usize, tokens: usize, longest: usize| {
        let at = |b: usize| (offsets[..=b].iter().fold(0, |a, &x| a.max(x)) as usize).min(tokens);
        (at(b), (at(b + 1) - at(b)).min(longest))
    };
    let [tokens_q, tokens_k] = case.tokens();
    let sequence = |b: usize| {
        let ((first_q, queries), (first_k, keys)) = match case.form {
            Form::Sequences => (
                bounds(&offsets_q, b, tokens_q, case.queries),
                bounds(&offsets_k, b, tokens_k, case.keys),
            ),
            _ => ((b * case.queries, case.queries), (b * case.keys, case.keys)),
        };
        let seen = if case.has_kv_lengths {
            (lengths[b].max(0) as usize).min(keys)
        } else {
            keys
        };
        Sequence([first_q, queries, first_k, keys, seen])
    };
    (0..case.batch).map(sequence).collect()
}

/// What an implementation does that stores every intermediate result as `T`, and beside it the parts of each result that
/// say how much of it rounding may take.
pub struct Naive {
    pub values: Values,
    /// Root of the sum of the squared terms of each result: roundings of the terms to `T` add up like this.
    spread: Values,
    /// Sum of the terms without their signs, each with what its score's own terms add: what roundings to f32 take.
    terms: Values,
}

/// Terms of the score of query `i` and key `j` of a head without their signs, and 1; 0 where the
/// sequence has no such query or key.
pub fn score_size<T: Float>(
    case: &Case,
    operands: &Operands<T>,
    [b, h, i, j]: [usize; 4],
    sequence: &Sequence,
) -> f64 {
    let &Sequence([first_q, queries, first_k, keys, _]) = sequence;
    if i >= queries || j >= keys {
        return 0.0;
    }
    let (dim, kv_head) = (case.head_dim, h / (case.heads / case.kv_heads));
    let query = &operands.q[((first_q + i) * case.heads + h) * dim..][..dim];
    let key = &operands.k[((first_k + j) * case.kv_heads + kv_head) * dim..][..dim];
    let products = query.iter().zip(key);
    let size: f64 = products
        .map(|(x, y)| f64::from((x.to_f32() * y.to_f32()).abs()))
        .sum();
    let bias = case.bias_at([b, h, i, j]);
    let bias = bias.map_or(0.0, |at| f64::from(operands.bias[at].to_f32().abs()));
    1.0 + case.rule().scale * size + bias
}

impl Naive {
    pub fn new<T: Float>(case: &Case, operands: &Operands<T>) -> Self {
        let zeros = || Values {
            out: vec![0.0; operands.q.len()],
            lse: vec![f64::NEG_INFINITY; case.rows()],
            dq: vec![0.0; operands.q.len()],
            dk: vec![0.0; operands.k.len()],
            dv: vec![0.0; operands.v.len()],
            dbias: vec![0.0; operands.bias.len()],
        };
        let mut naive = Self {
            values: zeros(),
            spread: zeros(),
            terms: zeros(),
        };
        for (b, sequence) in sequences(case).iter().enumerate() {
            for h in 0..case.heads {
                (0..sequence.0[1]).for_each(|i| naive.row(case, operands, [b, h, i], sequence));
            }
        }
        let roots = &mut naive.spread;
        for squares in [
            &mut roots.out,
            &mut roots.dq,
            &mut roots.dk,
            &mut roots.dv,
            &mut roots.dbias,
        ] {
            squares.iter_mut().for_each(|x| *x = x.sqrt());
        }
        for results in [
            &mut naive.values.out,
            &mut naive.values.dq,
            &mut naive.values.dk,
        ] {
            results
                .iter_mut()
                .for_each(|x| *x = round::<T>(*x as f32).into());
        }
        for results in [&mut naive.values.dv, &mut naive.values.dbias] {
            results
                .iter_mut()
                .for_each(|x| *x = round::<T>(*x as f32).into());
        }
        naive
    }

    fn row<T: Float>(
        &mut self,
        case: &Case,
        operands: &Operands<T>,
        [b, h, i]: [usize; 3],
        sequence: &Sequence,
    ) {
        let &Sequence([first_q, queries, first_k, keys, seen]) = sequence;
        let (dim, rule) = (case.head_dim, case.rule());
        let query = ((first_q + i) * case.heads + h) * dim;
        let kv_head = h / (case.heads / case.kv_heads);
        let place = i as i64 + keys as i64 - queries as i64;
        let visible = |j: usize| {
            let j = j as i64;
            (!rule.causal || j <= place)
                && rule.window_left.is_none_or(|left| j >= place - left as i64)
                && rule
                    .window_right
                    .is_none_or(|right| j <= place + right as i64)
        };
        let places: Vec<usize> = (0..seen).filter(|&j| visible(j)).collect();
        let size = |j| score_size(case, operands, [b, h, i, j], sequence);
        let dot = |a: &[T], b: &[T]| -> (f32, f64) {
            let products = || a.iter().zip(b).map(|(x, y)| x.to_f32() * y.to_f32());
            (
                products().sum(),
                products().map(|x| f64::from(x.abs())).sum(),
            )
        };
        let scale = rule.scale as f32;
        let cap = case.params.softcap;
        let mut pairs: Vec<Pair> = Vec::new();
        for j in places {
            let key = ((first_k + j) * case.kv_heads + kv_head) * dim;
            let (product, _) = dot(&operands.q[query..][..dim], &operands.k[key..][..dim]);
            let raw = round::<T>(scale * product);
            let capped = if cap == 0.0 {
                raw
            } else {
                round::<T>(cap * (raw / cap).tanh())
            };
            let bias_at = case.bias_at([b, h, i, j]);
            let bias = bias_at.map_or(0.0, |at| operands.bias[at].to_f32());
            let (dp, dp_size) = dot(&operands.dout[query..][..dim], &operands.v[key..][..dim]);
            let kept = kept(case, b * case.heads + h, i, j);
            pairs.push(Pair {
                key,
                bias_at,
                score: round::<T>(capped + bias),
                score_size: size(j),
                // Where the naive slope has lost all its digits, the gradient's terms still have a size.
                slope_size: match cap {
                    0.0 => 1.0,
                    _ => f64::from(raw / cap).cosh().powi(-2),
                },
                slope: if cap == 0.0 {
                    1.0
                } else {
                    1.0 - (raw / cap).tanh().powi(2)
                },
                kept,
                p: 0.0,
                dp: round::<T>(kept * dp),
                dp_size: f64::from(kept) * dp_size,
            });
        }
        // Hidden by the bias: as if it were not there.
        pairs.retain(|pair| pair.score != f32::NEG_INFINITY);
        if pairs.is_empty() {
            return;
        }
        let greatest = pairs
            .iter()
            .map(|pair| pair.score)
            .fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = pairs.iter().map(|pair| (pair.score - greatest).exp()).sum();
        pairs
            .iter_mut()
            .for_each(|pair| pair.p = round::<T>((pair.score - greatest).exp() / sum));
        let row = match case.form {
            Form::Sequences => h * case.tokens()[0] + first_q + i,
            _ => (b * case.heads + h) * case.queries + i,
        };
        self.values.lse[row] = f64::from(greatest + sum.ln());
        self.spread.lse[row] = 0.0;
        self.terms.lse[row] = pairs
            .iter()
            .map(|pair| f64::from(pair.p) * pair.score_size)
            .sum();
        let dlse = if case.has_dlse {
            operands.dlse[row]
        } else {
            0.0
        };
        self.outputs::<T>(operands, query, dim, &pairs);
        self.gradients::<T>(operands, query, dim, &pairs, (scale, dlse));
    }

    fn outputs<T: Float>(
        &mut self,
        operands: &Operands<T>,
        query: usize,
        dim: usize,
        pairs: &[Pair],
    ) {
        for pair in pairs {
            let weight = round::<T>(pair.p * pair.kept);
            for d in 0..dim {
                let term = f64::from(weight * operands.v[pair.key + d].to_f32());
                self.add(
                    |v| &mut v.out,
                    query + d,
                    term,
                    term.abs() * pair.score_size,
                );
                let term = f64::from(weight * operands.dout[query + d].to_f32());
                self.add(
                    |v| &mut v.dv,
                    pair.key + d,
                    term,
                    term.abs() * pair.score_size,
                );
            }
        }
    }

    fn gradients<T: Float>(
        &mut self,
        operands: &Operands<T>,
        query: usize,
        dim: usize,
        pairs: &[Pair],
        (scale, dlse): (f32, f32),
    ) {
        let mean: f32 = round::<T>(pairs.iter().map(|pair| pair.p * pair.dp).sum());
        let mean_size: f64 = pairs
            .iter()
            .map(|pair| f64::from(pair.p) * pair.dp_size)
            .sum();
        // `dout . out` is of an output that was rounded to `T`, one error for all pairs of the row.
        let of_out: f64 = (0..dim)
            .map(|d| f64::from(operands.dout[query + d].to_f32()) * self.values.out[query + d])
            .map(|term| term * term)
            .sum::<f64>()
            .sqrt();
        let mut common = vec![0.0; dim];
        for pair in pairs {
            let p = f64::from(pair.p);
            let ds = round::<T>(pair.p * (pair.dp - mean + dlse));
            let size = p * (pair.dp_size + mean_size + f64::from(dlse.abs())) * pair.score_size;
            if let Some(at) = pair.bias_at {
                self.add(|v| &mut v.dbias, at, ds.into(), size);
                self.spread.dbias[at] += (p * of_out).powi(2);
            }
            let step = round::<T>(ds * pair.slope) * scale;
            let slope = f64::from(scale).abs() * pair.slope_size;
            for (d, common) in common.iter_mut().enumerate() {
                let (q, k) = (
                    operands.q[query + d].to_f32(),
                    operands.k[pair.key + d].to_f32(),
                );
                self.add(
                    |v| &mut v.dq,
                    query + d,
                    f64::from(step * k),
                    slope * size * f64::from(k.abs()),
                );
                self.add(
                    |v| &mut v.dk,
                    pair.key + d,
                    f64::from(step * q),
                    slope * size * f64::from(q.abs()),
                );
                self.spread.dk[pair.key + d] += (slope * p * of_out * f64::from(q)).powi(2);
                *common += slope * p * of_out * f64::from(k);
            }
        }
        for (d, common) in common.into_iter().enumerate() {
            self.spread.dq[query + d] += common * common;
        }
    }

    /// Adds a term to a result, and to what rounding may take of it.
    fn add(&mut self, of: impl Fn(&mut Values) -> &mut Vec<f64>, at: usize, term: f64, size: f64) {
        of(&mut self.values)[at] += term;
        of(&mut self.spread)[at] += term * term;
        of(&mut self.terms)[at] += size;
    }

    /// The budget of each result: twice the naive error, of the worst element of the row; a unit of `T` of the result
    /// and of its terms' spread; and 16 units of f32 of its terms.
    pub fn budgets<T: Float>(&self, case: &Case, exact: &Values) -> [Budget; 6] {
        let (values, spread, terms) = (
            self.values.named(case),
            self.spread.named(case),
            self.terms.named(case),
        );
        let exact = exact.named(case);
        std::array::from_fn(|part| {
            let ((name, exact, row), naive) = (exact[part], values[part].1);
            let dtype = if name == "lse" { DType::F32 } else { T::DTYPE };
            let unit = 16.0 * f64::from(f32::EPSILON);
            let relative = match dtype {
                DType::F16 => half::f16::EPSILON.to_f64(),
                DType::BF16 => half::bf16::EPSILON.to_f64(),
                _ => unit,
            };
            let size = |at: usize| {
                exact[at].abs() + spread[part].1[at] + unit / relative * terms[part].1[at]
            };
            let sizes: Vec<f64> = (0..exact.len())
                .map(|at| if exact[at].is_finite() { size(at) } else { 0.0 })
                .collect();
            let errors = exact
                .chunks(row)
                .zip(naive.chunks(row))
                .flat_map(|(exact, naive)| {
                    let errors = exact
                        .iter()
                        .zip(naive)
                        .map(|(exact, naive)| (naive - exact).abs());
                    let worst = errors.filter(|error| error.is_finite()).fold(0.0, f64::max);
                    std::iter::repeat_n(worst, exact.len())
                });
            let example: Vec<f64> = exact
                .iter()
                .zip(errors)
                .map(|(exact, error)| exact + error)
                .collect();
            Budget::of_sums(exact, &sizes, &example, dtype)
        })
    }
}

/// A query and a key that it sees.
struct Pair {
    /// First element of the key and of its value.
    key: usize,
    bias_at: Option<usize>,
    score: f32,
    /// Terms of the score without their signs, and 1.
    score_size: f64,
    /// Of the soft cap.
    slope: f32,
    /// The same with all its digits.
    slope_size: f64,
    kept: f32,
    p: f32,
    dp: f32,
    dp_size: f64,
}

fn round<T: Float>(x: f32) -> f32 {
    T::from_f32(x).to_f32()
}

fn kept(case: &Case, head: usize, i: usize, j: usize) -> f32 {
    let Some(dropout) = case.params.dropout else {
        return 1.0;
    };
    let key = [dropout.seed as u32, (dropout.seed >> 32) as u32];
    let word = reference::philox4x32([(j / 4) as u32, i as u32, head as u32, 0], key)[j % 4];
    let threshold = (f64::from(dropout.probability) * 2f64.powi(32)).floor();
    if f64::from(word) < threshold {
        0.0
    } else {
        1.0 / (1.0 - dropout.probability)
    }
}
