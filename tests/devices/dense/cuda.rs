//! The raw entries on CUDA: guarded buffers, graph capture, traffic, plans.

use super::problems::AnyProblem;
use super::{Data, Filling, Float, Guarded, Problem, Target, bitwise, run, targets};
use crate::device::Cuda;
use half::bf16;
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::{Buffer, Context, group_norm, layer_norm, spatial};
use ocelli::params::{Activation, GroupNorm, MaxPool2d, ResizeBilinear};
use ocelli::{DType, Element};

/// Guarded buffers of a call, on the host as they were and on the device.
pub struct Call<'a, T, P> {
    problem: &'a P,
    context: Context,
    inputs: Vec<(Guarded<T>, Buffer)>,
    out: (Guarded<T>, Buffer),
    workspace: CudaSlice<u8>,
}

impl<'a, T: Float, P: Problem> Call<'a, T, P> {
    pub fn new(context: &Context, problem: &'a P, inputs: &[Vec<T>], shift: usize) -> Self {
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xffu8; problem.workspace().max(1)];
        let upload = |input: &Vec<T>| on_device(context, Guarded::holding(input, shift));
        Self {
            problem,
            context: context.clone(),
            inputs: inputs.iter().map(upload).collect(),
            out: on_device(context, Guarded::new(problem.len(), shift)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
        }
    }

    pub fn launch(&mut self) {
        let views: Vec<_> = self
            .inputs
            .iter()
            .map(|(host, buffer)| (host.range(), buffer.view::<T>().unwrap()))
            .collect();
        let views: Vec<_> = views
            .iter()
            .map(|(range, view)| view.slice(range.clone()))
            .collect();
        let mut out = self.out.1.view_mut().unwrap();
        let out = out.slice_mut(self.out.0.range());
        self.problem
            .cuda(&self.context, &views, out, self.workspace.as_view_mut());
    }

    pub fn out(&self) -> Vec<T> {
        self.out
            .0
            .check(&self.out.1.to_vec().unwrap())
            .unwrap()
            .to_vec()
    }
}

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> (Guarded<T>, Buffer) {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

/// The CUDA devices, or those with counters alone.
fn devices(counters: bool) -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(move |target| match target {
        Target::Cuda(device) if !counters || device.simulator.is_some() => Some(device),
        _ => None,
    })
}

/// A problem of each op, in whole rows of 16 bytes.
fn one_of_each() -> Vec<AnyProblem> {
    let input = [2, 12, 10, 32];
    let params = GroupNorm {
        groups: 4,
        epsilon: 1e-5,
        activation: Activation::Relu,
    };
    vec![
        AnyProblem::LayerNorm {
            rows: 50,
            width: 384,
            epsilon: 1e-5,
        },
        AnyProblem::GroupNorm {
            images: 2,
            pixels: 1200,
            channels: 32,
            params,
        },
        AnyProblem::MaxPool2d {
            input,
            params: MaxPool2d {
                kernel: 3,
                stride: 2,
                padding: 1,
            },
        },
        AnyProblem::UpsampleNearestAdd {
            input,
            output: [24, 20],
        },
        AnyProblem::ResizeBilinear {
            input,
            params: ResizeBilinear {
                height: 17,
                width: 25,
                antialias: false,
            },
        },
        AnyProblem::Activation {
            len: 4096,
            activation: Activation::Gelu,
        },
        AnyProblem::AddPositions {
            sequences: 3,
            tokens: 30,
            prefix: 1,
            width: 64,
        },
    ]
}

const FILLING: Filling = Filling {
    data: Data::Spread(2.0),
    seed: 3,
    shift: 0,
};

#[test]
fn a_graph_replays_each_op() {
    for device in devices(false).map(Cuda::for_capture) {
        for problem in one_of_each() {
            let inputs = FILLING.inputs::<bf16>(&problem);
            let expected = run(&Target::Cuda(device.clone()), &problem, &inputs, 0);
            let mut call = Call::new(&device.context, &problem, &inputs, 0);
            let stream = device.context.stream();
            stream
                .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                .unwrap();
            call.launch();
            let graph = stream
                .end_capture(CUgraphInstantiate_flags(0))
                .unwrap()
                .unwrap();
            assert!(call.out()[0].is_nan(), "captured, not run");
            graph.launch().unwrap();
            bitwise(&call.out(), &expected).unwrap();
            device.launches();
        }
    }
}

