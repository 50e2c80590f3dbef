//! The raw entries on CUDA: guarded buffers, graph capture, mistakes.

use super::case::{Case, Form, Operands};
use super::{Output, laid_out, taken_apart};
use crate::device::{Cuda, Target, targets};
use half::bf16;
use ocelli::cuda::attention::{backward, forward};
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use ocelli::cuda::{Buffer, Context};
use ocelli::params::Attention;
use ocelli::params::attention::{Mask, Qkv};
use ocelli::testing::guard::Guarded;
use ocelli::{DType, Element, Float};
use std::ops::Range;

/// A buffer between margins, on the host as it was and on the device.
struct Room<T> {
    host: Guarded<T>,
    device: Buffer,
}

impl<T: Element> Room<T> {
    fn holding(context: &Context, values: &[T]) -> Self {
        Self::new(context, Guarded::holding(values, 0))
    }

    fn empty(context: &Context, len: usize) -> Self {
        Self::new(context, Guarded::new(len, 0))
    }

    fn new(context: &Context, host: Guarded<T>) -> Self {
        Self {
            device: Buffer::from_slice(context, host.all()).unwrap(),
            host,
        }
    }

    fn view(&self) -> CudaView<'_, T> {
        self.device.view().unwrap().slice(self.host.range())
    }

    /// The memory with its margins, to be cut by [`part`].
    fn whole(&mut self) -> Whole<'_, T> {
        (self.host.range(), self.device.view_mut().unwrap())
    }

    fn take(&self) -> Vec<T> {
        self.host
            .check(&self.device.to_vec().unwrap())
            .unwrap()
            .to_vec()
    }
}

/// Where a buffer lies in memory with margins, and that memory.
type Whole<'a, T> = (Range<usize>, CudaViewMut<'a, T>);

fn part<'a, T>((range, view): &'a mut Whole<'_, T>) -> CudaViewMut<'a, T> {
    view.slice_mut(range.clone())
}

/// Everything that both directions read and write.
struct Call<'a, T> {
    case: &'a Case,
    context: Context,
    forward: forward::Plan,
    backward: backward::Plan,
    qkv: Qkv<Room<T>>,
    bias: Option<Room<T>>,
    kv_lengths: Option<Room<i32>>,
    offsets: Option<[Room<i32>; 2]>,
    dout: Room<T>,
    dlse: Option<Room<f32>>,
    out: Room<T>,
    lse: Room<f32>,
    gradients: Qkv<Room<T>>,
    dbias: Option<Room<T>>,
    workspaces: [CudaSlice<u8>; 2],
}

impl<'a, T: Float> Call<'a, T> {
    fn new(context: &Context, case: &'a Case, operands: &Operands<T>) -> Self {
        let (gpu, geometry, layouts) = (context.properties(), case.geometry(), case.layouts());
        let forward = forward::Plan::new(gpu, &geometry, &case.params, T::DTYPE).unwrap();
        let has_bias = case.bias.is_some();
        let backward =
            backward::Plan::new(gpu, &geometry, &layouts, &case.params, T::DTYPE, has_bias)
                .unwrap();
        // Whatever a workspace holds must not matter.
        let workspace = |bytes: usize| {
            context
                .stream()
                .clone_htod(&vec![0xff; bytes.max(1)])
                .unwrap()
        };
        let values = laid_out(case, [&operands.q, &operands.k, &operands.v]);
        let qkv = values
            .try_map(|values| Ok(Room::holding(context, &values)))
            .unwrap();
        let empty = |room: &Room<T>| Room::empty(context, room.host.range().len());
        let gradients = match &qkv {
            Qkv::Separate { q, k, v } => Qkv::Separate {
                q: empty(q),
                k: empty(k),
                v: empty(v),
            },
            Qkv::Packed(all) => Qkv::Packed(empty(all)),
        };
        let is_packed = case.form == Form::Sequences;
        Self {
            case,
            workspaces: [
                workspace(forward.workspace_bytes()),
                workspace(backward.workspace_bytes()),
            ],
            forward,
            backward,
            qkv,
            bias: has_bias.then(|| Room::holding(context, &operands.bias)),
            kv_lengths: case
                .has_kv_lengths
                .then(|| Room::holding(context, &case.kv_lengths())),
            offsets: is_packed.then(|| {
                case.offsets()
                    .map(|offsets| Room::holding(context, &offsets))
            }),
            dout: Room::holding(context, &operands.dout),
            dlse: case
                .has_dlse
                .then(|| Room::holding(context, &operands.dlse)),
            out: Room::empty(context, operands.q.len()),
            lse: Room::empty(context, case.rows()),
            gradients,
            dbias: has_bias.then(|| Room::empty(context, operands.bias.len())),
            context: context.clone(),
        }
    }

    fn launch(&mut self) {
        self.launch_forward();
        self.launch_backward();
    }

