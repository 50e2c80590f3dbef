//! The forward kernels by themselves: their results, the bytes they move, their bank conflicts.

mod hopper;

use crate::device::{Cuda, Target, targets};
use half::{bf16, f16};
use ocelli::cuda::attention::forward::{Arguments, Plan, launch};
use ocelli::cuda::{Buffer, Properties};
use ocelli::params::Attention;
use ocelli::params::attention::{Dropout, Geometry, Layout, Mask, Qkv};
use ocelli::reference;
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::SplitMix;
use ocelli::{DType, Float};
use ptxsim::report::LaunchReport;

/// One problem, and changes to its data.
#[derive(Debug, Clone)]
struct Problem {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    params: Attention,
    bias: Option<[usize; 2]>,
    kv_lengths: Option<Vec<i32>>,
    offsets: Option<[Vec<i32>; 2]>,
    totals: [usize; 2],
    /// Places of tokens whose value is NaN, and at even places the key.
    nan_keys: Vec<usize>,
    /// Places of tokens whose query is NaN.
    nan_queries: Vec<usize>,
    /// Queries, keys and values lie in one `[B, N, 3, H, D]`.
    fused: bool,
}

fn dense(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> Problem {
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
        fused: false,
    }
}

impl Problem {
    fn tokens(&self) -> [usize; 2] {
        match self.offsets {
            Some(_) => self.totals,
            None => [self.batch * self.queries, self.batch * self.keys],
        }
    }

