//! Problems, and what each holds.

use ocelli::Float;
use ocelli::params::Attention;
use ocelli::params::attention::{Dropout, Geometry, GradientLayouts, Layout};
use ocelli::reference;
use ocelli::testing::strategy::{Data, SplitMix, cases, size};
use proptest::prelude::*;

/// What queries and keys look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scores {
    /// Independent numbers of this spread.
    Spread(f32),
    /// Every second query has scores between -490 and -200.
    Low,
    /// One key of each head outdoes the others by hundreds.
    Huge,
    /// All keys alike: every probability is the same.
    ConstantKeys,
    /// A large mean in queries and keys, with small differences.
    Offset,
}

/// How queries, keys and values lie in memory, and which tokens belong together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// A tensor each.
    Separate,
    /// One projection `[B, N, 3, H, D]`, in which the gradient is written, too.
    Projection,
    /// Sequences of different lengths one behind another, with offsets that must be put right.
    Sequences,
}

/// One problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Of the longest sequence, where they are packed.
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub form: Form,
    pub params: Attention,
    /// Whether there is a bias, and it is shared by the batch and by the heads.
    pub bias: Option<[bool; 2]>,
    pub has_kv_lengths: bool,
    pub has_dlse: bool,
    pub scores: Scores,
    pub seed: u64,
}

impl Case {
    /// Without masks, a tensor each.
    pub fn plain([batch, heads, queries, keys, head_dim]: [usize; 5]) -> Self {
        Self {
            batch,
            heads,
            kv_heads: heads,
            queries,
            keys,
            head_dim,
            form: Form::Separate,
            params: Attention::default(),
            bias: None,
            has_kv_lengths: false,
            has_dlse: false,
            scores: Scores::Spread(1.0),
            seed: 1,
        }
    }

    /// Tokens of queries and keys in all.
    pub fn tokens(&self) -> [usize; 2] {
        let all = |longest: usize| self.batch * longest.div_ceil(2) + longest / 2;
        match self.form {
            Form::Sequences => [all(self.queries), all(self.keys)],
            _ => [self.batch * self.queries, self.batch * self.keys],
        }
    }

    /// Offsets of packed sequences: in order, but now and then one that is not, or lies outside.
    pub fn offsets(&self) -> [Vec<i32>; 2] {
        let mut random = SplitMix(self.seed ^ 0x0ff5);
        let mut ends = |tokens: usize, longest: usize| {
            let mut end = 0;
            let mut offsets = vec![0];
            for _ in 0..self.batch {
                end += (random.next() % (longest as u64 + 2)) as i32;
                offsets.push(match random.next() % 8 {
                    0 => -3,
                    1 => tokens as i32 + 5,
                    _ => end,
                });
            }
            offsets
        };
        let [queries, keys] = self.tokens();
        [ends(queries, self.queries), ends(keys, self.keys)]
    }

    /// Key lengths, with impossible ones among them.
    pub fn kv_lengths(&self) -> Vec<i32> {
        let mut random = SplitMix(self.seed ^ 0x1e46);
        let mut length = |at: usize| match (at + self.seed as usize) % 5 {
            0 => 0,
            1 => self.keys as i32 + 9,
            2 => i32::MIN,
            _ => (random.next() % (self.keys as u64 + 1)) as i32,
        };
        (0..self.batch)
            .map(|at| {
                if self.batch == 1 {
                    length(3)
                } else {
                    length(at)
                }
            })
            .collect()
    }

    pub fn bias_extents(&self) -> Option<[usize; 2]> {
        let extent = |shared: bool, own: usize| if shared { 1 } else { own };
        self.bias
            .map(|[batch, heads]| [extent(batch, self.batch), extent(heads, self.heads)])
    }

    /// Where the bias of query `i` and key `j` of a head lies.
    pub fn bias_at(&self, [b, h, i, j]: [usize; 4]) -> Option<usize> {
        let [batch, heads] = self.bias_extents()?;
        let row = (b.min(batch - 1) * heads + h.min(heads - 1)) * self.queries + i;
        Some(row * self.keys + j)
    }

