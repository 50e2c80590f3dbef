//! Scaled dot-product attention (Vaswani et al., "Attention Is All You Need", 2017, equation 1).

mod gradient;
mod philox;
#[cfg(test)]
mod tests;

pub use gradient::{AttentionGradient, attention_gradient};
pub use philox::philox4x32;

use std::ops::Range;

/// Scalars of attention.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attention {
    /// Multiplies `q . k`.
    pub scale: f64,
    /// Whether a query sees no key behind its own place.
    pub causal: bool,
    /// How many keys before its own place a query sees, where given.
    pub window_left: Option<usize>,
    /// How many keys behind its own place a query sees, where given.
    pub window_right: Option<usize>,
    /// `cap` of the soft cap `cap * tanh(score / cap)`; 0 for none.
    pub softcap: f64,
    /// How likely a probability is dropped, and the seed, where given.
    pub dropout: Option<(f64, u64)>,
}

/// Which tokens belong together.
#[derive(Debug, Clone, Copy)]
pub enum AttentionSequences<'a> {
    /// Sequences of one length.
    Dense {
        /// Number of sequences.
        batch: usize,
        /// Queries of each.
        queries: usize,
        /// Keys of each.
        keys: usize,
    },
    /// Sequences one behind another. Offset `b` stands for `clamp(max(offsets[..=b]), 0, T)` of `T` tokens, and a
    /// sequence reaches from its offset to the next, but no further than the longest allowed.
    Packed {
        /// First query of each sequence, and the end of the last.
        offsets_q: &'a [i32],
        /// First key of each sequence, and the end of the last.
        offsets_k: &'a [i32],
        /// Most queries of a sequence.
        max_queries: usize,
        /// Most keys of a sequence.
        max_keys: usize,
    },
}

/// What attention reads. Tokens are `[T, heads, D]`, where the sequences of a batch follow each other.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Queries.
    pub q: &'a [f64],
    /// Keys.
    pub k: &'a [f64],
    /// Values.
    pub v: &'a [f64],
    /// Which tokens belong together.
    pub sequences: AttentionSequences<'a>,
    /// Keys of each sequence, clamped to those that it has.
    pub kv_lengths: Option<&'a [i32]>,
    /// Added to the scores of dense sequences: its first two extents, each 1 or that of the scores, and `[B or 1, H or
    /// 1, queries, keys]`.
    pub bias: Option<([usize; 2], &'a [f64])>,
}

/// Tokens of a sequence.
struct Sequence {
    queries: Range<usize>,
    keys: Range<usize>,
    /// Keys of it that may be seen.
    kv_length: usize,
}

/// The keys that one query may see, with their scores and probabilities.
struct Row {
    /// Sequence, head, and query within the sequence.
    place: [usize; 3],
    /// First element of the query.
    query: usize,
    /// Where the row lies among those of the log-sum-exp.
    index: usize,
    keys: Vec<Key>,
    log_sum_exp: f64,
}

struct Key {
    /// Place within the sequence.
    place: usize,
    /// First element of the key and of its value.
    element: usize,
    /// Score before the soft cap.
    raw: f64,
    probability: f64,
    /// What dropout multiplies the probability by: 0, or the reciprocal of the share that it keeps.
    kept: f64,
}

/// Output `[Tq, heads, D]` and log-sum-exp, `[B, heads, queries]` of dense sequences, `[heads, Tq]` of packed ones.
///
/// With `s = cap * tanh(scale * q . k / cap) + bias` over the keys that the query may see, the probabilities are `p =
/// exp(s) / sum(exp(s))`, the output is the sum of `p v`, and the log-sum-exp `ln(sum(exp(s)))`. Query `i` stands at
/// place `i + keys - queries`, both numbers those of its own sequence: causal rows and windows align to the bottom right.
/// A query that sees no key, or only scores of `-inf`, has output 0 and log-sum-exp `-inf`; one that sees a score of NaN or
/// `+inf` has both NaN, and its probabilities, since `exp(inf - inf)` is.
pub fn attention(inputs: &AttentionInputs<'_>, rule: &Attention) -> (Vec<f64>, Vec<f64>) {
    let mut out = vec![0.0; inputs.q.len()];
    let mut log_sum_exp = vec![f64::NEG_INFINITY; inputs.q.len() / inputs.head_dim];
    for row in rows(inputs, rule) {
        log_sum_exp[row.index] = row.log_sum_exp;
        for key in &row.keys {
            for d in 0..inputs.head_dim {
                out[row.query + d] += key.probability * key.kept * inputs.v[key.element + d];
            }
        }
    }
    (out, log_sum_exp)
}