    fn geometry(&self) -> Geometry {
        let Self {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self;
        let packed = self.offsets.is_some().then_some(self.totals);
        let q = Layout::contiguous(self.queries, heads, head_dim);
        let k = Layout::contiguous(self.keys, kv_heads, head_dim);
        let part = |part| {
            let width = heads * head_dim;
            Layout::columns(self.queries, 3 * width, part * width, head_dim)
        };
        let [q_in, k, v] = if self.fused {
            [part(0), part(1), part(2)]
        } else {
            [q, k, k]
        };
        Geometry {
            batch: self.batch,
            heads,
            kv_heads,
            queries: self.queries,
            keys: self.keys,
            head_dim,
            packed,
            bias: self.bias,
            q: q_in,
            k,
            v,
            out: q,
        }
    }

    /// Queries, keys, values and bias.
    fn data<T: Float>(&self) -> [Vec<T>; 4] {
        let mut random = SplitMix(7);
        let [queries, keys] = self.tokens();
        let mut fill =
            |len: usize| -> Vec<T> { (0..len).map(|_| T::from_f32(random.normal())).collect() };
        let (q_width, k_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut q = fill(queries * q_width);
        let [mut k, mut v] = [fill(keys * k_width), fill(keys * k_width)];
        let bias = self
            .bias
            .map_or(0, |[b, h]| b * h * self.queries * self.keys);
        let bias = fill(bias);
        let nan = T::from_f32(f32::NAN);
        for &place in &self.nan_queries {
            q[place * q_width..(place + 1) * q_width].fill(nan);
        }
        for &place in &self.nan_keys {
            // At odd places the value alone, which then has weights that are numbers.
            if place % 2 == 0 {
                k[place * k_width..(place + 1) * k_width].fill(nan);
            }
            v[place * k_width..(place + 1) * k_width].fill(nan);
        }
        [q, k, v, bias]
    }
}

struct Outcome<T> {
    out: Vec<T>,
    lse: Vec<f32>,
    reports: Vec<LaunchReport>,
    plan: String,
}

/// Runs the kernels in guarded buffers.
fn run<T: Float>(device: &Cuda, problem: &Problem) -> Outcome<T> {
    let context = &device.context;
    let geometry = problem.geometry();
    let plan = Plan::new(context.properties(), &geometry, &problem.params, T::DTYPE).unwrap();
    let [q, k, v, bias] = problem.data::<T>();
    let upload = |data: &[T]| Buffer::from_slice(context, data).unwrap();
    let (q_len, k_len) = (q.len(), k.len());
    let inputs = if problem.fused {
        let width = problem.heads * problem.head_dim;
        let all: Vec<T> = (0..q_len / width)
            .flat_map(|token| {
                let row = token * width..(token + 1) * width;
                [&q[row.clone()], &k[row.clone()], &v[row]].concat()
            })
            .collect();
        vec![upload(&all)]
    } else {
        vec![upload(&q), upload(&k), upload(&v)]
    };
    assert!(k_len <= inputs.iter().map(Buffer::len).max().unwrap());
    let view = |i: usize| inputs[i.min(inputs.len() - 1)].view::<T>().unwrap();
    let qkv = if problem.fused {
        Qkv::Packed(view(0))
    } else {
        let [q, k, v] = [view(0), view(1), view(2)];
        Qkv::Separate { q, k, v }
    };
    let bias = problem.bias.map(|_| upload(&bias));
    let lengths = problem.kv_lengths.as_ref();
    let lengths = lengths.map(|data| Buffer::from_slice(context, data).unwrap());
    let offsets = problem.offsets.as_ref().map(|offsets| {
        offsets
            .each_ref()
            .map(|data| Buffer::from_slice(context, data).unwrap())
    });
    let out_host = Guarded::<T>::new(q_len, 0);
    let lse_host = Guarded::<f32>::new(q_len / problem.head_dim, 3);
    let mut out = Buffer::from_slice(context, out_host.all()).unwrap();
    let mut lse = Buffer::from_slice(context, lse_host.all()).unwrap();
    let junk = vec![0xffu8; plan.workspace_bytes().max(1)];
    let mut workspace = context.stream().clone_htod(&junk).unwrap();
    let mut out_view = out.view_mut::<T>().unwrap();
    let mut lse_view = lse.view_mut::<f32>().unwrap();
    let offsets_view = offsets
        .as_ref()
        .map(|offsets| offsets.each_ref().map(|x| x.view().unwrap()));
    let mut arguments = Arguments::<T> {
        qkv,
        mask: Mask {
            bias: bias.as_ref().map(|bias| bias.view().unwrap()),
            kv_lengths: lengths.as_ref().map(|lengths| lengths.view().unwrap()),
            offsets: offsets_view,
        },
        out: out_view.slice_mut(out_host.range()),
        lse: lse_view.slice_mut(lse_host.range()),
        workspace: workspace.as_view_mut(),
    };
    device.launches();
    launch(context, &plan, &mut arguments).unwrap();
    context.synchronize().unwrap();
    let reports = device.launches();
    Outcome {
        out: out_host.check(&out.to_vec().unwrap()).unwrap().to_vec(),
        lse: lse_host.check(&lse.to_vec().unwrap()).unwrap().to_vec(),
        reports,
        plan: plan.to_string(),
    }
}

/// The exact output and log-sum-exp on inputs of type `T`.
fn exact<T: Float>(problem: &Problem) -> (Vec<f64>, Vec<f64>) {
    let [q, k, v, bias] = problem.data::<T>().map(|data| {
        data.iter()
            .map(|x| f64::from(x.to_f32()))
            .collect::<Vec<_>>()
    });
    let sequences = match &problem.offsets {
        None => reference::AttentionSequences::Dense {
            batch: problem.batch,
            queries: problem.queries,
            keys: problem.keys,
        },
        Some([offsets_q, offsets_k]) => reference::AttentionSequences::Packed {
            offsets_q,
            offsets_k,
            max_queries: problem.queries,
            max_keys: problem.keys,
        },
    };
    let inputs = reference::AttentionInputs {
        heads: problem.heads,
        kv_heads: problem.kv_heads,
        head_dim: problem.head_dim,
        q: &q,
        k: &k,
        v: &v,
        sequences,
        kv_lengths: problem.kv_lengths.as_deref(),
        bias: problem.bias.map(|extents| (extents, &bias[..])),
    };
    let params = &problem.params;
    let rule = reference::Attention {
        scale: params
            .scale
            .map_or((problem.head_dim as f64).sqrt().recip(), f64::from),
        causal: params.causal,
        window_left: params.window_left,
        window_right: params.window_right,
        softcap: params.softcap.into(),
        dropout: params
            .dropout
            .map(|dropout| (dropout.probability.into(), dropout.seed)),
    };
    reference::attention(&inputs, &rule)
}

/// Compares with the definition: outputs to some units of the largest value, NaN for NaN.
fn agree<T: Float>(device: &Cuda, problem: &Problem) -> Outcome<T> {
    let outcome = run::<T>(device, problem);
    let again = run::<T>(device, problem);
    let bits = |outcome: &Outcome<T>| -> Vec<u32> {
        let out = outcome.out.iter().map(|x| x.to_f32().to_bits());
        out.chain(outcome.lse.iter().map(|x| x.to_bits())).collect()
    };
    assert_eq!(bits(&outcome), bits(&again), "{problem:?}");
    let (out, lse) = exact::<T>(problem);
    let unit = match T::DTYPE {
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => 2f64.powi(-20),
    };
    let near = |is: f64, should: f64, tolerance: f64| {
        is == should || is.is_nan() && should.is_nan() || (is - should).abs() <= tolerance
    };
    for (i, (&is, &should)) in outcome.out.iter().zip(&out).enumerate() {
        assert!(
            near(is.to_f32().into(), should, 4.0 * unit),
            "{} out[{i}] {is:?} {should}: {problem:?}",
            T::DTYPE
        );
    }
    for (i, (&is, &should)) in outcome.lse.iter().zip(&lse).enumerate() {
        let ok = near(is.into(), should, 2f64.powi(-17) * (1.0 + should.abs()));
        assert!(ok, "{} lse[{i}] {is} {should}: {problem:?}", T::DTYPE);
    }
    outcome
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

/// Problems that a plan gives to this kernel; the list says which.
fn problems() -> Vec<(&'static str, Problem)> {
    let causal = Attention {
        causal: true,
        ..Default::default()
    };
    let window = Attention {
        window_left: Some(20),
        window_right: Some(9),
        ..Default::default()
    };
    let dropout = Attention {
        dropout: Some(Dropout {
            probability: 0.3,
            seed: 0x1234_5678_9abc,
        }),
        ..Default::default()
    };
    let all = Attention {
        softcap: 3.0,
        scale: Some(-0.7),
        causal: true,
        ..dropout
    };
    let mut list = Vec::new();
    // Two hundred keys and more of 64 columns are more than half of a multiprocessor holds.
    for (method, head_dim, more) in [
        ("short", 8, 0),
        ("short", 64, 0),
        ("d64", 56, 300),
        ("d64", 64, 300),
        ("d128", 72, 0),
        ("d128", 128, 0),
        ("d256", 136, 0),
        ("d256", 256, 0),
    ] {
        let mut add = |problem| list.push((method, problem));
        add(dense(1, 1, 1, 1 + more, head_dim));
        add(dense(2, 2, 70, 130 + more, head_dim));
        add(Problem {
            params: causal,
            nan_keys: vec![100 + more, 7],
            nan_queries: vec![3],
            ..dense(1, 1, 133, 129 + more, head_dim)
        });
        add(Problem {
            params: window,
            nan_keys: vec![70 + more, 5],
            ..dense(1, 1, 140, 150 + more, head_dim)
        });
        add(Problem {
            params: all,
            kv_heads: 2,
            bias: Some([1, 4]),
            kv_lengths: Some(vec![90, -3]),
            ..dense(2, 4, 66, 99 + more, head_dim)
        });
        add(Problem {
            params: dropout,
            fused: true,
            ..dense(1, 2, 67 + more, 67 + more, head_dim)
        });
        add(Problem {
            offsets: Some([vec![3, 5, 4, 70, 200], vec![-1, 40, 80, 80, 99]]),
            totals: [90, 95],
            kv_lengths: Some(vec![100, 17, 5, 9]),
            params: causal,
            kv_heads: 1,
            ..dense(4, 2, 60, 50 + more, head_dim)
        });
    }
    for head_dim in [40, 64, 128, 256] {
        let mut add = |problem| list.push(("split", problem));
        add(dense(1, 1, 1, 515, head_dim));
        add(Problem {
            kv_heads: 2,
            params: causal,
            ..dense(2, 8, 3, 700, head_dim)
        });
        add(Problem {
            kv_heads: 1,
            params: Attention {
                causal: true,
                window_left: Some(300),
                ..Default::default()
            },
            nan_keys: vec![100, 397],
            nan_queries: vec![1],
            ..dense(1, 5, 7, 599, head_dim)
        });
        add(Problem {
            params: all,
            kv_heads: 2,
            bias: Some([2, 1]),
            kv_lengths: Some(vec![533, 0]),
            ..dense(2, 6, 9, 600, head_dim)
        });
        add(Problem {
            offsets: Some([vec![1, 2, 2, 19], vec![0, 70, 0, 900]]),
            totals: [20, 700],
            params: causal,
            kv_heads: 1,
            ..dense(3, 2, 16, 600, head_dim)
        });
    }
    list
}

#[test]
fn every_kernel_agrees_with_the_definition() {
    for device in devices() {
        for (i, (method, problem)) in problems().into_iter().enumerate() {
            // The 16-bit types take turns; f32 has one kernel for what is short, long and split.
            let plan = if i % 2 == 0 {
                agree::<f16>(device, &problem).plan
            } else {
                agree::<bf16>(device, &problem).plan
            };
            let for_hopper = method == "short" && plan.contains("_sm90_d64_");
            assert!(
                plan.contains(&format!("_{method}_")) || for_hopper,
                "{plan}"
            );
            if !["short", "split"].contains(&method) {
                let plan = agree::<f32>(device, &problem).plan;
                assert!(plan.contains("_f32 "), "{plan}");
            }
        }
    }
}

/// The launches of a problem on the simulator.
fn launches<T: Float>(device: &Cuda, problem: &Problem, method: &str) -> Vec<LaunchReport> {
    let outcome = run::<T>(device, problem);
    assert!(outcome.plan.contains(method), "{}", outcome.plan);
    outcome.reports
}

/// Bytes that a launch moves are within a twentieth of these that it reads through copies and
/// loads, and writes; and nothing in shared memory waits for a bank.
fn hold(report: &LaunchReport, copied: usize, written: usize) {
    let counters = &report.counters;
    let within = |sectors: u64, bytes: usize| sectors * 32 <= bytes as u64 * 21 / 20;
    let [threads, engine] = [counters.async_copies, counters.bulk_loads];
    assert!(
        within(threads.sectors + engine.sectors, copied),
        "{}: {copied} {threads:?} {engine:?}",
        report.kernel,
    );
    assert!(
        within(counters.global_stores.sectors, written),
        "{}: {written} {:?}",
        report.kernel,
        counters.global_stores
    );
    for shared in [
        counters.shared_loads,
        counters.shared_stores,
        counters.matrix_loads,
    ] {
        assert_eq!(shared.conflicts, 0, "{}: {counters:#?}", report.kernel);
    }
}

fn simulated() -> impl Iterator<Item = &'static Cuda> {
    devices().filter(|device| device.simulator.is_some())
}

#[test]
fn tiles_are_read_once_a_block() {
    for device in simulated() {
        if hopper::is_hopper(device) {
            continue;
        }
        for (head_dim, rows) in [(64, 128), (128, 128), (256, 64)] {
            let (queries, keys) = (256, 448);
            let problem = dense(1, 1, queries, keys, head_dim);
            let reports = launches::<bf16>(device, &problem, &format!("_d{head_dim}_"));
            let bytes = |tokens: usize| tokens * head_dim * 2;
            let copied = bytes(queries) + queries / rows * 2 * bytes(keys);
            hold(&reports[0], copied, bytes(queries) + queries * 4);
            // No tile of keys that a block does not see is read or multiplied.
            let causal = Problem {
                params: Attention {
                    causal: true,
                    ..Default::default()
                },
                ..dense(1, 1, 448, 448, head_dim)
            };
            let report = &launches::<bf16>(device, &causal, &format!("_d{head_dim}_"))[0];
            let tiles = 448usize.div_ceil(rows);
            let seen: usize = (1..=tiles).map(|tile| (tile * rows).min(448)).sum();
            hold(report, bytes(448) + 2 * bytes(seen), bytes(448) + 448 * 4);
            // Warps of 32 or 16 rows leave out what lies behind their last row, 16 keys at a time.
            let warp = rows / 4;
            let pairs: usize = (1..=448 / warp).map(|i| warp * (i * warp)).sum();
            let operations = 4 * pairs as u64 * head_dim as u64;
            let done = report.counters.tensor_flops;
            assert!(
                done <= operations * 21 / 20,
                "{head_dim}: {done} {operations}"
            );
        }
    }
}

#[test]
fn a_short_sequence_is_read_once() {
    for device in simulated() {
        // Enough heads that one block a head fills the device.
        let problem = dense(8, 64, 50, 50, 64);
        let report = &launches::<f16>(device, &problem, "_short_")[0];
        let bytes = 8 * 64 * 50 * 64 * 2;
        // A head's log-sum-exps are 200 bytes at any multiple of 8: seven or eight sectors.
        hold(report, 3 * bytes, bytes + 8 * 64 * 8 * 32);
        // 50 queries and keys are multiplied as 64.
        assert_eq!(report.counters.tensor_flops, 8 * 64 * 4 * 64 * 64 * 64);
    }
}

#[test]
fn split_keys_are_read_once() {
    for device in simulated() {
        // Four query heads share a key head, and one read.
        let problem = Problem {
            kv_heads: 1,
            ..dense(1, 4, 1, 4096, 128)
        };
        let reports = launches::<bf16>(device, &problem, "_split_");
        let parts = 4 * reports[0].grid[0] as usize;
        let keys = 2 * 4096 * 128 * 2;
        let queries = 4 * 128 * 2 * reports[0].grid[0] as usize;
        let partial = 4 * parts * 128 * 4;
        // Each part's weights are 8 bytes of a sector.
        hold(&reports[0], keys + queries, partial + 4 * parts * 32);
        // The peaks once, then both weights.
        let weights = 4 * parts * (4 + 8);
        let read = reports[1].counters.global_loads.bytes as usize;
        assert_eq!(read, partial + weights);
    }
}

#[test]
fn f32_tiles_are_read_once_a_block() {
    for device in simulated() {
        for head_dim in [64, 128, 256] {
            let (queries, keys) = (128, 128);
            let problem = dense(1, 1, queries, keys, head_dim);
            let reports = launches::<f32>(device, &problem, "_f32 ");
            let bytes = |tokens: usize| tokens * head_dim * 4;
            let copied = bytes(queries) + 2 * 2 * bytes(keys);
            hold(&reports[0], copied, bytes(queries) + queries * 4);
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((8, 0), 132, 227 * 1024);
    let plan = |problem: &Problem, dtype| {
        Plan::new(&gpu, &problem.geometry(), &problem.params, dtype)
            .unwrap()
            .to_string()
    };
    let vit = plan(&dense(64, 12, 197, 197, 64), DType::BF16);
    assert_eq!(
        vit,
        "attention forward [64, 197, 12, 64] on [64, 197, 12, 64] bf16\n  \
         attention_forward_short_d64_bf16 <<<[768, 1, 1], [128, 1, 1], 61440 B>>>: 208 keys stay \
         in shared memory (two blocks fit), 4 warps take 16 queries at a time, blocks a head: 1 (to \
         fill the GPU)"
    );
    // One image: as many blocks as give each warp one tile.
    let single = plan(&dense(1, 12, 197, 197, 64), DType::BF16);
    assert!(single.contains("<<<[48, 1, 1], [128, 1, 1]"), "{single}");
    let large = plan(&dense(8, 12, 577, 577, 64), DType::BF16);
    assert!(
        large.contains("attention_forward_d64_bf16 <<<[480, 1, 1]"),
        "{large}"
    );
    let decode = Problem {
        kv_heads: 8,
        ..dense(1, 32, 1, 8192, 128)
    };
    let plan_of = Plan::new(&gpu, &decode.geometry(), &decode.params, DType::F16).unwrap();
    let text = plan_of.to_string();
    assert!(
        text.contains("attention_split_d128_f16 <<<[128, 1, 1], [128"),
        "{text}"
    );
    assert_eq!(plan_of.workspace_bytes(), 32 * 64 * (128 * 4 + 8));
    assert!(Plan::new(&gpu, &decode.geometry(), &decode.params, DType::I32).is_err());
}