    /// Extents and layouts of one buffer a tensor, or of a projection.
    pub fn geometry(&self) -> Geometry {
        let is_packed = self.form == Form::Sequences;
        let [tokens_q, tokens_k] = self.tokens();
        let [queries, keys] = if is_packed {
            [tokens_q, tokens_k]
        } else {
            [self.queries, self.keys]
        };
        let (dim, width) = (self.head_dim, self.heads * self.head_dim);
        let part = |part: usize| Layout::columns(queries, 3 * width, part * width, dim);
        let out = Layout::contiguous(queries, self.heads, dim);
        let k = Layout::contiguous(keys, self.kv_heads, dim);
        let [q, k, v] = if self.form == Form::Projection {
            [part(0), part(1), part(2)]
        } else {
            [out, k, k]
        };
        Geometry {
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            queries: self.queries,
            keys: self.keys,
            head_dim: dim,
            packed: is_packed.then_some([tokens_q, tokens_k]),
            bias: self.bias_extents(),
            q,
            k,
            v,
            out,
        }
    }

    pub fn layouts(&self) -> GradientLayouts {
        let Geometry { q, k, v, out, .. } = self.geometry();
        GradientLayouts {
            dout: out,
            dq: q,
            dk: k,
            dv: v,
        }
    }

    /// First element of the query that a row of the log-sum-exp belongs to.
    pub fn query_of(&self, row: usize) -> usize {
        let queries = match self.form {
            Form::Sequences => self.tokens()[0],
            _ => self.queries,
        };
        let (head, query) = (row / queries, row % queries);
        let token = head / self.heads * queries + query;
        (token * self.heads + head % self.heads) * self.head_dim
    }

    /// Rows of the log-sum-exp.
    pub fn rows(&self) -> usize {
        self.tokens()[0] * self.heads
    }

    /// The scalars as the reference takes them.
    pub fn rule(&self) -> reference::Attention {
        let p = &self.params;
        let default = 1.0 / (self.head_dim as f32).sqrt();
        reference::Attention {
            scale: p.scale.unwrap_or(default).into(),
            causal: p.causal,
            window_left: p.window_left,
            window_right: p.window_right,
            softcap: p.softcap.into(),
            dropout: p
                .dropout
                .map(|dropout| (dropout.probability.into(), dropout.seed)),
        }
    }
}

/// Everything that a problem's numbers are, `[tokens, heads, D]`.
#[derive(Debug, Clone)]
pub struct Operands<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub bias: Vec<T>,
    pub dout: Vec<T>,
    pub dlse: Vec<f32>,
    /// A row of the log-sum-exp that the backward pass is given another number for.
    pub given_lse: Option<(usize, f32)>,
}

impl<T: Float> Operands<T> {
    pub fn new(case: &Case) -> Self {
        let ([tokens_q, tokens_k], dim) = (case.tokens(), case.head_dim);
        let normal =
            |len: usize, seed: u64| Data::Spread(1.0).values(len, case.seed ^ (seed << 32));
        let (len_q, len_k) = (tokens_q * case.heads * dim, tokens_k * case.kv_heads * dim);
        let (mut q, mut k) = (normal(len_q, 1), normal(len_k, 2));
        // What makes `scale * q . k` of two constant rows `x` and `y` be `x * y`.
        let unit = (case.head_dim as f32).sqrt().recip().sqrt();
        match case.scores {
            Scores::Spread(spread) => q.iter_mut().for_each(|x| *x *= spread),
            Scores::Low => {
                k.iter_mut().for_each(|x| *x = 10.0 * unit + 0.05 * *x);
                let rows = q.chunks_mut(dim).step_by(2).enumerate();
                rows.for_each(|(at, row)| row.fill(-unit * (20.0 + (at % 30) as f32)));
            }
            Scores::Huge => {
                q.iter_mut().for_each(|x| *x = 6.0 * unit + 0.1 * *x);
                let rows = k.chunks_mut(dim).enumerate();
                rows.filter(|(at, _)| at % 61 == 7)
                    .for_each(|(_, row)| row.fill(60.0 * unit));
            }
            Scores::ConstantKeys => k.iter_mut().for_each(|x| *x = 0.75),
            Scores::Offset => q
                .iter_mut()
                .chain(&mut k)
                .for_each(|x| *x = 3.0 * unit + 0.02 * *x),
        }
        let bias = case
            .bias_extents()
            .map_or(0, |[b, h]| b * h * case.queries * case.keys);
        let mut bias = normal(bias, 4);
        // Now and then a key is hidden by the bias.
        bias.iter_mut()
            .skip(3)
            .step_by(29)
            .for_each(|x| *x = f32::NEG_INFINITY);
        let round = |values: Vec<f32>| values.into_iter().map(T::from_f32).collect();
        Self {
            q: round(q),
            k: round(k),
            v: round(normal(len_k, 3)),
            bias: round(bias),
            dout: round(normal(len_q, 5)),
            dlse: normal(case.rows(), 6),
            given_lse: None,
        }
    }
}

