//! Runs of the backward kernels by themselves.

use super::problem::{Data, Problem, part_of, unit, wide};
use crate::device::Cuda;
use ocelli::Float;
use ocelli::cuda::Buffer;
use ocelli::cuda::attention::backward::{Arguments, Plan, launch};
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::params::attention::{Mask, Qkv};
use ocelli::testing::guard::Guarded;
use ptxsim::report::LaunchReport;

/// Gradients `dq`, `dk`, `dv`, `dbias`.
pub type Gradients<T> = [Vec<T>; 4];

/// Runs the kernels, outputs in guarded buffers, with gradients of the bias where there is one.
pub fn run<T: Float>(
    device: &Cuda,
    problem: &Problem,
    data: &Data<T>,
) -> (Gradients<T>, Vec<LaunchReport>) {
    let (out, lse) = problem.exact_output(data);
    let out: Vec<T> = out.into_iter().map(|x| T::from_f32(x as f32)).collect();
    let mut lse: Vec<f32> = lse.into_iter().map(|x| x as f32).collect();
    for token in &problem.infinite_rows {
        lse[problem.first_row(*token)] = f32::INFINITY;
    }
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
    let parts = data.inputs(problem);
    let inputs: Vec<Buffer> = parts.iter().map(|part| upload(part)).collect();
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
    let [bias, out, dout] = [&data.bias, &out, &data.dout].map(|part| upload(part));
    let lse = Buffer::from_slice(context, &lse).unwrap();
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
    let unit = unit(T::DTYPE, 2f64.powi(-18));
    let exact = problem.exact_gradients(&data);
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
