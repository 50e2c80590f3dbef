//! The raw entry: buffers of the caller, graphs, traffic, plans.

use super::{Case, CornerDecode, Data, Maps, Output, expected};
use crate::device::{Cuda, Target, targets};
use half::bf16;
use ocelli::cuda::corner_decode::{Arguments, CornerMaps, Plan, launch};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::cudarc::driver::{CudaSlice, CudaView};
use ocelli::cuda::{Buffer, Context, Properties};
use ocelli::testing::guard::Guarded;
use ocelli::{DType, Element, Float};

/// A buffer between margins, on the host as it was and on the device.
type OnDevice<T> = (Guarded<T>, Buffer);

/// Buffers of a call.
struct Call<T> {
    context: Context,
    plan: Plan,
    /// Heat, embedding and offset of each kind.
    maps: [[(Guarded<T>, Buffer); 3]; 2],
    boxes: OnDevice<f32>,
    scores: OnDevice<f32>,
    classes: OnDevice<i32>,
    counts: OnDevice<i32>,
    workspace: CudaSlice<u8>,
}

fn upload<T: Element>(context: &Context, host: Guarded<T>) -> OnDevice<T> {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

fn read<T: Element>((guarded, buffer): &OnDevice<T>) -> Vec<T> {
    guarded.check(&buffer.to_vec().unwrap()).unwrap().to_vec()
}

impl<T: Float> Call<T> {
    /// Inputs start `shift` elements after an aligned address.
    fn new(context: &Context, case: &Case, shift: usize) -> Self {
        let gpu = context.properties();
        let plan = Plan::new(gpu, case.extents, T::DTYPE, &case.params).unwrap();
        let n = case.extents[0] * case.params.num_dets;
        let maps = |kind| {
            let Maps {
                heat,
                embedding,
                offset,
            } = case.maps::<T>(kind);
            [heat, embedding, offset].map(|map| upload(context, Guarded::holding(&map, shift)))
        };
        // Whatever the workspace holds must not matter.
        let workspace = vec![0xff; plan.workspace_bytes()];
        Self {
            context: context.clone(),
            maps: [maps(1), maps(2)],
            boxes: upload(context, Guarded::new(4 * n, 0)),
            scores: upload(context, Guarded::new(n, 0)),
            classes: upload(context, Guarded::new(n, 0)),
            counts: upload(context, Guarded::new(case.extents[0], 0)),
            workspace: context.stream().clone_htod(&workspace).unwrap(),
            plan,
        }
    }

    fn try_launch(&mut self) -> ocelli::Result<()> {
        fn maps<T: Element>(
            [heat, embedding, offset]: &[(Guarded<T>, Buffer); 3],
        ) -> CornerMaps<'_, T> {
            fn view<T: Element>(map: &OnDevice<T>) -> CudaView<'_, T> {
                map.1.view().unwrap().slice(map.0.range())
            }
            CornerMaps {
                heat: view(heat),
                embedding: view(embedding),
                offset: view(offset),
            }
        }
        let mut boxes = self.boxes.1.view_mut().unwrap();
        let mut scores = self.scores.1.view_mut().unwrap();
        let mut classes = self.classes.1.view_mut().unwrap();
        let mut counts = self.counts.1.view_mut().unwrap();
        let mut arguments = Arguments {
            top_left: maps(&self.maps[0]),
            bottom_right: maps(&self.maps[1]),
            boxes: boxes.slice_mut(self.boxes.0.range()),
            scores: scores.slice_mut(self.scores.0.range()),
            classes: classes.slice_mut(self.classes.0.range()),
            count: counts.slice_mut(self.counts.0.range()),
            workspace: self.workspace.as_view_mut(),
        };
        launch(&self.context, &self.plan, &mut arguments)
    }

    fn results(&self) -> Output {
        Output {
            boxes: read(&self.boxes),
            scores: read(&self.scores),
            classes: read(&self.classes),
            counts: read(&self.counts),
        }
    }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

fn heatmaps(extents: [usize; 4]) -> Case {
    Case {
        extents,
        data: Data::Spread(2.0),
        seed: 5,
        params: CornerDecode {
            num_dets: 200,
            ..CornerDecode::default()
        },
    }
}

/// Boxes, classes and counts; scores are compared by the property, within their budget.
fn discrete(output: Output) -> (Vec<f32>, Vec<i32>, Vec<i32>) {
    (output.boxes, output.classes, output.counts)
}

