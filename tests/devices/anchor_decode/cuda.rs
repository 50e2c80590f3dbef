//! The raw entry: guarded buffers, the chain into `nms` as one graph, traffic, parts of several tiles.

use super::{Case, Inputs, Logits, Output, agrees, bits, expected};
use crate::device::{Cuda, Target, targets};
use half::bf16;
use ocelli::cuda::anchor_decode::{Arguments, Plan, launch};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::cudarc::driver::{CudaSlice, CudaView};
use ocelli::cuda::{Buffer, Context, Properties, nms};
use ocelli::params::{AnchorDecode, Nms};
use ocelli::testing::guard::Guarded;
use ocelli::testing::strategy::Data;
use ocelli::{DType, Element, Float, cpu};

pub fn run<T: Float>(device: &Cuda, case: &Case, inputs: &Inputs<T>) -> Option<Output> {
    let gpu = device.context.properties();
    let classes = case.classes;
    let anchors = case.anchors();
    let plan = Plan::new(gpu, &anchors, case.images, classes, T::DTYPE, &case.params);
    let mut call = Call::new(&device.context, plan.ok()?, case.images, inputs);
    call.launch();
    device.launches();
    Some(call.results())
}

/// A guarded buffer, on the host as it was and on the device.
type Both<T> = (Guarded<T>, Buffer);

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> Both<T> {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn read<T: Element>((host, buffer): &Both<T>) -> Vec<T> {
    host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
}

fn view_of<T: Element>((host, buffer): &Both<T>) -> CudaView<'_, T> {
    buffer.view().unwrap().slice(host.range())
}

struct Call<T> {
    context: Context,
    plan: Plan,
    logits: Vec<Both<T>>,
    deltas: Vec<Both<T>>,
    sizes: Option<Buffer>,
    boxes: Both<f32>,
    scores: Both<f32>,
    classes: Both<i32>,
    count: Both<i32>,
    workspace: CudaSlice<u8>,
}

