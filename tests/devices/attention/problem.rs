//! One problem of the kernels by themselves: its data, and the exact results.

use crate::device::{Cuda, Target, targets};
use ocelli::params::Attention;
use ocelli::params::attention::{Dropout, Geometry, GradientLayouts, Layout};
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Element, Float, reference};

/// Extents, rules and what is odd in the data.
#[derive(Debug, Clone)]
pub struct Problem {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub params: Attention,
    pub bias: Option<[usize; 2]>,
    pub kv_lengths: Option<Vec<i32>>,
    pub offsets: Option<[Vec<i32>; 2]>,
    pub totals: [usize; 2],
    /// Tokens whose value is NaN, and at even places the key: elsewhere the value has weights that are numbers.
    pub nan_keys: Vec<usize>,
    /// Tokens whose query is NaN.
    pub nan_queries: Vec<usize>,
    /// Tokens whose output gradient is NaN.
    pub nan_gradients: Vec<usize>,
    /// Tokens whose query begins with an infinity: some scores of its first head are infinite.
    pub infinite_queries: Vec<usize>,
    /// Tokens for whose first head the backward pass is given an infinite log-sum-exp.
    pub infinite_rows: Vec<usize>,
    /// Queries, keys and values lie in one `[B, N, 3, H, D]`, and so do their gradients.
    pub fused: bool,
    /// Whether the log-sum-exp has a gradient.
    pub dlse: bool,
    /// Multiprocessors of the GPU that the backward's plan is made for: one is filled by any problem.
    pub multiprocessors: u32,
}

pub fn dense(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> Problem {
    Problem {
        batch,
        heads,
        kv_heads: heads,
        queries,
        keys,
        head_dim,
        params: Attention::default(),
        bias: None,
        kv_lengths: None,
        offsets: None,
        totals: [0; 2],
        nan_keys: Vec::new(),
        nan_queries: Vec::new(),
        nan_gradients: Vec::new(),
        infinite_queries: Vec::new(),
        infinite_rows: Vec::new(),
        fused: false,
        dlse: false,
        multiprocessors: u32::MAX,
    }
}

/// Rules of several problems.
pub fn causal() -> Attention {
    Attention {
        causal: true,
        ..Default::default()
    }
}

pub fn window() -> Attention {
    Attention {
        window_left: Some(20),
        window_right: Some(9),
        ..Default::default()
    }
}

pub fn dropping() -> Attention {
    let dropout = Dropout {
        probability: 0.3,
        seed: 0x1234_5678_9abc,
    };
    Attention {
        dropout: Some(dropout),
        ..Default::default()
    }
}

/// Every rule but a window.
pub fn all_rules() -> Attention {
    Attention {
        softcap: 3.0,
        scale: Some(-0.7),
        causal: true,
        ..dropping()
    }
}

/// Sequences whose offsets fall, lie outside of the tokens or beyond the longest.
pub fn odd_offsets() -> [Vec<i32>; 2] {
    [vec![3, 5, 4, 70, 200], vec![-1, 40, 80, 80, 99]]
}

/// CUDA devices.
pub fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

/// Those with counters.
pub fn simulated() -> impl Iterator<Item = &'static Cuda> {
    devices().filter(|device| device.simulator.is_some())
}

/// Inputs of both directions.
#[derive(Clone)]
pub struct Data<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub bias: Vec<T>,
    pub dout: Vec<T>,
    pub dlse: Vec<f32>,
}

impl<T: Float> Data<T> {
    /// The tensors that a call reads queries, keys and values from: three, or one where they are fused.
    pub fn inputs(&self, problem: &Problem) -> Vec<Vec<T>> {
        let parts = [&self.q, &self.k, &self.v];
        if !problem.fused {
            return parts.map(Vec::clone).into();
        }
        let width = problem.heads * problem.head_dim;
        let row = |part: &[T], token: usize| part[token * width..(token + 1) * width].to_vec();
        let tokens = 0..self.q.len() / width;
        let rows = tokens.flat_map(|token| parts.map(|part| row(part, token)));
        vec![rows.flatten().collect()]
    }
}

impl Problem {
    fn tokens(&self) -> [usize; 2] {
        match self.offsets {
            Some(_) => self.totals,
            None => [self.batch * self.queries, self.batch * self.keys],
        }
    }

    pub fn geometry(&self) -> Geometry {
        let q = Layout::contiguous(self.queries, self.heads, self.head_dim);
        let k = Layout::contiguous(self.keys, self.kv_heads, self.head_dim);
        let width = self.heads * self.head_dim;
        let part = |part| Layout::columns(self.queries, 3 * width, part * width, self.head_dim);
        let [q_in, k, v] = if self.fused {
            [part(0), part(1), part(2)]
        } else {
            [q, k, k]
        };
        Geometry {
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            queries: self.queries,
            keys: self.keys,
            head_dim: self.head_dim,
            packed: self.offsets.is_some().then_some(self.totals),
            bias: self.bias,
            q: q_in,
            k,
            v,
            out: q,
        }
    }

