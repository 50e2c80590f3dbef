//! Runs of the forward kernels by themselves.

use super::problem::{Problem, unit};
use crate::device::Cuda;
use ocelli::Float;
use ocelli::cuda::Buffer;
use ocelli::cuda::attention::forward::{Arguments, Plan, launch};
use ocelli::params::attention::{Mask, Qkv};
use ocelli::testing::guard::Guarded;
use ptxsim::report::LaunchReport;

/// What a run gave.
pub struct Outcome<T> {
    pub out: Vec<T>,
    pub lse: Vec<f32>,
    pub reports: Vec<LaunchReport>,
    pub plan: String,
}

/// Runs the kernels in guarded buffers.
pub fn run<T: Float>(device: &Cuda, problem: &Problem) -> Outcome<T> {
    let context = &device.context;
    let geometry = problem.geometry();
    let plan = Plan::new(context.properties(), &geometry, &problem.params, T::DTYPE).unwrap();
    let data = problem.data::<T>();
    let upload = |data: &[T]| Buffer::from_slice(context, data).unwrap();
    let parts = data.inputs(problem);
    let inputs: Vec<Buffer> = parts.iter().map(|part| upload(part)).collect();
    let views: Vec<_> = inputs
        .iter()
        .map(|part| part.view::<T>().unwrap())
        .collect();
    let qkv = match &views[..] {
        [all] => Qkv::Packed(all.slice(..)),
        parts => Qkv::Separate {
            q: parts[0].slice(..),
            k: parts[1].slice(..),
            v: parts[2].slice(..),
        },
    };
    let q_len = data.q.len();
    let bias = problem.bias.map(|_| upload(&data.bias));
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

/// Compares with the definition: outputs to some units of the largest value, NaN for NaN.
pub fn agree<T: Float>(device: &Cuda, problem: &Problem) -> Outcome<T> {
    let outcome = run::<T>(device, problem);
    let again = run::<T>(device, problem);
    let bits = |outcome: &Outcome<T>| -> Vec<u32> {
        let out = outcome.out.iter().map(|x| x.to_f32().to_bits());
        out.chain(outcome.lse.iter().map(|x| x.to_bits())).collect()
    };
    assert_eq!(bits(&outcome), bits(&again), "{problem:?}");
    let (out, lse) = problem.exact_output(&problem.data::<T>());
    let unit = unit(T::DTYPE, 2f64.powi(-20));
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
