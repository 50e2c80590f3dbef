//! The raw entry on CUDA: guarded buffers, graph capture, traffic, plans.

use super::{Case, Data, Float, Guarded, Output, Target, bitwise, targets};
use crate::device::Cuda;
use half::bf16;
use ocelli::cuda::cudarc::driver::CudaSlice;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::sigmoid_focal_loss::{Arguments, Plan, launch};
use ocelli::cuda::{Buffer, Context, Properties};
use ocelli::{DType, Element};

pub fn run<T: Float>(device: &Cuda, case: &Case) -> Output<T> {
    let mut forward = Call::<T>::new(&device.context, case, false);
    forward.launch();
    let mut gradient = Call::<T>::new(&device.context, case, true);
    gradient.launch();
    device.launches();
    let (loss, gradient) = gradient.results();
    Output {
        forward: forward.results().0,
        loss,
        gradient,
    }
}

/// Guarded buffers of a call, on the host as they were and on the device.
struct Call<'a, T> {
    case: &'a Case,
    context: Context,
    plan: Plan,
    logits: (Guarded<T>, Buffer),
    labels: (Guarded<i32>, Buffer),
    upstream: Buffer,
    loss: (Guarded<f32>, Buffer),
    gradient: Option<(Guarded<T>, Buffer)>,
    workspace: CudaSlice<u8>,
}