    pub fn gradients(&self) -> GradientLayouts {
        let Geometry { q, k, v, out, .. } = self.geometry();
        let [dq, dk, dv] = [q, k, v];
        GradientLayouts {
            dout: out,
            dq,
            dk,
            dv,
        }
    }

    pub fn data<T: Float>(&self) -> Data<T> {
        let mut random = SplitMix(7);
        let [queries, keys] = self.tokens();
        let (q_width, k_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut normal = |len: usize| -> Vec<f32> { (0..len).map(|_| random.normal()).collect() };
        let mut tensor = |tokens: usize, width: usize, nan: &mut dyn Iterator<Item = &usize>| {
            let values = normal(tokens * width);
            let mut values: Vec<T> = values.into_iter().map(T::from_f32).collect();
            for token in nan {
                values[token * width..(token + 1) * width].fill(T::from_f32(f32::NAN));
            }
            values
        };
        let bias = self.bias.map_or(0, |[b, h]| b * h * self.queries);
        let even = |token: &&usize| token.is_multiple_of(2);
        let mut q = tensor(queries, q_width, &mut self.nan_queries.iter());
        for token in &self.infinite_queries {
            q[token * q_width] = T::from_f32(f32::INFINITY);
        }
        Data {
            q,
            k: tensor(keys, k_width, &mut self.nan_keys.iter().filter(even)),
            v: tensor(keys, k_width, &mut self.nan_keys.iter()),
            bias: tensor(bias, self.keys, &mut [].iter()),
            dout: tensor(queries, q_width, &mut self.nan_gradients.iter()),
            dlse: normal(if self.dlse { queries * self.heads } else { 0 }),
        }
    }

    fn with_reference<T: Float, R>(
        &self,
        data: &Data<T>,
        run: impl FnOnce(&reference::AttentionInputs<'_>, &reference::Attention) -> R,
    ) -> R {
        let [q, k, v, bias] = [&data.q, &data.k, &data.v, &data.bias].map(|part| wide(part));
        let sequences = match &self.offsets {
            None => reference::AttentionSequences::Dense {
                batch: self.batch,
                queries: self.queries,
                keys: self.keys,
            },
            Some([offsets_q, offsets_k]) => reference::AttentionSequences::Packed {
                offsets_q,
                offsets_k,
                max_queries: self.queries,
                max_keys: self.keys,
            },
        };
        let inputs = reference::AttentionInputs {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            q: &q,
            k: &k,
            v: &v,
            sequences,
            kv_lengths: self.kv_lengths.as_deref(),
            bias: self.bias.map(|extents| (extents, &bias[..])),
        };
        let params = &self.params;
        let scale = (self.head_dim as f64).sqrt().recip();
        let rule = reference::Attention {
            scale: params.scale.map_or(scale, f64::from),
            causal: params.causal,
            window_left: params.window_left,
            window_right: params.window_right,
            softcap: params.softcap.into(),
            dropout: params
                .dropout
                .map(|dropout| (dropout.probability.into(), dropout.seed)),
        };
        run(&inputs, &rule)
    }

    /// The output and the log-sum-exp by definition.
    pub fn exact_output<T: Float>(&self, data: &Data<T>) -> (Vec<f64>, Vec<f64>) {
        self.with_reference(data, reference::attention)
    }

    /// Where the log-sum-exp of the first head of a token lies.
    pub fn first_row(&self, token: usize) -> usize {
        match self.offsets {
            Some(_) => token,
            None => token / self.queries * self.heads * self.queries + token % self.queries,
        }
    }

    /// The gradients `dq`, `dk`, `dv`, `dbias` by definition. A log-sum-exp that is given as an infinity stands for a query
    /// that is NaN.
    pub fn exact_gradients<T: Float>(&self, data: &Data<T>) -> [Vec<f64>; 4] {
        let dout = wide(&data.dout);
        let dlse = self.dlse.then(|| wide(&data.dlse));
        let mut data = data.clone();
        for token in &self.infinite_rows {
            let first = token * self.heads * self.head_dim;
            data.q[first..first + self.head_dim].fill(T::from_f32(f32::NAN));
        }
        let gradient = self.with_reference(&data, |inputs, rule| {
            reference::attention_gradient(inputs, rule, &dout, dlse.as_deref())
        });
        [gradient.dq, gradient.dk, gradient.dv, gradient.dbias]
    }
}

pub fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// One of three parts that lie side by side in each token.
pub fn part_of<T: Element>(all: &[T], part: usize, width: usize) -> Vec<T> {
    all.chunks(3 * width)
        .flat_map(|token| token[part * width..(part + 1) * width].to_vec())
        .collect()
}

/// Some unit of a type's rounding; of f32 that of a sum of many.
pub fn unit(dtype: DType, of_f32: f64) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => of_f32,
    }
}
