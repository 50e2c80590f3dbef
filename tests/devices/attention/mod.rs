//! Attention: every device against the reference, in both directions.

#[cfg(feature = "cuda")]
mod backward_budget;
#[cfg(feature = "cuda")]
mod backward_hopper;
#[cfg(feature = "cuda")]
mod backward_kernels;
#[cfg(feature = "cuda")]
mod backward_run;
mod case;
#[cfg(feature = "cuda")]
mod cuda;
mod forms;
#[cfg(feature = "cuda")]
mod forward_budget;
#[cfg(feature = "cuda")]
mod forward_hopper;
#[cfg(feature = "cuda")]
mod forward_kernels;
#[cfg(feature = "cuda")]
mod forward_run;
mod golden;
mod isolation;
mod mistakes;
mod naive;
mod probabilities;
#[cfg(feature = "cuda")]
mod problem;
mod shapes;
mod truth;

use crate::device::{Target, targets};
use case::{Case, Form, Operands, case, count};
use half::{bf16, f16};
use naive::Naive;
use ocelli::params::attention::{Mask, Qkv};
use ocelli::testing::compare::{bitwise, within};
use ocelli::testing::guard::Guarded;
use ocelli::{DType, Float};
use proptest::prelude::*;
use truth::{Values, exact, wide};

/// Results of both directions.
#[derive(Debug, Clone, PartialEq)]
struct Output<T> {
    out: Vec<T>,
    lse: Vec<f32>,
    dq: Vec<T>,
    dk: Vec<T>,
    dv: Vec<T>,
    dbias: Vec<T>,
}

impl<T: Float> Output<T> {
    fn wide(&self) -> Values {
        Values {
            out: wide(&self.out),
            lse: wide(&self.lse),
            dq: wide(&self.dq),
            dk: wide(&self.dk),
            dv: wide(&self.dv),
            dbias: wide(&self.dbias),
        }
    }

    fn same_bits(&self, other: &Self) -> Result<(), String> {
        let pairs = [
            ("out", &self.out, &other.out),
            ("dq", &self.dq, &other.dq),
            ("dk", &self.dk, &other.dk),
            ("dv", &self.dv, &other.dv),
            ("dbias", &self.dbias, &other.dbias),
        ];
        for (name, ours, theirs) in pairs {
            bitwise(ours, theirs).map_err(|error| format!("{name}: {error}"))?;
        }
        bitwise(&self.lse, &other.lse).map_err(|error| format!("lse: {error}"))
    }
}

/// Buffers as the case lays them out.
fn laid_out<T: Float>(case: &Case, [q, k, v]: [&[T]; 3]) -> Qkv<Vec<T>> {
    if case.form != Form::Projection {
        return Qkv::Separate {
            q: q.to_vec(),
            k: k.to_vec(),
            v: v.to_vec(),
        };
    }
    let width = case.heads * case.head_dim;
    let rows = q.chunks(width).zip(k.chunks(width)).zip(v.chunks(width));
    Qkv::Packed(rows.flat_map(|((q, k), v)| [q, k, v].concat()).collect())
}

/// The way back from [`laid_out`].
fn taken_apart<T: Float>(case: &Case, buffers: Qkv<Vec<T>>) -> [Vec<T>; 3] {
    let packed = match buffers {
        Qkv::Separate { q, k, v } => return [q, k, v],
        Qkv::Packed(packed) => packed,
    };
    let width = case.heads * case.head_dim;
    let part = |part: usize| {
        packed
            .chunks(width)
            .skip(part)
            .step_by(3)
            .flatten()
            .copied()
            .collect()
    };
    [part(0), part(1), part(2)]
}

fn run<T: Float>(target: &Target, case: &Case, operands: &Operands<T>) -> Output<T> {
    match target {
        Target::Cpu => run_cpu(case, operands),
        #[cfg(feature = "cuda")]
        Target::Cuda(device) => cuda::run(device, case, operands),
    }
}

/// A buffer to be written, and the memory around it.
struct Room<T> {
    guarded: Guarded<T>,
    all: Vec<T>,
}