impl<'a, T: Float> Call<'a, T> {
    fn new(context: &Context, case: &'a Case, with_gradient: bool) -> Self {
        let Case {
            rows,
            classes,
            shift,
            ..
        } = *case;
        let gpu = context.properties();
        let plan = Plan::new(gpu, rows, classes, T::DTYPE, with_gradient).unwrap();
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        // An output may be aligned otherwise than the input.
        let gradient = Guarded::new(rows * classes, shift / 2);
        Self {
            case,
            context: context.clone(),
            logits: on_device(context, Guarded::holding(&case.logits(), shift)),
            labels: on_device(context, Guarded::holding(&case.labels(), shift)),
            upstream: Buffer::from_slice(context, &[case.upstream]).unwrap(),
            loss: on_device(context, Guarded::new(1, shift)),
            gradient: with_gradient.then(|| on_device(context, gradient)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn launch(&mut self) {
        let mut loss = self.loss.1.view_mut().unwrap();
        let mut gradient = self
            .gradient
            .as_mut()
            .map(|(host, buffer)| (host.range(), buffer.view_mut().unwrap()));
        let mut arguments = Arguments::<T> {
            logits: self.logits.1.view().unwrap().slice(self.logits.0.range()),
            labels: self.labels.1.view().unwrap().slice(self.labels.0.range()),
            upstream: gradient.is_some().then(|| self.upstream.view().unwrap()),
            loss: loss.slice_mut(self.loss.0.range()),
            gradient: gradient
                .as_mut()
                .map(|(range, view)| view.slice_mut(range.clone())),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, &self.case.params, &mut arguments).unwrap();
    }

    fn results(&self) -> (f32, Vec<T>) {
        let loss = self.loss.1.to_vec().unwrap();
        let gradient = self
            .gradient
            .as_ref()
            .map_or_else(Vec::new, |(host, buffer)| {
                host.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
            });
        (self.loss.0.check(&loss).unwrap()[0], gradient)
    }
}

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> (Guarded<T>, Buffer) {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn retinanet(rows: usize) -> Case {
    let (data, params) = (Data::Spread(2.0), Default::default());
    Case {
        rows,
        classes: 80,
        data,
        seed: 5,
        positives: 50,
        shift: 0,
        params,
        upstream: 2.0,
    }
}

#[test]
fn a_graph_replays_the_op() {
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let device = &device.for_capture();
        let case = retinanet(300);
        let expected = run::<bf16>(device, &case);
        let mut call = Call::<bf16>::new(&device.context, &case, true);
        let stream = device.context.stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        call.launch();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.results().0.is_nan(), "captured, not run");
        graph.launch().unwrap();
        let (loss, gradient) = call.results();
        device.launches();
        assert_eq!(loss, expected.loss);
        bitwise(&gradient, &expected.gradient).unwrap();
    }
}

#[test]
fn only_logits_gradients_and_labels_are_moved() {
    for target in targets() {
        let Target::Cuda(
            device @ Cuda {
                simulator: Some(_), ..
            },
        ) = target
        else {
            continue;
        };
        let case = retinanet(2000);
        for with_gradient in [false, true] {
            let mut call = Call::<bf16>::new(&device.context, &case, with_gradient);
            device.launches();
            call.launch();
            call.context.synchronize().unwrap();
            let pass = device.launches()[0].counters;
            let elements = 2000 * 80 * 2;
            let labels = 2000 * 4;
            // A label is asked for once by each thread that holds a part of its row, ten, and
            // once more as the row after the last; all but the first find it in the cache.
            let label_sectors = 2 * 10 * labels / 4;
            assert_eq!(pass.global_loads.bytes / elements, 1);
            assert!(pass.global_loads.sectors * 32 <= elements + 32 * label_sectors);
            let written = if with_gradient { elements } else { 0 };
            assert!(
                pass.global_stores.sectors * 32 <= written + 32 * 2000,
                "{pass:?}"
            );
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((9, 0), 132, 227 * 1024);
    let plan = Plan::new(&gpu, 201_600, 80, DType::BF16, true).unwrap();
    assert_eq!(
        plan.to_string(),
        "sigmoid_focal_loss [201600, 80] bf16: 65318400 bytes at least\n  \
         sigmoid_focal_loss_gradient_bf16 <<<[660, 1, 1], [256, 1, 1], 0 B>>>: 56 rows a tile \
         (2 vectors a thread, 8 rows keep 16-byte alignment), at most 5 blocks a multiprocessor \
         (registers)\n  \
         sigmoid_focal_loss_finish_f32 <<<[1, 1, 1], [256, 1, 1], 0 B>>>: one block, so that the \
         order of the sum is fixed"
    );
    assert_eq!(plan.workspace_bytes(), 5376);
    assert!(Plan::new(&gpu, 1, 1 << 28, DType::F32, false).is_err());
    assert!(Plan::new(&gpu, usize::MAX, 2, DType::F32, false).is_err());
    assert!(Plan::new(&gpu, 1, 1, DType::I32, false).is_err());
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for target in targets() {
        let Target::Cuda(device) = target else {
            continue;
        };
        let (small, large) = (retinanet(3), retinanet(4));
        let mut call = Call::<f32>::new(&device.context, &small, true);
        let plan = |case: &Case, gradient| {
            let gpu = device.context.properties();
            Plan::new(gpu, case.rows, case.classes, DType::F32, gradient).unwrap()
        };
        for (wrong, message) in [
            (plan(&large, true), "logits must be 320 elements, got 240"),
            (plan(&small, false), "gradient must be 0 elements, got 240"),
        ] {
            let gradient = call.gradient.as_mut().unwrap();
            let range = gradient.0.range();
            let mut gradient = gradient.1.view_mut().unwrap();
            let mut loss = call.loss.1.view_mut().unwrap();
            let mut arguments = Arguments::<f32> {
                logits: call.logits.1.view().unwrap().slice(call.logits.0.range()),
                labels: call.labels.1.view().unwrap().slice(call.labels.0.range()),
                upstream: None,
                loss: loss.slice_mut(call.loss.0.range()),
                gradient: Some(gradient.slice_mut(range)),
                workspace: call.workspace.as_view_mut(),
            };
            let error = launch(&device.context, &wrong, &small.params, &mut arguments);
            let text = error.unwrap_err().to_string();
            assert_eq!(text, format!("sigmoid_focal_loss: {message}"));
        }
    }
}
