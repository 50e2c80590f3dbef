//! The layers between the products: norms, pooling, resizing, activations, embeddings. Every device
//! against the reference.

#[cfg(feature = "cuda")]
mod cuda;
mod examples;
#[cfg(feature = "cuda")]
mod launch;
mod problems;

use crate::device::{Target, targets};
use half::{bf16, f16};
#[cfg(feature = "cuda")]
use ocelli::cuda::{
    Context,
    cudarc::driver::{CudaView, CudaViewMut},
};
use ocelli::testing::budget::Budget;
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::{Data, cases, data};
use ocelli::{DType, Float};
use problems::any_problem;
use proptest::prelude::*;

/// An op and its extents.
trait Problem: std::fmt::Debug {
    /// Lengths of the float inputs.
    fn inputs(&self) -> Vec<usize>;
    /// Length of the result.
    fn len(&self) -> usize;
    /// The exact result.
    fn exact(&self, inputs: &[Vec<f64>]) -> Vec<f64>;
    /// The sum of each result's terms without their signs, which scales the error of f32; zeros where
    /// results must be exact.
    fn terms(&self, inputs: &[Vec<f64>]) -> Vec<f64>;
    /// The CPU's raw entry.
    fn cpu<T: Float>(&self, inputs: &[&[T]], out: &mut [T]);
    /// CUDA's raw entry.
    #[cfg(feature = "cuda")]
    fn cuda<T: Float>(
        &self,
        context: &Context,
        inputs: &[CudaView<'_, T>],
        out: CudaViewMut<'_, T>,
        workspace: CudaViewMut<'_, u8>,
    );
    /// Bytes of workspace on CUDA.
    fn workspace(&self) -> usize {
        0
    }
}

/// Data of a call.
#[derive(Debug, Clone, Copy)]
struct Filling {
    data: Data,
    seed: u64,
    /// Elements between an aligned address and the first one of each buffer.
    shift: usize,
}

impl Filling {
    fn inputs<T: Float>(&self, problem: &impl Problem) -> Vec<Vec<T>> {
        let lengths = problem.inputs().into_iter().enumerate();
        lengths
            .map(|(number, len)| {
                let values = self.data.values(len, self.seed ^ number as u64);
                values.into_iter().map(T::from_f32).collect()
            })
            .collect()
    }
}

fn wide<T: Float>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| f64::from(x.to_f32())).collect()
}

fn run<T: Float>(
    target: &Target,
    problem: &impl Problem,
    inputs: &[Vec<T>],
    shift: usize,
) -> Vec<T> {
    match target {
        Target::Cpu => {
            let inputs: Vec<_> = inputs
                .iter()
                .map(|input| Guarded::holding(input, shift))
                .collect();
            let views: Vec<&[T]> = inputs
                .iter()
                .map(|input| &input.all()[input.range()])
                .collect();
            let guarded = Guarded::<T>::new(problem.len(), shift);
            let mut all = guarded.all().to_vec();
            problem.cpu(&views, &mut all[guarded.range()]);
            guarded.check(&all).unwrap().to_vec()
        }
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => {
            let mut call = cuda::Call::new(&device.context, problem, inputs, shift);
            call.launch();
            let out = call.out();
            device.launches();
            out
        }
    }
}

/// Results are rounded to their type once; before that, 16 roundings of f32 are allowed of the terms.
fn judge<T: Float>(problem: &impl Problem, inputs: &[Vec<T>], out: &[T]) -> Result<(), String> {
    let inputs: Vec<Vec<f64>> = inputs.iter().map(|input| wide(input)).collect();
    let in_range = |x: f64| {
        let rounded = f64::from(T::from_f32(x as f32).to_f32());
        if rounded.is_infinite() { rounded } else { x }
    };
    let exact: Vec<f64> = problem.exact(&inputs).into_iter().map(in_range).collect();
    let rounded: Vec<f64> = exact
        .iter()
        .map(|&x| f64::from(T::from_f32(x as f32).to_f32()))
        .collect();
    let relative = match T::DTYPE {
        DType::F16 => f16::EPSILON.to_f64(),
        DType::BF16 => bf16::EPSILON.to_f64(),
        _ => 0.0,
    };
    let budget = Budget::of_sums(&exact, &problem.terms(&inputs), &rounded, DType::F32);
    let budget = budget.at_least(relative, &exact);
    within(&wide(out), &exact, &budget).map_err(|error| error.to_string())
}

fn check<T: Float>(
    target: &Target,
    problem: &impl Problem,
    filling: Filling,
) -> Result<(), TestCaseError> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        TestCaseError::fail(format!(
            "{target:?} {} {problem:?}: {what}: {error}",
            T::DTYPE
        ))
    };
    let inputs = filling.inputs::<T>(problem);
    let out = run(target, problem, &inputs, filling.shift);
    let again = run(target, problem, &inputs, filling.shift);
    bitwise(&out, &again).map_err(|error| fail("second run", &error))?;
    judge(problem, &inputs, &out).map_err(|error| fail("result", &error))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(96)))]
    #[test]
    fn every_device_agrees_with_the_reference(
        problem in any_problem(),
        data in data(),
        seed: u64,
        shift in prop_oneof![2 => Just(0usize), 1 => 1..9usize],
    ) {
        // What is not finite gives NaN in a norm, and is tried by itself in other ops.
        let data = if problem.spreads() && data == Data::Special { Data::Spread(3.0) } else { data };
        let filling = Filling { data, seed, shift };
        for target in targets() {
            check::<f32>(target, &problem, filling)?;
            check::<f16>(target, &problem, filling)?;
            check::<bf16>(target, &problem, filling)?;
        }
    }
}