impl<T: ocelli::Element> Room<T> {
    fn new(len: usize) -> Self {
        let guarded = Guarded::new(len, 0);
        Self {
            all: guarded.all().to_vec(),
            guarded,
        }
    }

    fn get(&mut self) -> &mut [T] {
        let range = self.guarded.range();
        &mut self.all[range]
    }

    fn take(self) -> Vec<T> {
        self.guarded.check(&self.all).unwrap().to_vec()
    }
}

fn run_cpu<T: Float>(case: &Case, operands: &Operands<T>) -> Output<T> {
    use ocelli::cpu::attention::{Inputs, backward, forward};
    let (geometry, layouts) = (case.geometry(), case.layouts());
    let (offsets, lengths) = (case.offsets(), case.kv_lengths());
    let qkv = laid_out(case, [&operands.q, &operands.k, &operands.v]);
    let views = match &qkv {
        Qkv::Separate { q, k, v } => Qkv::Separate {
            q: &q[..],
            k: &k[..],
            v: &v[..],
        },
        Qkv::Packed(all) => Qkv::Packed(&all[..]),
    };
    let mask = Mask {
        bias: case.bias.map(|_| &operands.bias[..]),
        kv_lengths: case.has_kv_lengths.then_some(&lengths[..]),
        offsets: (case.form == Form::Sequences)
            .then(|| offsets.each_ref().map(|offsets| &offsets[..])),
    };
    let (mut out, mut lse) = (
        Room::<T>::new(operands.q.len()),
        Room::<f32>::new(case.rows()),
    );
    forward(&geometry, &case.params, views, &mask, out.get(), lse.get()).unwrap();
    let (out, lse) = (out.take(), lse.take());
    let mut given = lse.clone();
    if let Some((row, number)) = operands.given_lse {
        given[row] = number;
    }
    let inputs = Inputs {
        qkv: views,
        mask,
        out: &out,
        lse: &given,
        dout: &operands.dout,
        dlse: case.has_dlse.then_some(&operands.dlse[..]),
    };
    let mut gradients = views.zip(&views, |_, view| Room::<T>::new(view.len()));
    let mut dbias = case.bias.map(|_| Room::<T>::new(operands.bias.len()));
    let rooms = gradients.each_mut().try_map(|room| Ok(room.get())).unwrap();
    backward(
        &geometry,
        &layouts,
        &case.params,
        &inputs,
        rooms,
        dbias.as_mut().map(Room::get),
    )
    .unwrap();
    let [dq, dk, dv] = taken_apart(case, gradients.try_map(|room| Ok(room.take())).unwrap());
    Output {
        out,
        lse,
        dq,
        dk,
        dv,
        dbias: dbias.map_or_else(Vec::new, Room::take),
    }
}

fn check<T: Float>(target: &Target, case: &Case) -> Result<(), TestCaseError> {
    let fail = |what: String| TestCaseError::fail(format!("{target:?} {}: {what}", T::DTYPE));
    let operands = Operands::<T>::new(case);
    let output = run(target, case, &operands);
    output
        .same_bits(&run(target, case, &operands))
        .map_err(|error| fail(format!("second run: {error}")))?;
    let exact = exact(case, &operands);
    let budgets = Naive::new(case, &operands).budgets::<T>(case, &exact);
    let actual = output.wide();
    let parts = actual
        .named(case)
        .into_iter()
        .zip(exact.named(case))
        .zip(&budgets);
    for (((name, actual, _), (_, exact, _)), budget) in parts {
        within(actual, exact, budget).map_err(|error| fail(format!("{name}: {error}")))?;
    }
    Ok(())
}

/// Checks a case of one type on every device.
fn check_all(case: &Case, dtype: DType) -> Result<(), TestCaseError> {
    for target in targets() {
        match dtype {
            DType::F16 => check::<f16>(target, case)?,
            DType::BF16 => check::<bf16>(target, case)?,
            _ => check::<f32>(target, case)?,
        }
    }
    Ok(())
}

fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(count()))]
    #[test]
    fn every_device_agrees_with_the_reference(case in case(), dtype in dtype()) {
        check_all(&case, dtype)?;
    }
}
