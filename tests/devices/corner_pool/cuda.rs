//! The raw entry on CUDA: guarded buffers, graph capture, traffic, plans.

use super::{Case, Data, Direction, Float, Guarded, Layout, Output, Target, bitwise, targets};
use crate::device::Cuda;
use half::bf16;
use ocelli::cuda::corner_pool::{Backward, Forward, Pass, Plan, backward, forward};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::Scan;
use ocelli::{DType, Element};

pub fn run<T: Float>(device: &Cuda, case: &Case) -> Output<T> {
    let mut call = Call::<T>::new(&device.context, case);
    call.forward(false);
    let alone = call.pooled();
    call.forward(true);
    call.backward();
    device.launches();
    Output {
        alone,
        pooled: call.pooled(),
        bits: call.bits(),
        gradient: result(&call.gradient),
    }
}

/// Guarded buffers, on the host as they were and on the device.
type Pair<T> = (Guarded<T>, Buffer);

struct Call<T> {
    context: Context,
    scan: Scan,
    map: Pair<T>,
    upstream: Pair<T>,
    pooled: Pair<T>,
    bits: Pair<i32>,
    gradient: Pair<T>,
}

impl<T: Float> Call<T> {
    fn new(context: &Context, case: &Case) -> Self {
        let (scan, shift) = (case.scan(), case.shift);
        let len = scan.elements();
        Self {
            context: context.clone(),
            scan,
            map: on_device(context, Guarded::holding(&case.map(), shift)),
            upstream: on_device(context, Guarded::holding(&case.upstream(), shift)),
            // An output may be aligned otherwise than the input.
            pooled: on_device(context, Guarded::new(len, shift / 2)),
            bits: on_device(context, Guarded::new(scan.bit_words(), shift)),
            gradient: on_device(context, Guarded::new(len, shift)),
        }
    }

    fn forward(&mut self, with_bits: bool) {
        let plan = Plan::new(self.scan, T::DTYPE, Pass::Forward).unwrap();
        let mut output = self.pooled.1.view_mut().unwrap();
        let mut bits = self.bits.1.view_mut().unwrap();
        let mut arguments = Forward::<T> {
            input: self.map.1.view().unwrap().slice(self.map.0.range()),
            output: output.slice_mut(self.pooled.0.range()),
            bits: with_bits.then(|| bits.slice_mut(self.bits.0.range())),
            accumulate: false,
        };
        forward(&self.context, &plan, &mut arguments).unwrap();
    }

    fn backward(&mut self) {
        let plan = Plan::new(self.scan, T::DTYPE, Pass::Backward).unwrap();
        let mut gradient = self.gradient.1.view_mut().unwrap();
        let mut arguments = Backward::<T> {
            upstream: self
                .upstream
                .1
                .view()
                .unwrap()
                .slice(self.upstream.0.range()),
            bits: self.bits.1.view().unwrap().slice(self.bits.0.range()),
            gradient: gradient.slice_mut(self.gradient.0.range()),
        };
        backward(&self.context, &plan, &mut arguments).unwrap();
    }

    fn pooled(&self) -> Vec<T> {
        result(&self.pooled)
    }

    fn bits(&self) -> Vec<i32> {
        result(&self.bits)
    }
}

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> Pair<T> {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn result<T: Element>((host, buffer): &Pair<T>) -> Vec<T> {
    host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
}

fn cornernet(side: usize, channels: usize, direction: Direction, layout: Layout) -> Case {
    let shape = match layout {
        Layout::ChannelsLast => [1, side, side, channels],
        Layout::ChannelsFirst => [1, channels, side, side],
    };
    Case {
        shape,
        direction,
        layout,
        data: Data::Spread(2.0),
        seed: 3,
        shift: 0,
    }
}

#[test]
fn a_graph_replays_the_op() {
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let device = &device.for_capture();
        let case = cornernet(40, 8, Direction::Left, Layout::ChannelsLast);
        let expected = run::<bf16>(device, &case);
        let mut call = Call::<bf16>::new(&device.context, &case);
        let stream = device.context.stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        call.forward(true);
        call.backward();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.pooled()[0].to_f32().is_nan(), "captured, not run");
        graph.launch().unwrap();
        bitwise(&call.pooled(), &expected.pooled).unwrap();
        bitwise(&result(&call.gradient), &expected.gradient).unwrap();
        device.launches();
    }
}

