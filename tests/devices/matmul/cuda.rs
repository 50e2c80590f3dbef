//! The raw entry on CUDA: guarded buffers, graph capture, traffic, plans.

use super::{
    Activation, Case, Float, Guarded, Layer, Operands, Target, bitwise, judge, plain, targets,
};
use crate::device::Cuda;
use half::bf16;
use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::matmul::{Arguments, Geometry, Plan, launch, lay_out};
use ocelli::cuda::{Buffer, Context, Properties};
use ocelli::params::Conv2d;
use ocelli::{DType, Element};

pub fn run<T: Float>(device: &Cuda, case: &Case, operands: &Operands<T>) -> Vec<T> {
    let mut call = Call::new(&device.context, case, operands);
    call.launch();
    let out = call.out();
    device.launches();
    out
}

fn geometry(layer: &Layer) -> Geometry {
    match *layer {
        Layer::Linear {
            rows,
            inputs,
            outputs,
        } => Geometry::linear(rows, inputs, outputs),
        Layer::Conv2d {
            input,
            weight,
            stride,
            padding,
        } => {
            let params = Conv2d {
                stride,
                padding,
                ..Conv2d::default()
            };
            Geometry::conv2d(input, weight, &params)
        }
    }
    .unwrap()
}

/// Guarded buffers of a call, on the host as they were and on the device.
struct Call<T> {
    context: Context,
    plan: Plan,
    activation: Activation,
    x: (Guarded<T>, Buffer),
    weight: Buffer,
    bias: Option<Buffer>,
    residual: Option<(Guarded<T>, Buffer)>,
    out: (Guarded<T>, Buffer),
}

impl<T: Float> Call<T> {
    fn new(context: &Context, case: &Case, operands: &Operands<T>) -> Self {
        let plan = Plan::new(context.properties(), geometry(&case.layer), T::DTYPE).unwrap();
        let weight = lay_out(&operands.weight, case.layer.reference().weight).unwrap();
        let upload = |values: &[T]| Buffer::from_slice(context, values).unwrap();
        let guarded = |values: &Vec<T>| on_device(context, Guarded::holding(values, case.shift));
        Self {
            context: context.clone(),
            activation: case.activation,
            x: guarded(&operands.x),
            weight: upload(&weight),
            bias: operands.bias.as_deref().map(upload),
            residual: operands.residual.as_ref().map(guarded),
            out: on_device(context, Guarded::new(case.layer.lengths()[2], case.shift)),
            plan,
        }
    }

    fn launch(&mut self) {
        self.try_launch().unwrap();
    }

    fn try_launch(&mut self) -> ocelli::Result<()> {
        let mut out = self.out.1.view_mut()?;
        let residual = self
            .residual
            .as_ref()
            .map(|(host, buffer)| (host.range(), buffer.view::<T>()));
        let residual = match &residual {
            Some((range, Ok(view))) => Some(view.slice(range.clone())),
            _ => None,
        };
        let mut arguments = Arguments::<T> {
            x: self.x.1.view::<T>()?.slice(self.x.0.range()),
            weight: self.weight.view()?,
            bias: self.bias.as_ref().map(Buffer::view).transpose()?,
            residual,
            out: out.slice_mut(self.out.0.range()),
        };
        launch(&self.context, &self.plan, self.activation, &mut arguments)
    }

    fn out(&self) -> Vec<T> {
        self.out
            .0
            .check(&self.out.1.to_vec().unwrap())
            .unwrap()
            .to_vec()
    }
}

fn on_device<T: Element>(context: &Context, host: Guarded<T>) -> (Guarded<T>, Buffer) {
    let buffer = Buffer::from_slice(context, host.all()).unwrap();
    (host, buffer)
}

/// The CUDA devices, and those with counters alone.
fn devices(counters: bool) -> impl Iterator<Item = &'static Cuda> {
    targets().iter().filter_map(move |target| match target {
        Target::Cuda(device) if !counters || device.simulator.is_some() => Some(device),
        _ => None,
    })
}

#[test]
fn large_tiles_are_right() {
    for device in devices(false) {
        let sms = device.context.properties().multiprocessors as usize;
        let rows = 128 * sms.div_ceil(2) - 5;
        let case = plain(Layer::Linear {
            rows,
            inputs: 40,
            outputs: 136,
        });
        let operands = case.operands::<bf16>();
        let plan = Plan::new(
            device.context.properties(),
            geometry(&case.layer),
            DType::BF16,
        );
        assert!(plan.unwrap().to_string().contains("128 x 128"));
        judge(&case, &operands, &run(device, &case, &operands)).unwrap();
        let case = Case { shift: 1, ..case };
        let operands = case.operands::<half::f16>();
        judge(&case, &operands, &run(device, &case, &operands)).unwrap();
    }
}