impl<T: Float> Call<T> {
    fn new(context: &Context, plan: Plan, images: usize, inputs: &Inputs<T>) -> Self {
        let upload = |levels: &[Guarded<T>]| {
            levels
                .iter()
                .map(|level| on_device(context, level.clone()))
                .collect()
        };
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        let all = images * plan.max_output();
        Self {
            context: context.clone(),
            logits: upload(&inputs.logits),
            deltas: upload(&inputs.deltas),
            sizes: inputs
                .sizes
                .as_ref()
                .map(|sizes| Buffer::from_slice(context, sizes).unwrap()),
            boxes: on_device(context, Guarded::new(4 * all, 0)),
            scores: on_device(context, Guarded::new(all, 1)),
            classes: on_device(context, Guarded::new(all, 3)),
            count: on_device(context, Guarded::new(images, 2)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self) {
        let logits: Vec<_> = self.logits.iter().map(view_of).collect();
        let deltas: Vec<_> = self.deltas.iter().map(view_of).collect();
        let mut boxes = self.boxes.1.view_mut().unwrap();
        let mut scores = self.scores.1.view_mut().unwrap();
        let mut classes = self.classes.1.view_mut().unwrap();
        let mut count = self.count.1.view_mut().unwrap();
        let mut arguments = Arguments::<T> {
            logits: &logits,
            deltas: &deltas,
            image_sizes: self.sizes.as_ref().map(|sizes| sizes.view().unwrap()),
            boxes: boxes.slice_mut(self.boxes.0.range()),
            scores: scores.slice_mut(self.scores.0.range()),
            classes: classes.slice_mut(self.classes.0.range()),
            count: count.slice_mut(self.count.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, &mut arguments).unwrap();
    }

    fn results(&self) -> Output {
        Output {
            boxes: read(&self.boxes),
            scores: read(&self.scores),
            classes: read(&self.classes),
            count: read(&self.count),
        }
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

/// Two images, two levels, three classes; about one logit in 80 passes.
fn sparse() -> Case {
    Case {
        images: 2,
        classes: 3,
        grids: vec![[12, 16], [6, 8]],
        detectron2: false,
        logits: Logits::Sparse,
        sized: true,
        shift: 0,
        params: AnchorDecode {
            score_threshold: 0.05,
            topk: 40,
        },
        seed: 8,
    }
}

/// Suppression on what decoding leaves on the device.
struct Suppression {
    plan: nms::Plan,
    params: Nms,
    indices: Both<i32>,
    kept: Both<i32>,
    workspace: CudaSlice<u8>,
}

impl Suppression {
    fn new(context: &Context, images: usize, boxes: usize) -> Self {
        let params = Nms {
            max_output: Some(30),
            ..Nms::default()
        };
        let plan = nms::Plan::new(context.properties(), images, boxes, 30).unwrap();
        let workspace = vec![0xff; plan.workspace_bytes().max(1)];
        Self {
            params,
            indices: on_device(context, Guarded::new(images * 30, 0)),
            kept: on_device(context, Guarded::new(images, 0)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch<T>(&mut self, found: &Call<T>) {
        let mut indices = self.indices.1.view_mut().unwrap();
        let mut kept = self.kept.1.view_mut().unwrap();
        let mut arguments = nms::Arguments {
            boxes: view_of(&found.boxes),
            scores: view_of(&found.scores),
            classes: Some(view_of(&found.classes)),
            counts: Some(view_of(&found.count)),
            indices: indices.slice_mut(self.indices.0.range()),
            kept: kept.slice_mut(self.kept.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        nms::launch(&found.context, &self.plan, &self.params, &mut arguments).unwrap();
    }
}

/// Decoding and suppression captured once and replayed: the same as both on the CPU.
#[test]
fn one_graph_decodes_and_suppresses() {
    for device in devices().map(Cuda::for_capture) {
        let case = sparse();
        let inputs = case.inputs::<bf16>();
        let decoded = super::run(&Target::Cpu, &case, &inputs).unwrap();
        let boxes = decoded.scores.len() / case.images;
        let gpu = device.context.properties();
        let plan = Plan::new(
            gpu,
            &case.anchors(),
            case.images,
            case.classes,
            DType::BF16,
            &case.params,
        );
        let mut call = Call::new(&device.context, plan.unwrap(), case.images, &inputs);
        let mut suppression = Suppression::new(&device.context, case.images, boxes);
        let batch = cpu::nms::Batch {
            boxes: &decoded.boxes,
            scores: &decoded.scores,
            classes: Some(&decoded.classes),
            counts: Some(&decoded.count),
            images: case.images,
            boxes_per_image: boxes,
        };
        let expected = cpu::nms::nms(batch, &suppression.params).unwrap();
        assert!(expected.1.iter().all(|&kept| kept > 5), "{expected:?}");

        let stream = device.context.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        call.launch();
        suppression.launch(&call);
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert_ne!(read(&suppression.indices), expected.0, "captured, not run");
        for _ in 0..2 {
            graph.launch().unwrap();
            let kept = (read(&suppression.indices), read(&suppression.kept));
            assert_eq!(kept, expected);
            assert_eq!(bits(&call.results()), bits(&decoded));
        }
        device.launches();
    }
}

/// A GPU of one multiprocessor has four parts at once, so each has several tiles.
#[test]
fn parts_of_several_tiles_find_the_same() {
    for device in devices() {
        let case = Case {
            classes: 20,
            grids: vec![[31, 33], [7, 11]],
            logits: Logits::Random(Data::Spread(2.0)),
            ..sparse()
        };
        let small = Properties::new((8, 0), 1, 99 << 10);
        let inputs = case.inputs::<bf16>();
        let (anchors, dtype) = (case.anchors(), DType::BF16);
        let plan = Plan::new(&small, &anchors, 2, 20, dtype, &case.params).unwrap();
        assert!(plan.to_string().contains("23 tiles"), "{plan}");
        let mut call = Call::new(&device.context, plan, 2, &inputs);
        call.launch();
        device.launches();
        for image in 0..2 {
            agrees(&call.results(), image, &expected(&case, &inputs, image)).unwrap();
        }
    }
}

/// The floor is one read of the logits. Where many pass, each costs a sector more, asked of the cache that has just
/// fetched it.
#[test]
fn logits_are_read_once() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        for (logits, rare) in [
            (Logits::Rare, true),
            (Logits::Random(Data::Spread(1.0)), false),
        ] {
            let case = Case {
                images: 1,
                classes: 80,
                grids: vec![[24, 24], [6, 6]],
                logits,
                sized: false,
                ..sparse()
            };
            let inputs = case.inputs::<bf16>();
            let gpu = device.context.properties();
            let plan = Plan::new(gpu, &case.anchors(), 1, 80, DType::BF16, &case.params);
            let mut call = Call::new(&device.context, plan.unwrap(), 1, &inputs);
            device.launches();
            call.launch();
            device.context.synchronize().unwrap();
            let reports = device.launches();
            assert_eq!(reports.len(), 2, "two launches");
            let floor = case.anchors().count() as u64 * 80 * 2;
            let loads = reports[0].counters.global_loads;
            let again = if rare { 0 } else { (loads.bytes - floor) / 2 };
            let most = 1.05 * floor as f64 + 32.0 * again as f64;
            assert!((loads.sectors * 32) as f64 <= most, "{loads:?} for {floor}");
        }
    }
}
