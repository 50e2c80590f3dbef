//! The raw entry: guarded buffers, graphs, traffic.

use super::{Case, Inputs, Output};
use crate::device::{Cuda, Target, targets};
use half::bf16;
use ocelli::cuda::anchor_box_loss::{Arguments, Plan, launch};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::cudarc::driver::{CudaSlice, CudaView};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::BoxLoss;
use ocelli::testing::compare::bitwise;
use ocelli::testing::guard::Guarded;
use ocelli::{Element, Float};

pub fn run<T: Float>(device: &Cuda, case: &Case, inputs: &Inputs<T>) -> Output<T> {
    let mut forward = Call::new(&device.context, case, inputs, false);
    forward.launch();
    let mut gradient = Call::new(&device.context, case, inputs, true);
    gradient.launch();
    device.launches();
    Output {
        losses: [forward.results().0, gradient.results().0],
        gradients: gradient.results().1,
    }
}

/// A guarded buffer, on the host as it was and on the device.
type Both<T> = (Guarded<T>, Buffer);

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> Both<T> {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn view_of<T: Element>((host, buffer): &Both<T>) -> CudaView<'_, T> {
    buffer.view().unwrap().slice(host.range())
}

fn read<T: Element>((host, buffer): &Both<T>) -> Vec<T> {
    host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
}

struct Call<'a, T> {
    case: &'a Case,
    context: Context,
    plan: Plan,
    deltas: Vec<Both<T>>,
    boxes: Buffer,
    matched: Both<i32>,
    foreground: Option<Buffer>,
    upstream: Buffer,
    loss: Both<f32>,
    gradients: Option<Vec<Both<T>>>,
    workspace: CudaSlice<u8>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(context: &Context, case: &'a Case, inputs: &Inputs<T>, with_gradient: bool) -> Self {
        let gpu = context.properties();
        let plan = Plan::new(gpu, &case.anchors(), case.images, case.boxes, T::DTYPE).unwrap();
        // An output may be aligned otherwise than the input.
        let gradient = |level: &Guarded<T>| {
            on_device(context, Guarded::new(level.range().len(), case.shift / 2))
        };
        let foreground = inputs.foreground.as_ref();
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        Self {
            case,
            context: context.clone(),
            deltas: inputs
                .deltas
                .iter()
                .map(|level| on_device(context, level.clone()))
                .collect(),
            boxes: Buffer::from_slice(context, &inputs.boxes.concat()).unwrap(),
            matched: on_device(context, Guarded::holding(&inputs.matched, case.shift)),
            foreground: foreground.map(|counts| Buffer::from_slice(context, counts).unwrap()),
            upstream: Buffer::from_slice(context, &[case.upstream]).unwrap(),
            loss: on_device(context, Guarded::new(1, case.shift)),
            gradients: with_gradient.then(|| inputs.deltas.iter().map(gradient).collect()),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self) {
        let deltas: Vec<_> = self.deltas.iter().map(view_of).collect();
        let mut loss = self.loss.1.view_mut().unwrap();
        let mut whole: Vec<_> = self
            .gradients
            .iter_mut()
            .flatten()
            .map(|(host, buffer)| (host.range(), buffer.view_mut::<T>().unwrap()))
            .collect();
        let mut gradients: Vec<_> = whole
            .iter_mut()
            .map(|(range, view)| view.slice_mut(range.clone()))
            .collect();
        let mut arguments = Arguments::<T> {
            deltas: &deltas,
            boxes: self.boxes.view().unwrap(),
            matched: view_of(&self.matched),
            foreground: self
                .foreground
                .as_ref()
                .map(|counts| counts.view().unwrap()),
            upstream: Some(self.upstream.view().unwrap()),
            loss: loss.slice_mut(self.loss.0.range()),
            gradients: (!gradients.is_empty()).then_some(&mut gradients),
            workspace: self.workspace.as_view_mut(),
        };
        launch(
            &self.context,
            &self.plan,
            &self.case.params(),
            &mut arguments,
        )
        .unwrap();
    }

    fn results(&self) -> (f32, Vec<Vec<T>>) {
        let gradients = self.gradients.iter().flatten().map(read).collect();
        (read(&self.loss)[0], gradients)
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

fn giou() -> Case {
    Case {
        images: 2,
        boxes: 7,
        // Rows of a level begin at whole sectors.
        grids: vec![[20, 30], [10, 16]],
        loss: BoxLoss::Giou,
        sparsity: 50,
        counted: true,
        shift: 0,
        upstream: -1.5,
        seed: 12,
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        let case = giou();
        let inputs = case.inputs::<bf16>();
        let expected = run(&device, &case, &inputs);
        let mut call = Call::new(&device.context, &case, &inputs, true);
        let stream = device.context.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        call.launch();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.results().0.is_nan(), "captured, not run");
        graph.launch().unwrap();
        let (loss, gradients) = call.results();
        device.launches();
        assert_eq!(loss, expected.losses[1]);
        for (ours, expected) in gradients.iter().zip(&expected.gradients) {
            bitwise(ours, expected).unwrap();
        }
    }
}

/// Matches are read and gradients written once; the matched rows, one in 50, and a scalar a thread besides.
#[test]
fn only_matches_gradients_and_matched_rows_are_moved() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        for with_gradient in [false, true] {
            let case = giou();
            let inputs = case.inputs::<bf16>();
            let matched = case.rows(&inputs).len() as u64;
            let mut call = Call::new(&device.context, &case, &inputs, with_gradient);
            device.launches();
            call.launch();
            device.context.synchronize().unwrap();
            let counters = device.launches()[0].counters;
            let rows = 2 * case.anchors().count() as u64;
            let warps = rows.div_ceil(32) + 2;
            // Of a matched row: 4 deltas and a box; of a warp: the count and the scale of its image.
            let most = 4 * rows + matched * (4 * 32 + 32) + 2 * 32 * warps;
            let loaded = counters.global_loads.sectors * 32;
            assert!(loaded as f64 <= 1.05 * most as f64, "{counters:?}");
            let written = if with_gradient { 8 * rows } else { 0 };
            assert!(counters.global_stores.sectors * 32 <= written + 32 * rows.div_ceil(256) + 64);
        }
    }
}
