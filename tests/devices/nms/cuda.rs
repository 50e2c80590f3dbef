//! The raw entry: buffers of the caller, graphs, traffic.

use super::{Case, Inputs, Layout, expected};
use crate::device::{Cuda, Target, targets};
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::nms::{Arguments, Plan, launch};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::Nms;
use ocelli::testing::guard::Guarded;

fn sparse(boxes: usize, max_output: usize) -> Case {
    Case {
        images: 2,
        boxes,
        layout: Layout::Clusters,
        classes: Some(3),
        tied_scores: false,
        counted: true,
        params: Nms {
            max_output: Some(max_output),
            ..Nms::default()
        },
        seed: 11,
    }
}

/// Guarded buffers of a call, on the host as they were and on the device.
struct Call<'a> {
    case: &'a Case,
    context: Context,
    plan: Plan,
    boxes: Buffer,
    scores: Buffer,
    classes: Option<Buffer>,
    counts: Option<Buffer>,
    indices: (Guarded<i32>, Buffer),
    kept: (Guarded<i32>, Buffer),
    workspace: CudaSlice<u8>,
}

impl<'a> Call<'a> {
    fn new(context: &Context, case: &'a Case, inputs: &Inputs) -> Self {
        let max_output = case.params.max_output.unwrap_or(case.boxes);
        let plan = Plan::new(context.properties(), case.images, case.boxes, max_output).unwrap();
        let upload = |values: &[f32]| Buffer::from_slice(context, values).unwrap();
        let integers = |values: &Vec<i32>| Buffer::from_slice(context, values).unwrap();
        let guarded = |len| {
            let guarded = Guarded::<i32>::new(len, 0);
            let buffer = Buffer::from_slice(context, guarded.all()).unwrap();
            (guarded, buffer)
        };
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes().max(1)];
        Self {
            case,
            context: context.clone(),
            boxes: upload(&inputs.boxes),
            scores: upload(&inputs.scores),
            classes: inputs.classes.as_ref().map(integers),
            counts: inputs.counts.as_ref().map(integers),
            indices: guarded(case.images * max_output),
            kept: guarded(case.images),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self) {
        let params = self.case.params;
        self.try_launch(&params).unwrap();
    }

    fn try_launch(&mut self, params: &Nms) -> ocelli::Result<()> {
        let mut indices = self.indices.1.view_mut::<i32>().unwrap();
        let mut kept = self.kept.1.view_mut::<i32>().unwrap();
        let mut arguments = Arguments {
            boxes: self.boxes.view().unwrap(),
            scores: self.scores.view().unwrap(),
            classes: self.classes.as_ref().map(|b| b.view().unwrap()),
            counts: self.counts.as_ref().map(|b| b.view().unwrap()),
            indices: indices.slice_mut(self.indices.0.range()),
            kept: kept.slice_mut(self.kept.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, params, &mut arguments)
    }

    fn results(&self) -> (Vec<i32>, Vec<i32>) {
        let read = |(guarded, buffer): &(Guarded<i32>, Buffer)| {
            guarded.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
        };
        (read(&self.indices), read(&self.kept))
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

#[test]
fn nothing_beside_the_outputs_is_written() {
    for device in devices() {
        for boxes in [700, 6000] {
            let case = sparse(boxes, boxes.min(100));
            let inputs = case.inputs();
            let mut call = Call::new(&device.context, &case, &inputs);
            call.launch();
            assert_eq!(call.results(), expected(&case, &inputs), "{boxes} boxes");
            device.launches();
        }
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        for boxes in [300, 5500] {
            let case = sparse(boxes, 50);
            let inputs = case.inputs();
            let mut call = Call::new(&device.context, &case, &inputs);
            let stream = device.context.stream();
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).unwrap();
            call.launch();
            let graph = stream
                .end_capture(CUgraphInstantiate_flags(0))
                .unwrap()
                .unwrap();
            assert_ne!(
                call.results(),
                expected(&case, &inputs),
                "captured, not run"
            );
            for _ in 0..2 {
                graph.launch().unwrap();
                assert_eq!(call.results(), expected(&case, &inputs));
            }
            device.launches();
        }
    }
}

/// Scores, the boxes behind them and the classes are read once for the sort and once, in sorted
/// order, for the registers; the tests themselves touch no global memory.
#[test]
fn boxes_that_fit_on_chip_are_read_twice_at_most() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        let case = Case {
            counted: false,
            ..sparse(5000, 300)
        };
        let inputs = case.inputs();
        let mut call = Call::new(&device.context, &case, &inputs);
        device.launches();
        call.launch();
        device.context.synchronize().unwrap();
        let reports = device.launches();
        assert_eq!(reports.len(), 1, "one launch");
        let counters = reports[0].counters;
        let boxes = 2 * 5000;
        assert!(
            counters.global_loads.bytes <= boxes * (4 + 16 + 16 + 4),
            "{counters:?}"
        );
        assert_eq!(counters.global_stores.bytes, 2 * (300 + 1) * 4);
        // Of an image, 26 passes of the sort over 40 kB, in wavefronts of 128 bytes, and as many again for the tiles.
        let wavefronts = counters.shared_loads.wavefronts + counters.shared_stores.wavefronts;
        assert!(wavefronts <= 2 * 50_000, "{wavefronts}");
    }
}

#[test]
fn scalars_that_do_not_fit_the_plan_are_an_error() {
    for device in devices() {
        let case = sparse(50, 20);
        let mut call = Call::new(&device.context, &case, &case.inputs());
        for (max_output, is) in [(Some(19), 19), (None, 50)] {
            let params = Nms {
                max_output,
                ..case.params
            };
            let error = call.try_launch(&params).unwrap_err().to_string();
            let expected = format!("nms: max_output must be the plan's 20, got {is}");
            assert_eq!(error, expected);
        }
    }
}
