//! One problem of the backward kernels: its data, a run in guarded buffers, and the exact gradients.

use crate::device::Cuda;
use ocelli::cuda::Buffer;
use ocelli::cuda::attention::backward::{Arguments, Plan, launch};
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::params::Attention;
use ocelli::params::attention::{Geometry, GradientLayouts, Layout, Mask, Qkv};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Element, Float, reference};
use ptxsim::report::LaunchReport;

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
    /// Tokens whose key and value are NaN.
    pub nan_keys: Vec<usize>,
    /// Tokens whose query is NaN.
    pub nan_queries: Vec<usize>,
    /// Tokens whose output gradient is NaN.
    pub nan_gradients: Vec<usize>,
    /// Queries, keys and values lie in one `[B, N, 3, H, D]`, and so do their gradients.
    pub fused: bool,
    /// Whether the log-sum-exp has a gradient.
    pub dlse: bool,
    /// Multiprocessors of the GPU that the plan is made for: one is filled by any problem.
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
        fused: false,
        dlse: false,
        multiprocessors: u32::MAX,
    }
}

/// Inputs, and what the forward pass makes of them.
pub struct Data<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub bias: Vec<T>,
    pub dout: Vec<T>,
    pub dlse: Vec<f32>,
    pub out: Vec<T>,
    pub lse: Vec<f32>,
}

