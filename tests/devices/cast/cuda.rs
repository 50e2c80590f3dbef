//! The raw entry: alignment, neighbours, graphs, traffic, plans.

use super::{same, values};
use crate::device::{Cuda, Target, targets};
use half::bf16;
use ocelli::cuda::cast::{Arguments, Plan, launch};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::{Buffer, Context, Properties};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::Data;
use ocelli::{DType, Float};

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

/// A call from f32 to bf16 between margins.
struct Call {
    context: Context,
    plan: Plan,
    values: Vec<f32>,
    from: (Guarded<f32>, Buffer),
    to: (Guarded<bf16>, Buffer),
}

impl Call {
    fn new(context: &Context, len: usize, shift: usize) -> Self {
        let values: Vec<f32> = values(Data::Spread(2.0), len, 5);
        let from = Guarded::holding(&values, shift);
        let to = Guarded::<bf16>::new(len, shift);
        Self {
            context: context.clone(),
            plan: Plan::new(context.properties(), DType::F32, DType::BF16, len).unwrap(),
            values,
            from: (
                from.clone(),
                Buffer::from_slice(context, from.all()).unwrap(),
            ),
            to: (to.clone(), Buffer::from_slice(context, to.all()).unwrap()),
        }
    }

    fn try_launch(&mut self) -> ocelli::Result<()> {
        let mut to = self.to.1.view_mut::<bf16>().unwrap();
        let mut arguments = Arguments::<f32, bf16> {
            from: self.from.1.view().unwrap().slice(self.from.0.range()),
            to: to.slice_mut(self.to.0.range()),
        };
        launch(&self.context, &self.plan, &mut arguments)
    }

    fn check(&self) {
        let back = self.to.1.to_vec::<bf16>().unwrap();
        let expected: Vec<bf16> = self.values.iter().map(|&x| Float::from_f32(x)).collect();
        same(self.to.0.check(&back).unwrap(), &expected).unwrap();
    }
}

#[test]
fn nothing_beside_the_output_is_written() {
    for device in devices() {
        for shift in [0, 1, 4, 8] {
            let mut call = Call::new(&device.context, 1003, shift);
            call.try_launch().unwrap();
            call.check();
            device.launches();
        }
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        let mut call = Call::new(&device.context, 100, 0);
        let stream = device.context.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        call.try_launch().unwrap();
        let flags = CUgraphInstantiate_flags(0);
        let graph = stream.end_capture(flags).unwrap().unwrap();
        let range = call.to.0.range();
        let unwritten = call.to.1.to_vec::<bf16>().unwrap();
        assert!(
            unwritten[range].iter().all(|x| x.is_nan()),
            "captured, not run"
        );
        graph.launch().unwrap();
        call.check();
        device.launches();
    }
}

#[test]
fn each_element_is_moved_once() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        let mut call = Call::new(&device.context, 8192, 0);
        device.launches();
        call.try_launch().unwrap();
        device.context.synchronize().unwrap();
        let counters = device.launches()[0].counters;
        let (read, written) = (counters.global_loads, counters.global_stores);
        // Two loads of a thread share a sector, which the second finds in the cache.
        assert_eq!((read.bytes, read.sectors), (4 * 8192, 2 * 4 * 8192 / 32));
        assert_eq!((written.bytes, written.sectors), (2 * 8192, 2 * 8192 / 32));
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((9, 0), 132, 227 * 1024);
    assert_eq!(
        Plan::new(&gpu, DType::F32, DType::BF16, 10_000_000)
            .unwrap()
            .to_string(),
        "cast [10000000] f32 to bf16: 60000000 bytes at least\n  cast_f32_bf16 <<<[1056, 1, 1], [256, 1, 1], 0 B>>>: 8 \
         elements a thread at once (16 bytes of a 16-bit type), at most 8 blocks a multiprocessor (its threads)"
    );
    for (from, to) in [
        (DType::F32, DType::F32),
        (DType::I32, DType::F32),
        (DType::F16, DType::I32),
    ] {
        assert!(Plan::new(&gpu, from, to, 1).is_err());
    }
    assert!(Plan::new(&gpu, DType::F32, DType::F16, 0).is_err());
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for device in devices() {
        let mut call = Call::new(&device.context, 10, 0);
        let plan = |to, len| Plan::new(device.context.properties(), DType::F32, to, len).unwrap();
        for (wrong, message) in [
            (plan(DType::BF16, 11), "from must be 11 elements, got 10"),
            (
                plan(DType::F16, 10),
                "to must be of the plan's type f16, got bf16",
            ),
        ] {
            call.plan = wrong;
            let error = call.try_launch().unwrap_err().to_string();
            assert_eq!(error, format!("cast: {message}"));
        }
    }
}