/// What is asked for: each input once (a norm's twice or with its weights, a window's as often as
/// windows hold it), each result once.
#[test]
fn traffic_is_that_of_inputs_and_results() {
    for device in devices(true) {
        for problem in one_of_each() {
            let inputs = FILLING.inputs::<bf16>(&problem);
            let lengths = problem.inputs();
            let mut call = Call::new(&device.context, &problem, &inputs, 0);
            device.launches();
            call.launch();
            call.context.synchronize().unwrap();
            let launches = device.launches();
            let sum = |of: fn(&ptxsim::report::Counters) -> u64| -> f64 {
                launches
                    .iter()
                    .map(|launch| of(&launch.counters) as f64)
                    .sum()
            };
            let (read, written) = (
                sum(|counters| 32 * counters.global_loads.sectors),
                sum(|counters| 32 * counters.global_stores.sectors),
            );
            let once = 2.0 * problem.len() as f64;
            let reads = match problem {
                // Weight and bias for each row, from the caches but for the first time.
                AnyProblem::LayerNorm { .. } => 3.0 * once,
                // x twice; weight, bias and half of that in moments, from the caches.
                AnyProblem::GroupNorm { .. } => 4.5 * once,
                // Nine pixels of a window, four of a mean.
                AnyProblem::MaxPool2d { .. } => 9.0 * once,
                AnyProblem::ResizeBilinear { .. } => 4.0 * once,
                // A pixel of x for each of the result.
                AnyProblem::UpsampleNearestAdd { .. } | AnyProblem::AddPositions { .. } => {
                    2.0 * once
                }
                _ => 2.0 * lengths.iter().sum::<usize>() as f64,
            };
            assert!(read <= 1.05 * reads, "{problem:?}: {read} for {reads}");
            let sums = if problem.workspace() > 0 {
                2.0 * problem.workspace() as f64
            } else {
                0.0
            };
            assert!(
                written <= 1.05 * once + sums,
                "{problem:?}: {written} for {once}"
            );
        }
    }
}

#[test]
fn plans_say_what_they_do_and_why() {
    let layer = layer_norm::Plan::new(197, 768, DType::BF16).unwrap();
    assert_eq!(
        layer.to_string(),
        "layer_norm [197, 768] bf16: 608256 bytes at least\n  layer_norm_bf16 <<<[25, 1, 1], [256, \
         1, 1], 24576 B>>>: a warp a row, as many warps as rows fit 48 KiB, at most 8"
    );
    assert!(layer_norm::Plan::new(1, 12_288, DType::F32).is_ok());
    assert!(layer_norm::Plan::new(1, 12_289, DType::F32).is_err());
    assert!(layer_norm::Plan::new(1, 8, DType::I32).is_err());
    let params = GroupNorm::default();
    let group = group_norm::Plan::new([1, 16_800, 256], &params, DType::F16).unwrap();
    assert!(
        group
            .to_string()
            .contains("group_norm_sums_f16 <<<[263, 1, 1], [256, 1, 1], 4096 B>>>: 64 pixels")
    );
    assert!(group_norm::Plan::new([1, 4, 8192], &params, DType::F16).is_err());
    assert!(group_norm::Plan::new([1, 0, 32], &params, DType::F16).is_err());
    let pool = MaxPool2d {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    let plan = spatial::Plan::max_pool2d([1, 400, 672, 64], &pool, DType::F16).unwrap();
    assert!(
        plan.to_string()
            .starts_with("max_pool2d [1, 400, 672, 64] to [200, 336] f16: 43008000 bytes")
    );
    assert!(spatial::Plan::upsample_nearest_add([1, 0, 2, 8], [4, 4], DType::F16).is_err());
}