/// Probabilities `[B, heads, R, keys]` of the queries `rows` (places within each sequence; one that is none has zeros),
/// before dropout. `keys` is that of dense sequences, or the most keys of packed ones.
pub fn attention_probabilities(
    inputs: &AttentionInputs<'_>,
    rule: &Attention,
    places: &[i32],
) -> Vec<f64> {
    let (batch, keys) = match inputs.sequences {
        AttentionSequences::Dense { batch, keys, .. } => (batch, keys),
        AttentionSequences::Packed {
            offsets_q,
            max_keys,
            ..
        } => (offsets_q.len() - 1, max_keys),
    };
    let mut probabilities = vec![0.0; batch * inputs.heads * places.len() * keys];
    for row in rows(inputs, rule) {
        let [sequence, head, query] = row.place;
        for (r, _) in places
            .iter()
            .enumerate()
            .filter(|&(_, &place)| place as i64 == query as i64)
        {
            let start = ((sequence * inputs.heads + head) * places.len() + r) * keys;
            for key in &row.keys {
                probabilities[start + key.place] = key.probability;
            }
        }
    }
    probabilities
}

/// Every query of every head.
fn rows<'a>(
    inputs: &'a AttentionInputs<'_>,
    rule: &'a Attention,
) -> impl Iterator<Item = Row> + 'a {
    let places = sequences(inputs)
        .into_iter()
        .enumerate()
        .flat_map(move |(b, sequence)| {
            let queries = sequence.queries.len();
            let sequence = std::rc::Rc::new(sequence);
            (0..inputs.heads)
                .flat_map(move |h| (0..queries).map(move |i| [b, h, i]))
                .map(move |place| (place, sequence.clone()))
        });
    places.map(move |(place, sequence)| row(inputs, rule, place, &sequence))
}

/// The softmax of one query in two passes: the greatest score, then the sum.
fn row(
    inputs: &AttentionInputs<'_>,
    rule: &Attention,
    place: [usize; 3],
    sequence: &Sequence,
) -> Row {
    let [b, h, i] = place;
    let (d, token) = (inputs.head_dim, sequence.queries.start + i);
    let query = (token * inputs.heads + h) * d;
    let kv_head = h / (inputs.heads / inputs.kv_heads);
    let mut keys = Vec::new();
    let mut scores = Vec::new();
    for j in (0..sequence.keys.len()).filter(|&j| allowed(rule, sequence, i, j)) {
        let element = ((sequence.keys.start + j) * inputs.kv_heads + kv_head) * d;
        let dot: f64 = (0..d)
            .map(|c| inputs.q[query + c] * inputs.k[element + c])
            .sum();
        let raw = rule.scale * dot;
        let capped = if rule.softcap == 0.0 {
            raw
        } else {
            rule.softcap * (raw / rule.softcap).tanh()
        };
        scores.push(capped + bias(inputs, place, j));
        let kept = kept(rule, b * inputs.heads + h, i, j);
        keys.push(Key {
            place: j,
            element,
            raw,
            probability: 0.0,
            kept,
        });
    }
    let index = match inputs.sequences {
        AttentionSequences::Dense { queries, .. } => (b * inputs.heads + h) * queries + i,
        AttentionSequences::Packed { .. } => h * (inputs.q.len() / (inputs.heads * d)) + token,
    };
    let mut row = Row {
        place,
        query,
        index,
        keys,
        log_sum_exp: f64::NEG_INFINITY,
    };
    // `f64::max` passes NaN over: a NaN score makes the sum NaN.
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY && !scores.iter().any(|score| score.is_nan()) {
        row.keys.clear();
        return row;
    }
    let sum: f64 = scores.iter().map(|score| (score - greatest).exp()).sum();
    for (key, score) in row.keys.iter_mut().zip(&scores) {
        key.probability = (score - greatest).exp() / sum;
    }
    row.log_sum_exp = greatest + sum.ln();
    row
}

