//! The raw entry: buffers of the caller, graphs, traffic.

use super::{Case, Inputs, Layout, Output, expected};
use crate::device::{Cuda, Target, targets};
use ocelli::Element;
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::match_anchors::{Arguments, Plan, launch};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::MatchAnchors;
use ocelli::testing::guard::Guarded;

fn spread(boxes: usize) -> Case {
    Case {
        images: 2,
        boxes,
        grids: vec![[12, 20], [6, 10]],
        detectron2: true,
        layout: Layout::Spread,
        counted: true,
        params: MatchAnchors::default(),
        seed: 3,
    }
}

/// A guarded buffer, on the host as it was and on the device.
type Both = (Guarded<i32>, Buffer);

struct Call {
    context: Context,
    plan: Plan,
    boxes: Buffer,
    classes: Buffer,
    counts: Option<Buffer>,
    labels: Both,
    matched: Both,
    foreground: Both,
    workspace: CudaSlice<u8>,
}

impl Call {
    fn new(context: &Context, case: &Case, inputs: &Inputs) -> Self {
        let anchors = case.anchors();
        let plan = Plan::new(&anchors, case.images, case.boxes, &case.params).unwrap();
        fn upload<T: Element>(context: &Context, values: &[T]) -> Buffer {
            Buffer::from_slice(context, values).unwrap()
        }
        let guarded = |len: usize, shift: usize| {
            let host = Guarded::<i32>::new(len, shift);
            let buffer = upload(context, host.all());
            (host, buffer)
        };
        let all = case.images * anchors.count();
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        Self {
            context: context.clone(),
            boxes: upload(context, &inputs.boxes.concat()),
            classes: upload(context, &inputs.classes),
            counts: inputs.counts.as_ref().map(|counts| upload(context, counts)),
            labels: guarded(all, 1),
            matched: guarded(all, 2),
            foreground: guarded(case.images, 3),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self) {
        let mut labels = self.labels.1.view_mut().unwrap();
        let mut matched = self.matched.1.view_mut().unwrap();
        let mut foreground = self.foreground.1.view_mut().unwrap();
        let mut arguments = Arguments {
            boxes: self.boxes.view().unwrap(),
            classes: self.classes.view().unwrap(),
            counts: self.counts.as_ref().map(|counts| counts.view().unwrap()),
            labels: labels.slice_mut(self.labels.0.range()),
            matched: matched.slice_mut(self.matched.0.range()),
            foreground: foreground.slice_mut(self.foreground.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, &mut arguments).unwrap();
    }

    fn results(&self) -> Output {
        let read = |(host, buffer): &Both| host.check(&buffer.to_vec().unwrap()).unwrap().to_vec();
        Output {
            labels: read(&self.labels),
            matched: read(&self.matched),
            foreground: read(&self.foreground),
        }
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        let case = spread(30);
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

/// The floor is 8 bytes an anchor written and the boxes read; every block of 1024 anchors reads the boxes, their 8 peaks
/// and, for each anchor matched, a class.
#[test]
fn no_matrix_is_moved() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        let case = Case {
            counted: false,
            ..spread(50)
        };
        let inputs = case.inputs();
        let mut call = Call::new(&device.context, &case, &inputs);
        device.launches();
        call.launch();
        device.context.synchronize().unwrap();
        let reports = device.launches();
        assert_eq!(reports.len(), 2, "two launches");
        let anchors = case.anchors().count() as u64;
        let counters = reports[1].counters;
        assert_eq!(counters.global_stores.bytes, 2 * 8 * anchors);
        let blocks = 2 * anchors.div_ceil(1024);
        let most = blocks * 50 * (16 + 32) + 2 * 4 * anchors;
        assert!(counters.global_loads.bytes <= most, "{counters:?}");
        // A box meets few anchors: its slices read it, and write one number each.
        assert_eq!(
            reports[0].counters.global_stores.bytes,
            2 * 50 * 8 * 4 + 2 * 4
        );
    }
}