/// Any combination that the op takes, scaled to what a simulator can run.
pub fn case() -> impl Strategy<Value = Case> {
    let dims = prop_oneof![
        Just(64usize),
        Just(128),
        Just(256),
        (1..=32usize).prop_map(|eighths| 8 * eighths)
    ];
    let tokens = prop_oneof![3 => size(70), 2 => size(150), 1 => size(300)];
    let other = prop_oneof![3 => size(70), 2 => size(150), 1 => size(300)];
    let heads = prop_oneof![
        Just((1usize, 1usize)),
        Just((2, 1)),
        Just((4, 2)),
        Just((3, 3))
    ];
    let forms = prop_oneof![3 => Just(Form::Separate), 1 => Just(Form::Projection), 1 => Just(Form::Sequences)];
    let window = || prop_oneof![2 => Just(None), 1 => (0..100usize).prop_map(Some)];
    let softcap = prop_oneof![3 => Just(0.0f32), 1 => Just(2.0f32), 1 => Just(30.0)];
    let dropout = prop_oneof![3 => Just(None), 1 => (0.0..0.9f32, any::<u64>()).prop_map(Some)];
    let scores = prop_oneof![
        4 => Just(Scores::Spread(1.0)),
        1 => Just(Scores::Spread(8.0)),
        1 => Just(Scores::Low),
        1 => Just(Scores::Huge),
        1 => Just(Scores::ConstantKeys),
        1 => Just(Scores::Offset),
    ];
    let bias = prop_oneof![2 => Just(None), 1 => any::<[bool; 2]>().prop_map(Some)];
    let shape = (1..3usize, heads, tokens, other, dims);
    let masks = (
        any::<bool>(),
        window(),
        window(),
        softcap,
        dropout,
        bias,
        any::<bool>(),
    );
    (shape, forms, masks, scores, any::<bool>(), any::<u64>()).prop_map(
        |(
            (batch, (heads, kv_heads), queries, keys, head_dim),
            form,
            masks,
            scores,
            has_dlse,
            seed,
        )| {
            let (causal, window_left, window_right, softcap, dropout, bias, has_kv_lengths) = masks;
            let dropout = dropout.map(|(probability, seed)| Dropout { probability, seed });
            let params = Attention {
                scale: None,
                causal,
                window_left,
                window_right,
                softcap,
                dropout,
            };
            let is_projection = form == Form::Projection;
            Case {
                batch,
                heads,
                kv_heads: if is_projection { heads } else { kv_heads },
                queries,
                keys: if is_projection { queries } else { keys },
                head_dim,
                form,
                params,
                bias: bias.filter(|_| form != Form::Sequences),
                has_kv_lengths,
                has_dlse,
                scores,
                seed,
            }
        },
    )
}

/// How many random cases there are: a case takes the simulator about half a second.
pub fn count() -> u32 {
    cases(24)
}