/// Whether query `i` of a sequence may see its key `j`.
fn allowed(rule: &Attention, sequence: &Sequence, i: usize, j: usize) -> bool {
    let (i, j) = (i as i64, j as i64);
    let place = i + sequence.keys.len() as i64 - sequence.queries.len() as i64;
    j < sequence.kv_length as i64
        && (!rule.causal || j <= place)
        && rule
            .window_right
            .is_none_or(|right| j <= place.saturating_add_unsigned(right as u64))
        && rule
            .window_left
            .is_none_or(|left| j >= place.saturating_sub_unsigned(left as u64))
}

fn bias(inputs: &AttentionInputs<'_>, place: [usize; 3], j: usize) -> f64 {
    bias_index(inputs, place, j).map_or(0.0, |(bias, at)| bias[at])
}

/// The bias and the place in it of query `i` and key `j`.
fn bias_index<'a>(
    inputs: &AttentionInputs<'a>,
    [b, h, i]: [usize; 3],
    j: usize,
) -> Option<(&'a [f64], usize)> {
    let AttentionSequences::Dense { queries, keys, .. } = inputs.sequences else {
        return None;
    };
    let ([batch, heads], bias) = inputs.bias?;
    let (b, h) = (b.min(batch - 1), h.min(heads - 1));
    Some((bias, ((b * heads + h) * queries + i) * keys + j))
}

/// What dropout multiplies a probability by.
fn kept(rule: &Attention, head: usize, i: usize, j: usize) -> f64 {
    let Some((probability, seed)) = rule.dropout else {
        return 1.0;
    };
    let words = philox4x32(
        [(j / 4) as u32, i as u32, head as u32, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    let dropped = f64::from(words[j % 4]) < (probability * 2f64.powi(32)).floor();
    if dropped {
        0.0
    } else {
        1.0 / (1.0 - probability)
    }
}

fn sequences(inputs: &AttentionInputs<'_>) -> Vec<Sequence> {
    let tokens = |heads: usize, elements: &[f64]| elements.len() / (heads * inputs.head_dim);
    let ranges: Vec<[Range<usize>; 2]> = match inputs.sequences {
        AttentionSequences::Dense {
            batch,
            queries,
            keys,
        } => {
            let of = |b: usize, count: usize| b * count..(b + 1) * count;
            (0..batch).map(|b| [of(b, queries), of(b, keys)]).collect()
        }
        AttentionSequences::Packed {
            offsets_q,
            offsets_k,
            max_queries,
            max_keys,
        } => {
            let queries = ascending(offsets_q, tokens(inputs.heads, inputs.q), max_queries);
            let keys = ascending(offsets_k, tokens(inputs.kv_heads, inputs.k), max_keys);
            queries
                .into_iter()
                .zip(keys)
                .map(|(queries, keys)| [queries, keys])
                .collect()
        }
    };
    let sequence = |(b, [queries, keys]): (usize, [Range<usize>; 2])| {
        let length = inputs
            .kv_lengths
            .map_or(keys.len(), |lengths| lengths[b].max(0) as usize);
        Sequence {
            kv_length: length.min(keys.len()),
            queries,
            keys,
        }
    };
    ranges.into_iter().enumerate().map(sequence).collect()
}

/// The tokens of each packed sequence.
fn ascending(offsets: &[i32], total: usize, longest: usize) -> Vec<Range<usize>> {
    let clamp = |b: usize| {
        offsets[..=b]
            .iter()
            .fold(0, |most, &offset| most.max(offset)) as usize
    };
    let bound = |b: usize| clamp(b).min(total);
    (0..offsets.len() - 1)
        .map(|b| bound(b)..bound(b + 1).min(bound(b) + longest))
        .collect()
}
