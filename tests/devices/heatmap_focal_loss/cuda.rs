//! The raw entry on CUDA: guarded buffers, graph capture, traffic, plans.

use super::{Case, Data, Float, Guarded, Output, Target, bitwise, targets};
use crate::device::Cuda;
use half::bf16;
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::heatmap_focal_loss::{Arguments, Plan, Targets, launch};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::{Corner, CornerTargets};
use ocelli::{DType, Element};

pub fn run<T: Float>(device: &Cuda, case: &Case) -> Output<T> {
    let mut forward = Call::<T>::new(&device.context, case, None);
    forward.launch(false);
    let mut gradient = Call::<T>::new(&device.context, case, None);
    gradient.launch(true);
    device.launches();
    Output {
        forward: forward.loss(),
        loss: gradient.loss(),
        gradient: gradient.gradient(),
    }
}

/// Guarded buffers, on the host as they were and on the device.
type Pair<T> = (Guarded<T>, Buffer);

struct Call<'a, T> {
    case: &'a Case,
    context: Context,
    plan: Plan,
    logits: Pair<T>,
    map: Pair<f32>,
    boxes: Option<(Buffer, Buffer)>,
    upstream: Buffer,
    loss: Pair<f32>,
    gradient: Pair<T>,
    workspace: CudaSlice<u8>,
}