/// Gradients `dq`, `dk`, `dv`, `dbias`.
pub type Gradients<T> = [Vec<T>; 4];

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
        let mut random = SplitMix(11);
        let [queries, keys] = self.tokens();
        let (q_width, k_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut normal = |len: usize| -> Vec<f32> { (0..len).map(|_| random.normal()).collect() };
        let narrow = |values: Vec<f32>| -> Vec<T> { values.into_iter().map(T::from_f32).collect() };
        let with_nan = |mut values: Vec<T>, tokens: &[usize], width: usize| {
            for token in tokens {
                values[token * width..(token + 1) * width].fill(T::from_f32(f32::NAN));
            }
            values
        };
        let bias = self
            .bias
            .map_or(0, |[b, h]| b * h * self.queries * self.keys);
        let mut data = Data {
            q: with_nan(
                narrow(normal(queries * q_width)),
                &self.nan_queries,
                q_width,
            ),
            k: with_nan(narrow(normal(keys * k_width)), &self.nan_keys, k_width),
            v: with_nan(narrow(normal(keys * k_width)), &self.nan_keys, k_width),
            bias: narrow(normal(bias)),
            dout: with_nan(
                narrow(normal(queries * q_width)),
                &self.nan_gradients,
                q_width,
            ),
            dlse: normal(if self.dlse { queries * self.heads } else { 0 }),
            out: Vec::new(),
            lse: Vec::new(),
        };
        let (out, lse) = self.with_reference(&data, reference::attention);
        data.out = out.into_iter().map(|x| T::from_f32(x as f32)).collect();
        data.lse = lse.into_iter().map(|x| x as f32).collect();
        data
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

    /// The gradients by definition.
    pub fn exact<T: Float>(&self, data: &Data<T>) -> Gradients<f64> {
        let dout = wide(&data.dout);
        let dlse: Vec<f64> = data.dlse.iter().copied().map(f64::from).collect();
        let dlse = self.dlse.then_some(&dlse[..]);
        let gradient = self.with_reference(data, |inputs, rule| {
            reference::attention_gradient(inputs, rule, &dout, dlse)
        });
        [gradient.dq, gradient.dk, gradient.dv, gradient.dbias]
    }
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Tokens of three parts, side by side.
fn fuse<T: Element>(parts: [&[T]; 3], width: usize) -> Vec<T> {
    let tokens = parts[0].len() / width;
    (0..tokens)
        .flat_map(|token| parts.map(|part| part[token * width..(token + 1) * width].to_vec()))
        .flatten()
        .collect()
}

fn part_of<T: Element>(all: &[T], part: usize, width: usize) -> Vec<T> {
    all.chunks(3 * width)
        .flat_map(|token| token[part * width..(part + 1) * width].to_vec())
        .collect()
}

/// Runs the kernels, outputs in guarded buffers, with gradients of the bias where there is one.
pub fn run<T: Float>(
    device: &Cuda,
    problem: &Problem,
    data: &Data<T>,
) -> (Gradients<T>, Vec<LaunchReport>) {
    let context = &device.context;
    let (geometry, gradients) = (problem.geometry(), problem.gradients());
    let mut gpu = context.properties().clone();
    gpu.multiprocessors = problem.multiprocessors;
    let dbias = problem.bias.is_some();
    let plan = Plan::new(
        &gpu,
        &geometry,
        &gradients,
        &problem.params,
        T::DTYPE,
        dbias,
    )
    .unwrap();
    let upload = |data: &[T]| Buffer::from_slice(context, data).unwrap();
    let width = problem.heads * problem.head_dim;
    let inputs = if problem.fused {
        vec![upload(&fuse([&data.q, &data.k, &data.v], width))]
    } else {
        [&data.q, &data.k, &data.v].map(|part| upload(part)).into()
    };
    let views: Vec<_> = inputs
        .iter()
        .map(|part| part.view::<T>().unwrap())
        .collect();
    let integers = |data: &Vec<i32>| Buffer::from_slice(context, data).unwrap();
    let lengths = problem.kv_lengths.as_ref().map(integers);
    let offsets = problem
        .offsets
        .as_ref()
        .map(|both| both.each_ref().map(integers));
    let [bias, out, dout] = [&data.bias, &data.out, &data.dout].map(|part| upload(part));
    let lse = Buffer::from_slice(context, &data.lse).unwrap();
    let dlse = Buffer::from_slice(context, &data.dlse).unwrap();

    let hosts: Vec<Guarded<T>> = inputs
        .iter()
        .map(|part| Guarded::new(part.len(), 0))
        .collect();
    let mut outputs: Vec<Buffer> = hosts.iter().map(|host| upload(host.all())).collect();
    let mut output_views: Vec<_> = outputs
        .iter_mut()
        .map(|buffer| buffer.view_mut::<T>().unwrap())
        .collect();
    let bias_host = Guarded::<T>::new(data.bias.len(), 1);
    let mut dbias_buffer = upload(bias_host.all());
    let mut dbias_view = dbias_buffer.view_mut::<T>().unwrap();
    let junk = vec![0xffu8; plan.workspace_bytes().max(1)];
    let mut workspace: CudaSlice<u8> = context.stream().clone_htod(&junk).unwrap();
    let mut slices: Vec<_> = output_views
        .iter_mut()
        .zip(&hosts)
        .map(|(view, host)| view.slice_mut(host.range()))
        .collect();
    let mut arguments = Arguments::<T> {
        qkv: match &views[..] {
            [all] => Qkv::Packed(all.slice(..)),
            parts => Qkv::Separate {
                q: parts[0].slice(..),
                k: parts[1].slice(..),
                v: parts[2].slice(..),
            },
        },
        mask: Mask {
            bias: dbias.then(|| bias.view().unwrap()),
            kv_lengths: lengths.as_ref().map(|lengths| lengths.view().unwrap()),
            offsets: offsets
                .as_ref()
                .map(|both| both.each_ref().map(|part| part.view().unwrap())),
        },
        out: out.view().unwrap(),
        lse: lse.view().unwrap(),
        dout: dout.view().unwrap(),
        dlse: problem.dlse.then(|| dlse.view().unwrap()),
        dqkv: match &mut slices[..] {
            [all] => Qkv::Packed(all.slice_mut(..)),
            [q, k, v] => Qkv::Separate {
                q: q.slice_mut(..),
                k: k.slice_mut(..),
                v: v.slice_mut(..),
            },
            _ => unreachable!("one buffer or three"),
        },
        dbias: dbias.then(|| dbias_view.slice_mut(bias_host.range())),
        workspace: workspace.as_view_mut(),
    };
    device.launches();
    launch(context, &plan, &mut arguments).unwrap();
    context.synchronize().unwrap();
    let reports = device.launches();
    drop(slices);
    let back = |host: &Guarded<T>, buffer: &Buffer| -> Vec<T> {
        host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
    };
    let parts: Vec<Vec<T>> = hosts
        .iter()
        .zip(&outputs)
        .map(|(host, buffer)| back(host, buffer))
        .collect();
    let [dq, dk, dv] = match &parts[..] {
        [all] => [0, 1, 2].map(|part| part_of(all, part, width)),
        parts => [0, 1, 2].map(|part| parts[part].clone()),
    };
    ([dq, dk, dv, back(&bias_host, &dbias_buffer)], reports)
}

/// Runs twice and compares: bits with bits, gradients with the exact ones, to some units of the
/// largest of a tensor; NaN meets NaN.
pub fn agree<T: Float>(device: &Cuda, problem: &Problem) -> Vec<LaunchReport> {
    let data = problem.data::<T>();
    let (gradients, reports) = run(device, problem, &data);
    let (again, _) = run(device, problem, &data);
    let unit = match T::DTYPE {
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => 2f64.powi(-18),
    };
    let exact = problem.exact(&data);
    let names = ["dq", "dk", "dv", "dbias"];
    for (name, ((is, again), should)) in names
        .into_iter()
        .zip(gradients.iter().zip(&again).zip(&exact))
    {
        ocelli::testing::compare::bitwise(is, again).unwrap();
        let largest = should
            .iter()
            .filter(|x| x.is_finite())
            .fold(1.0, |m: f64, x| m.max(x.abs()));
        for (i, (is, &should)) in wide(is).into_iter().zip(should).enumerate() {
            let near = is == should
                || is.is_nan() && !should.is_finite()
                || (is - should).abs() <= 2.0 * unit * largest;
            assert!(near, "{} {name}[{i}] {is} {should}: {problem:?}", T::DTYPE);
        }
    }
    reports
}