    fn launch_forward(&mut self) {
        let (mut out, mut lse) = (self.out.whole(), self.lse.whole());
        let mut arguments = forward::Arguments {
            qkv: views(&self.qkv),
            mask: mask(&self.bias, &self.kv_lengths, &self.offsets),
            out: part(&mut out),
            lse: part(&mut lse),
            workspace: self.workspaces[0].as_view_mut(),
        };
        forward::launch(&self.context, &self.forward, &mut arguments).unwrap();
    }

    fn launch_backward(&mut self) {
        let mut gradients = self
            .gradients
            .each_mut()
            .try_map(|room| Ok(room.whole()))
            .unwrap();
        let mut dbias = self.dbias.as_mut().map(Room::whole);
        let mut arguments = backward::Arguments {
            qkv: views(&self.qkv),
            mask: mask(&self.bias, &self.kv_lengths, &self.offsets),
            out: self.out.view(),
            lse: self.lse.view(),
            dout: self.dout.view(),
            dlse: self.dlse.as_ref().map(Room::view),
            dqkv: gradients
                .each_mut()
                .try_map(|whole| Ok(part(whole)))
                .unwrap(),
            dbias: dbias.as_mut().map(part),
            workspace: self.workspaces[1].as_view_mut(),
        };
        backward::launch(&self.context, &self.backward, &mut arguments).unwrap();
    }

    fn output(&self) -> Output<T> {
        let gradients = match &self.gradients {
            Qkv::Separate { q, k, v } => Qkv::Separate {
                q: q.take(),
                k: k.take(),
                v: v.take(),
            },
            Qkv::Packed(all) => Qkv::Packed(all.take()),
        };
        let [dq, dk, dv] = taken_apart(self.case, gradients);
        let dbias = self.dbias.as_ref().map_or_else(Vec::new, Room::take);
        Output {
            out: self.out.take(),
            lse: self.lse.take(),
            dq,
            dk,
            dv,
            dbias,
        }
    }
}

fn mask<'a, T: Element>(
    bias: &'a Option<Room<T>>,
    kv_lengths: &'a Option<Room<i32>>,
    offsets: &'a Option<[Room<i32>; 2]>,
) -> Mask<CudaView<'a, T>, CudaView<'a, i32>> {
    Mask {
        bias: bias.as_ref().map(Room::view),
        kv_lengths: kv_lengths.as_ref().map(Room::view),
        offsets: offsets
            .as_ref()
            .map(|offsets| offsets.each_ref().map(Room::view)),
    }
}

fn views<T: Element>(rooms: &Qkv<Room<T>>) -> Qkv<CudaView<'_, T>> {
    match rooms {
        Qkv::Separate { q, k, v } => Qkv::Separate {
            q: q.view(),
            k: k.view(),
            v: v.view(),
        },
        Qkv::Packed(all) => Qkv::Packed(all.view()),
    }
}

pub fn run<T: Float>(device: &Cuda, case: &Case, operands: &Operands<T>) -> Output<T> {
    let mut call = Call::new(&device.context, case, operands);
    call.launch_forward();
    let lse = call.lse.take();
    if let Some((row, number)) = operands.given_lse {
        let mut given = lse.clone();
        given[row] = number;
        call.lse = Room::holding(&device.context, &given);
    }
    call.launch_backward();
    let output = call.output();
    device.launches();
    Output { lse, ..output }
}

fn devices() -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    })
}

#[test]
fn a_graph_replays_both_directions() {
    for device in devices().map(Cuda::for_capture) {
        let case = Case {
            bias: Some([true, false]),
            params: Attention {
                causal: true,
                ..Attention::default()
            },
            ..Case::plain([1, 2, 66, 70, 64])
        };
        let operands = Operands::<bf16>::new(&case);
        let expected = run(&device, &case, &operands);
        let mut call = Call::new(&device.context, &case, &operands);
        let stream = device.context.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        call.launch();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.output().lse[0].is_nan(), "captured, not run");
        graph.launch().unwrap();
        call.output().same_bits(&expected).unwrap();
        device.launches();
    }
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for device in devices() {
        let (small, large) = (Case::plain([1, 1, 8, 8, 16]), Case::plain([1, 1, 9, 8, 16]));
        let mut call = Call::<bf16>::new(&device.context, &small, &Operands::new(&small));
        let gpu = device.context.properties();
        let wrong = forward::Plan::new(gpu, &large.geometry(), &large.params, DType::BF16).unwrap();
        let workspace = &mut call.workspaces[0];
        let (mut out, mut lse) = (call.out.whole(), call.lse.whole());
        let mut arguments = forward::Arguments {
            qkv: views(&call.qkv),
            mask: Mask::default(),
            out: part(&mut out),
            lse: part(&mut lse),
            workspace: workspace.as_view_mut(),
        };
        let error = forward::launch(&device.context, &wrong, &mut arguments).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attention: q must be at least 144 elements, got 128"
        );
        let (geometry, layouts) = (small.geometry(), small.layouts());
        let error = backward::Plan::new(gpu, &geometry, &layouts, &small.params, DType::BF16, true);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("attention: dbias must be")
        );
    }
}