/// CornerNet's maps: each is read or written once, beside a bit an element.
#[test]
fn maps_are_moved_once() {
    for target in targets() {
        let Target::Cuda(
            device @ Cuda {
                simulator: Some(_), ..
            },
        ) = target
        else {
            continue;
        };
        for layout in [Layout::ChannelsLast, Layout::ChannelsFirst] {
            for direction in [Direction::Top, Direction::Right] {
                traffic::<f32>(device, &cornernet(128, 16, direction, layout));
                traffic::<bf16>(device, &cornernet(128, 16, direction, layout));
            }
        }
    }
}

fn traffic<T: Float>(device: &Cuda, case: &Case) {
    let mut call = Call::<T>::new(&device.context, case);
    device.launches();
    call.forward(false);
    call.forward(true);
    call.backward();
    call.context.synchronize().unwrap();
    let launches = device.launches();
    let map = (case.scan().elements() * size_of::<T>()) as u64;
    let bits = (4 * case.scan().bit_words()) as u64;
    let floors = [(map, map), (map, map + bits), (map + bits, map)];
    for (launch, (read, written)) in launches.iter().zip(floors) {
        let counters = &launch.counters;
        let moved = 32 * (counters.global_loads.sectors + counters.global_stores.sectors);
        let floor = read + written;
        assert!(
            100 * moved <= 105 * floor,
            "{}: {moved} bytes for {floor}: {case:?}",
            launch.kernel
        );
        let conflicts = counters.shared_loads.conflicts + counters.shared_stores.conflicts;
        assert_eq!(conflicts, 0, "{}", launch.kernel);
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let scan = |direction, layout| Scan::new([8, 128, 128, 128], direction, layout);
    let top = scan(Direction::Top, Layout::ChannelsLast);
    let plan = Plan::new(top, DType::BF16, Pass::Forward).unwrap();
    assert_eq!(
        plan.to_string(),
        "corner_pool [8, 128, 16384] bf16 Forward: 67108864 bytes at least, 2097152 more with bits\n  \
         corner_pool_forward_columns_bf16 <<<[1024, 1, 1], [256, 1, 1], 0 B>>>: 16 segments of 8 steps \
         (one byte of bits) by 16 vectors of a row; a block has whole columns, so that carries stay in it"
    );
    let left = scan(Direction::Left, Layout::ChannelsFirst);
    let plan = Plan::new(left, DType::F32, Pass::Backward).unwrap();
    assert_eq!(
        plan.to_string(),
        "corner_pool [131072, 128, 1] f32 Backward: 134217728 bytes at least, 2097152 more with bits\n  \
         corner_pool_backward_lines_f32 <<<[16384, 1, 1], [256, 1, 1], 0 B>>>: 32 threads a line, to \
         hold most of it at once"
    );
    let huge = |outer| Scan { outer, ..left };
    assert!(Plan::new(huge(1 << 31), DType::F32, Pass::Forward).is_err());
    assert!(Plan::new(huge(usize::MAX), DType::F32, Pass::Forward).is_err());
    assert!(Plan::new(left, DType::I32, Pass::Forward).is_err());
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let case = cornernet(3, 5, Direction::Top, Layout::ChannelsLast);
        let mut call = Call::<f32>::new(&device.context, &case);
        let other = Scan {
            inner: 16,
            ..call.scan
        };
        for (scan, pass, message) in [
            (other, Pass::Forward, "input must be 48 elements, got 45"),
            (
                call.scan,
                Pass::Backward,
                "plan must be for Forward, got Backward",
            ),
        ] {
            let plan = Plan::new(scan, DType::F32, pass).unwrap();
            let mut output = call.pooled.1.view_mut().unwrap();
            let mut arguments = Forward::<f32> {
                input: call.map.1.view().unwrap().slice(call.map.0.range()),
                output: output.slice_mut(call.pooled.0.range()),
                bits: None,
                accumulate: false,
            };
            let error = forward(&device.context, &plan, &mut arguments).unwrap_err();
            assert_eq!(error.to_string(), format!("corner_pool: {message}"));
        }
    }
}
