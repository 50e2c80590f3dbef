//! The raw entry: buffers of the caller, graphs, traffic, plans.

use super::{Case, Output, clusters, expected, nms};
use crate::device::{Cuda, Target, targets};
use ocelli::Element;
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::soft_nms::{Arguments, Plan, launch};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::{SoftNms, SoftNmsMethod};
use ocelli::testing::guard::Guarded;

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
    kept_scores: (Guarded<f32>, Buffer),
    kept: (Guarded<i32>, Buffer),
    workspace: CudaSlice<u8>,
}

fn guarded<T: Element>(context: &Context, len: usize) -> (Guarded<T>, Buffer) {
    let guarded = Guarded::<T>::new(len, 0);
    let buffer = Buffer::from_slice(context, guarded.all()).unwrap();
    (guarded, buffer)
}

fn read<T: Element>((guarded, buffer): &(Guarded<T>, Buffer)) -> Vec<T> {
    guarded.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
}

impl<'a> Call<'a> {
    fn new(context: &Context, case: &'a Case, inputs: &nms::Inputs) -> Self {
        let (images, max_output) = (case.boxes.images, case.max_output());
        let plan = Plan::new(images, case.boxes.boxes, max_output).unwrap();
        let integers = |values: &Vec<i32>| Buffer::from_slice(context, values).unwrap();
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes().max(1)];
        Self {
            case,
            context: context.clone(),
            boxes: Buffer::from_slice(context, &inputs.boxes).unwrap(),
            scores: Buffer::from_slice(context, &inputs.scores).unwrap(),
            classes: inputs.classes.as_ref().map(integers),
            counts: inputs.counts.as_ref().map(integers),
            indices: guarded(context, images * max_output),
            kept_scores: guarded(context, images * max_output),
            kept: guarded(context, images),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn try_launch(&mut self, params: &SoftNms) -> ocelli::Result<()> {
        let mut indices = self.indices.1.view_mut::<i32>().unwrap();
        let mut kept_scores = self.kept_scores.1.view_mut::<f32>().unwrap();
        let mut kept = self.kept.1.view_mut::<i32>().unwrap();
        let mut arguments = Arguments {
            boxes: self.boxes.view().unwrap(),
            scores: self.scores.view().unwrap(),
            classes: self.classes.as_ref().map(|b| b.view().unwrap()),
            counts: self.counts.as_ref().map(|b| b.view().unwrap()),
            indices: indices.slice_mut(self.indices.0.range()),
            kept_scores: kept_scores.slice_mut(self.kept_scores.0.range()),
            kept: kept.slice_mut(self.kept.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, params, &mut arguments)
    }

    fn launch(&mut self) {
        let params = self.case.params;
        self.try_launch(&params).unwrap();
    }

    fn results(&self) -> Output {
        Output {
            indices: read(&self.indices),
            scores: read(&self.kept_scores),
            counts: read(&self.kept),
        }
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

/// In registers and in memory.
fn routes() -> [Case; 2] {
    [700, 5300].map(|boxes| {
        let mut case = clusters(2, boxes, 30, SoftNmsMethod::Linear);
        case.boxes.counted = true;
        case
    })
}

#[test]
fn nothing_beside_the_outputs_is_written() {
    for device in devices() {
        for case in routes() {
            let inputs = case.boxes.inputs();
            let mut call = Call::new(&device.context, &case, &inputs);
            call.launch();
            assert_eq!(call.results(), expected(&case, &inputs), "{case:?}");
            device.launches();
        }
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        for case in routes() {
            let inputs = case.boxes.inputs();
            let expected = expected(&case, &inputs);
            let mut call = Call::new(&device.context, &case, &inputs);
            let stream = device.context.stream();
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).unwrap();
            call.launch();
            let flags = CUgraphInstantiate_flags(0);
            let graph = stream.end_capture(flags).unwrap().unwrap();
            assert_ne!(call.results(), expected, "captured, not run");
            for _ in 0..2 {
                graph.launch().unwrap();
                assert_eq!(call.results(), expected);
            }
            device.launches();
        }
    }
}

/// A box is read once, and once more by each of sixteen warps' leaders for each box kept.
#[test]
fn boxes_in_registers_are_read_once() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        let case = clusters(2, 5000, 20, SoftNmsMethod::Gaussian);
        let inputs = case.boxes.inputs();
        let mut call = Call::new(&device.context, &case, &inputs);
        device.launches();
        call.launch();
        device.context.synchronize().unwrap();
        let reports = device.launches();
        assert_eq!(reports.len(), 1, "one launch");
        let counters = reports[0].counters;
        let leaders = 2 * 20 * 16 * 20;
        let read = counters.global_loads.bytes;
        assert!(read <= 2 * 5000 * 24 + leaders, "{counters:?}");
        assert_eq!(counters.global_stores.bytes, 2 * (8 * 20 + 4));
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    assert_eq!(
        Plan::new(8, 5000, 300).unwrap().to_string(),
        "soft_nms [8, 5000], at most 300 kept: 979232 bytes at least\n  soft_nms_registers_f32 <<<[8, 1, 1], \
         [512, 1, 1], 0 B>>>: a block an image (every kept box changes the next choice), at most 10 boxes a thread \
         in registers (more would spill)"
    );
    let large = Plan::new(1, 6000, 6000).unwrap();
    assert!(
        large
            .to_string()
            .contains("scores in 24064 bytes of workspace")
    );
    assert!(Plan::new(1, 0, 1).is_err());
    assert!(Plan::new(1, 5, 6).is_err());
    assert!(Plan::new(1, (1 << 20) + 1, 1).is_err());
}

#[test]
fn what_does_not_fit_the_plan_is_an_error() {
    for device in devices() {
        let case = clusters(1, 6, 3, SoftNmsMethod::Linear);
        let inputs = case.boxes.inputs();
        let mut call = Call::new(&device.context, &case, &inputs);
        let params = SoftNms {
            max_output: Some(4),
            ..case.params
        };
        let error = call.try_launch(&params).unwrap_err().to_string();
        assert_eq!(error, "soft_nms: max_output must be the plan's 3, got 4");
        call.plan = Plan::new(1, 7, 3).unwrap();
        let error = call.try_launch(&case.params).unwrap_err().to_string();
        assert_eq!(error, "soft_nms: boxes must be 28 elements, got 24");
    }
}