#[test]
fn nothing_beside_the_outputs_is_written() {
    for device in devices() {
        for shift in [0, 1, 8] {
            let case = heatmaps([2, 9, 12, 16]);
            let mut call = Call::<bf16>::new(&device.context, &case, shift);
            call.try_launch().unwrap();
            let expected = discrete(expected::<bf16>(&case));
            assert_eq!(discrete(call.results()), expected, "shift {shift}");
            device.launches();
        }
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices().map(Cuda::for_capture) {
        let case = heatmaps([1, 10, 20, 8]);
        let expected = discrete(expected::<f32>(&case));
        let mut call = Call::<f32>::new(&device.context, &case, 0);
        let stream = device.context.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        call.try_launch().unwrap();
        let flags = CUgraphInstantiate_flags(0);
        let graph = stream.end_capture(flags).unwrap().unwrap();
        assert_ne!(discrete(call.results()), expected, "captured, not run");
        for _ in 0..2 {
            graph.launch().unwrap();
            assert_eq!(discrete(call.results()), expected);
        }
        device.launches();
    }
}

/// Logits are asked for once, but for the rows at the borders of strips; the rest is lists, a hundred corners and the
/// output.
#[test]
fn heatmaps_are_read_once() {
    for device in devices().filter(|device| device.simulator.is_some()) {
        for (kernel, most) in [(1, 1.0), (3, 1.0 + 1.0 / 8.0)] {
            let mut case = heatmaps([1, 64, 128, 32]);
            case.params.kernel = kernel;
            let mut call = Call::<bf16>::new(&device.context, &case, 0);
            device.launches();
            call.try_launch().unwrap();
            device.context.synchronize().unwrap();
            let reports = device.launches();
            assert_eq!(reports.len(), 2, "two launches");
            let (peaks, pairs) = (reports[0].counters, reports[1].counters);
            let logits = 2 * 64 * 128 * 32 * 2;
            let read = peaks.global_loads;
            assert!(
                read.bytes >= logits && read.bytes as f64 <= most * logits as f64,
                "{read:?}"
            );
            assert_eq!(read.sectors * 32, read.bytes, "whole sectors");
            let lists = call.plan.workspace_bytes() as u64;
            assert!(
                peaks.global_stores.bytes <= lists,
                "{:?}",
                peaks.global_stores
            );
            let corners = 2 * 100 * 3 * 2;
            assert!(
                pairs.global_loads.bytes <= lists + corners,
                "{:?}",
                pairs.global_loads
            );
            assert_eq!(pairs.global_stores.bytes, 200 * (16 + 4 + 4) + 4);
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((9, 0), 132, 227 * 1024);
    let params = CornerDecode::default();
    let plan = Plan::new(&gpu, [1, 128, 128, 80], DType::F16, &params).unwrap();
    assert_eq!(
        plan.to_string(),
        "corner_decode [1, 128, 128, 80] f16: 5242880 bytes at least\n  corner_decode_peaks_f16 <<<[40, 2, 1], \
         [256, 1, 1], 20480 B>>>: tiles of 32 bytes of channels (a sector), 128 columns, 16 rows (twice the \
         multiprocessors' number of blocks, where rows are at least 8 times the border read twice)\n  \
         corner_decode_pairs_f16 <<<[1, 1, 1], [512, 1, 1], 20384 B>>>: a block an image (its corners meet), \
         100 x 100 pairs"
    );
    let most = CornerDecode {
        topk: 512,
        kernel: 15,
        num_dets: 4096,
        ..params
    };
    let plan = Plan::new(&gpu, [1, 200, 1000, 91], DType::F16, &most).unwrap();
    let text = plan.to_string();
    assert!(text.contains("114 columns"), "{text}");
    assert!(Plan::new(&gpu, [1, 0, 5, 5], DType::F16, &params).is_err());
    assert!(Plan::new(&gpu, [65_536, 1, 1, 1], DType::F16, &params).is_err());
    assert!(Plan::new(&gpu, [1, 1 << 16, 1 << 15, 1], DType::F16, &params).is_err());
    assert!(Plan::new(&gpu, [1, 5, 5, 5], DType::I32, &params).is_err());
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for device in devices() {
        let case = heatmaps([1, 2, 3, 4]);
        let mut call = Call::<f32>::new(&device.context, &case, 0);
        let plan = |extents, dtype| {
            Plan::new(device.context.properties(), extents, dtype, &case.params).unwrap()
        };
        for (wrong, message) in [
            (
                plan([1, 2, 3, 5], DType::F32),
                "tl_heat must be 30 elements, got 24",
            ),
            (
                plan([1, 2, 3, 4], DType::F16),
                "tl_heat must be of the plan's type f16, got f32",
            ),
        ] {
            call.plan = wrong;
            let error = call.try_launch().unwrap_err().to_string();
            assert_eq!(error, format!("corner_decode: {message}"));
        }
    }
}