impl<'a, T: Float> Call<'a, T> {
    /// With targets from the case's map, or from boxes and classes.
    fn new(context: &Context, case: &'a Case, boxes: Option<(&[f32], &[i32])>) -> Self {
        let of_image = boxes.map(|(_, classes)| classes.len() / case.shape[0]);
        let plan = Plan::new(case.shape, T::DTYPE, of_image).unwrap();
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        Self {
            case,
            context: context.clone(),
            logits: on_device(context, Guarded::holding(&case.logits(), case.shift)),
            map: on_device(context, Guarded::holding(&case.targets(), case.shift)),
            boxes: boxes.map(|(boxes, classes)| {
                let upload = Buffer::from_slice(context, boxes).unwrap();
                (upload, Buffer::from_slice(context, classes).unwrap())
            }),
            upstream: Buffer::from_slice(context, &[case.upstream]).unwrap(),
            loss: on_device(context, Guarded::new(1, case.shift)),
            // An output may be aligned otherwise than the input.
            gradient: on_device(context, Guarded::new(case.len(), case.shift / 2)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self, with_gradient: bool) {
        let mut loss = self.loss.1.view_mut().unwrap();
        let mut gradient = self.gradient.1.view_mut().unwrap();
        let targets = match &self.boxes {
            None => Targets::Map(self.map.1.view().unwrap().slice(self.map.0.range())),
            Some((boxes, classes)) => Targets::Boxes {
                boxes: boxes.view().unwrap(),
                classes: classes.view().unwrap(),
                corner: Corner::BottomRight,
                rule: CornerTargets::new(4 * self.case.shape[1], 4 * self.case.shape[2]),
            },
        };
        let mut arguments = Arguments::<T> {
            logits: self.logits.1.view().unwrap().slice(self.logits.0.range()),
            targets,
            upstream: with_gradient.then(|| self.upstream.view().unwrap()),
            loss: loss.slice_mut(self.loss.0.range()),
            gradient: with_gradient.then(|| gradient.slice_mut(self.gradient.0.range())),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, &self.case.params, &mut arguments).unwrap();
    }

    fn loss(&self) -> f32 {
        let (host, buffer) = &self.loss;
        host.check(&buffer.to_vec().unwrap()).unwrap()[0]
    }

    fn gradient(&self) -> Vec<T> {
        let (host, buffer) = &self.gradient;
        host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
    }
}

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> Pair<T> {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn cornernet(side: usize) -> Case {
    Case {
        shape: [1, side, side, 80],
        data: Data::Spread(2.0),
        seed: 5,
        shift: 0,
        params: Default::default(),
        upstream: 2.0,
    }
}

/// 20 boxes of 16 pixels along the diagonal, 4 pixels a cell.
fn diagonal(side: usize) -> (Vec<f32>, Vec<i32>) {
    let step = (4 * side - 20) as f32 / 20.0;
    let corners = (0..20).flat_map(|i| {
        let at = i as f32 * step;
        [at, at, at + 16.0, at + 16.0]
    });
    (corners.collect(), (0..20).map(|i| i % 80).collect())
}

#[test]
fn a_graph_replays_the_op() {
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let device = &device.for_capture();
        let case = cornernet(12);
        let (boxes, classes) = diagonal(12);
        let new = || Call::<bf16>::new(&device.context, &case, Some((&boxes, &classes)));
        let mut expected = new();
        expected.launch(true);
        let mut call = new();
        let stream = device.context.stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        call.launch(true);
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.loss().is_nan(), "captured, not run");
        graph.launch().unwrap();
        assert_eq!(call.loss(), expected.loss());
        bitwise(&call.gradient(), &expected.gradient()).unwrap();
        device.launches();
    }
}

/// Logits and gradients once, and a map, or the boxes, once; at CornerNet's width.
#[test]
fn nothing_is_moved_twice() {
    for target in targets() {
        let Target::Cuda(
            device @ Cuda {
                simulator: Some(_), ..
            },
        ) = target
        else {
            continue;
        };
        let case = cornernet(64);
        let (boxes, classes) = diagonal(64);
        traffic::<f32>(device, &case, None);
        traffic::<bf16>(device, &case, None);
        traffic::<f32>(device, &case, Some((&boxes, &classes)));
        traffic::<bf16>(device, &case, Some((&boxes, &classes)));
    }
}

fn traffic<T: Float>(device: &Cuda, case: &Case, boxes: Option<(&[f32], &[i32])>) {
    let mut call = Call::<T>::new(&device.context, case, boxes);
    device.launches();
    call.launch(true);
    call.context.synchronize().unwrap();
    let launches = device.launches();
    let pass = &launches[launches.len() - 2];
    let elements = case.len();
    let map = if boxes.is_none() { 4 * elements } else { 0 };
    let floor = (2 * size_of::<T>() * elements + map) as u64;
    let counters = &pass.counters;
    // A vector of 16-bit logits has two of targets. Each asks for every sector, and the second finds it
    // in the cache.
    let again = if size_of::<T>() == 2 { map as u64 } else { 0 };
    let moved = 32 * (counters.global_loads.sectors + counters.global_stores.sectors) - again;
    assert!(
        100 * moved <= 105 * floor,
        "{}: {moved} bytes for {floor}",
        pass.kernel
    );
    let per_element = counters.thread_instructions as f64 / elements as f64;
    println!("{}: {per_element:.1} instructions an element", pass.kernel);
    assert!(per_element < 95.0, "{}: {per_element}", pass.kernel);
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let plan = Plan::new([8, 128, 128, 80], DType::BF16, Some(30)).unwrap();
    assert_eq!(
        plan.to_string(),
        "heatmap_focal_loss [8, 128, 128, 80] bf16: 20976320 bytes at least, 20971520 more with the \
         gradient\n  \
         heatmap_focal_loss_bumps_bf16 <<<[640, 1, 1], [256, 1, 1], 0 B>>>: 16384 elements a tile (8 \
         vectors a thread, to spread the reading of boxes)\n  \
         heatmap_focal_loss_finish_f32 <<<[1, 1, 1], [256, 1, 1], 0 B>>>: one block, so that the order \
         of the sum is fixed"
    );
    assert_eq!(plan.workspace_bytes(), 5120 + 7680);
    for (shape, dtype, boxes) in [
        ([1, 1 << 15, 1, 1], DType::F32, None),
        ([1, 1 << 14, 1 << 14, 8], DType::F32, None),
        ([1, 8, 8, usize::MAX], DType::F32, None),
        ([1, 8, 8, 8], DType::I32, None),
        ([1, 8, 8, 8], DType::F32, Some(1025)),
    ] {
        assert!(Plan::new(shape, dtype, boxes).is_err(), "{shape:?}");
    }
}