#[test]
fn a_graph_replays_the_op() {
    for device in devices(false).map(Cuda::for_capture) {
        let case = plain(Layer::Linear {
            rows: 70,
            inputs: 64,
            outputs: 72,
        });
        let operands = case.operands::<bf16>();
        let expected = run(&device, &case, &operands);
        let mut call = Call::new(&device.context, &case, &operands);
        let stream = device.context.stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        call.launch();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags(0))
            .unwrap()
            .unwrap();
        assert!(call.out()[0].is_nan(), "captured, not run");
        graph.launch().unwrap();
        bitwise(&call.out(), &expected).unwrap();
        device.launches();
    }
}

/// Each matrix is read once a tile of the other, and the result written once; no access to shared
/// memory conflicts.
#[test]
fn traffic_is_that_of_the_tiles() {
    for device in devices(true) {
        let conv = |input, weight| Layer::Conv2d {
            input,
            weight,
            stride: 1,
            padding: 1,
        };
        for (layer, tile) in [
            (
                Layer::Linear {
                    rows: 256,
                    inputs: 256,
                    outputs: 192,
                },
                64,
            ),
            (conv([1, 16, 16, 32], [64, 32, 3, 3]), 64),
        ] {
            let case = Case {
                residual: false,
                bias: false,
                ..plain(layer)
            };
            let operands = case.operands::<bf16>();
            let mut call = Call::new(&device.context, &case, &operands);
            device.launches();
            call.launch();
            call.context.synchronize().unwrap();
            let counters = device.launches()[0].counters;
            let g = geometry(&layer);
            let (rows, outputs, steps) = (g.rows(), g.outputs(), g.steps());
            let reads = 2 * steps * (rows * outputs.div_ceil(tile) + outputs * rows.div_ceil(tile));
            let read = counters.async_copies.sectors * 32;
            assert_eq!(counters.global_loads.bytes, 0);
            assert_eq!(counters.matrix_loads.conflicts, 0);
            assert_eq!(counters.shared_stores.conflicts, 0);
            assert!(read as f64 <= 1.05 * reads as f64, "{read} for {reads}");
            let written = counters.global_stores.sectors * 32;
            assert!(
                written as f64 <= 1.05 * (2 * rows * outputs) as f64,
                "{counters:?}"
            );
        }
    }
}

#[test]
fn a_plan_says_what_it_does_and_why() {
    let gpu = Properties::new((9, 0), 132, 227 * 1024);
    let plan = Plan::new(
        &gpu,
        Geometry::linear(6304, 768, 3072).unwrap(),
        DType::BF16,
    )
    .unwrap();
    assert_eq!(
        plan.to_string(),
        "matmul [6304, 768] x [768, 3072] bf16: 53133312 bytes and 14873001984 multiply-adds at \
         least\n  matmul_128_bf16 <<<[1200, 1, 1], [256, 1, 1], 65536 B>>>: tiles of 128 x 128 (one \
         block or more a multiprocessor), 4 stages of 64 bytes a row"
    );
    let small = Plan::new(&gpu, Geometry::linear(197, 768, 768).unwrap(), DType::F16).unwrap();
    assert!(
        small
            .to_string()
            .contains("matmul_64_f16 <<<[48, 1, 1], [128, 1, 1], 32768 B>>>")
    );
    assert!(Plan::new(&gpu, *plan.geometry(), DType::I32).is_err());
    assert!(Geometry::linear(1 << 31, 8, 8).is_err());
    assert!(Geometry::linear(8, 0, 8).is_err());
    assert!(Geometry::linear(8, 8, usize::MAX).is_err());
    let many = Geometry::linear((1 << 31) - 300, 8, (1 << 31) - 300).unwrap();
    assert!(Plan::new(&gpu, many, DType::F16).is_err());
    let conv = Geometry::conv2d([1, 8, 8, 4], [8, 5, 3, 3], &Conv2d::default());
    let text = conv.unwrap_err().to_string();
    assert_eq!(
        text,
        "matmul: x must be 5 channels, as the weight has, got 4"
    );
}

#[test]
fn buffers_that_do_not_fit_the_plan_are_errors() {
    for device in devices(false) {
        let case = plain(Layer::Linear {
            rows: 4,
            inputs: 8,
            outputs: 8,
        });
        let operands = case.operands::<f32>();
        let mut call = Call::new(&device.context, &case, &operands);
        for (wrong, message) in [
            (Geometry::linear(5, 8, 8), "x must be 40 elements, got 32"),
            (
                Geometry::linear(4, 8, 7),
                "weight must be 56 elements, got 64",
            ),
            (Geometry::linear(2, 16, 4), "bias must be 4 elements, got 8"),
        ] {
            call.plan = Plan::new(device.context.properties(), wrong.unwrap(), DType::F32).unwrap();
            let text = call.try_launch().unwrap_err().to_string();
            assert_eq!(text, format!("matmul: {message}"));
        }
        assert!(lay_out(&[0f32; 5], [2, 3, 1, 1]).is_err());
    }
}
