//! The kernels that only tests launch, on a device of compute capability 9.0.

use crate::device::{Cuda, Target, targets};
use ocelli::Element;
use ocelli::cuda::cudarc::driver::sys::CUfunction_attribute;
use ocelli::cuda::cudarc::driver::{CudaModule, DevicePtr, LaunchConfig, PushKernelArg};
use ocelli::cuda::cudarc::nvrtc::Ptx;
use ocelli::cuda::{Buffer, images};
use ocelli::testing::guard::Guarded;
use ocelli::testing::tensor_map::TensorMap;
use ptxsim::report::FindingKind;
use std::sync::Arc;

const IMAGE: &str = "testing/hopper_sm90";
/// Threads of a warpgroup.
pub const WARPGROUP: usize = 128;

/// What a kernel does wrong on purpose. Mirrors `Mistake` in `kernels/testing/hopper_sm90.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    None,
    NoWait,
    EarlyRelease,
    NoProxyFence,
    EarlyStore,
}

impl Mistake {
    pub fn argument(self) -> Argument<'static> {
        Argument::Number(self as i32)
    }
}

/// What a kernel takes.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    Map(&'a TensorMap),
    Number(i32),
    Address(u64),
}

/// A kernel, and how it is launched.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub symbol: &'a str,
    pub blocks: usize,
    pub threads: usize,
    pub shared_bytes: usize,
}

impl<'a> Call<'a> {
    /// One block of a warpgroup.
    pub fn warpgroup(symbol: &'a str, shared_bytes: usize) -> Self {
        Self {
            symbol,
            blocks: 1,
            threads: WARPGROUP,
            shared_bytes,
        }
    }
}

/// A device with the kernels.
pub struct Hopper {
    device: &'static Cuda,
    module: Arc<CudaModule>,
}

/// All of this run. Others cannot run the kernels.
pub fn hoppers() -> Vec<Hopper> {
    let devices = targets().iter().filter_map(|target| match target {
        Target::Cuda(device) => Some(device),
        Target::Cpu => None,
    });
    devices.filter_map(Hopper::new).collect()
}

impl Hopper {
    fn new(device: &'static Cuda) -> Option<Self> {
        if device.context.properties().compute_capability != (9, 0) {
            return None;
        }
        let Some((_, image)) = images().iter().find(|(name, _)| *name == IMAGE) else {
            println!("skipped: the vocabulary of sm_90a: the kernels are built without sm_90a");
            return None;
        };
        let context = device.context.stream().context();
        let module = context
            .load_module(Ptx::from_binary(image.to_vec()))
            .unwrap();
        Some(Self { device, module })
    }

    /// Those of the simulator's checks that object to what `run` launches; `None` on a GPU, where mistakes go
    /// unseen.
    pub fn findings(&self, run: impl FnOnce()) -> Option<Vec<FindingKind>> {
        let simulator = self.device.simulator?;
        self.check();
        // Other threads' findings fail their tests, printed or not.
        simulator.set_prints(false);
        run();
        simulator.set_prints(true);
        let reports = simulator.take_reports();
        let findings = reports.iter().flat_map(|report| &report.findings);
        Some(findings.map(|finding| finding.kind).collect())
    }

    /// Fails where the simulator found anything in a launch of this thread.
    pub fn check(&self) {
        self.device.launches();
    }

    /// Launches a kernel of the image and waits for it. The arguments are those that its declaration asks for, and
    /// addresses of as many elements as its comment says.
    pub fn launch(&self, call: Call<'_>, arguments: &[Argument<'_>]) {
        let stream = self.device.context.stream();
        let function = self.module.load_function(call.symbol).unwrap();
        let shared_bytes = call.shared_bytes as u32;
        let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, shared_bytes as i32).unwrap();
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            match argument {
                Argument::Map(map) => builder.arg(*map),
                Argument::Number(number) => builder.arg(number),
                Argument::Address(address) => builder.arg(address),
            };
        }
        let config = LaunchConfig {
            grid_dim: (call.blocks as u32, 1, 1),
            block_dim: (call.threads as u32, 1, 1),
            shared_mem_bytes: shared_bytes,
        };
        // SAFETY: each call in this folder passes what the kernel's declaration asks for, and memory of the extents
        // that its comment says, which outlives the launch.
        unsafe { builder.launch(config) }.unwrap();
        self.device.context.synchronize().unwrap();
    }
}

/// Elements on a device, between margins.
pub struct Memory<T> {
    guarded: Guarded<T>,
    buffer: Buffer,
    address: u64,
}

impl<T: Element> Memory<T> {
    pub fn holding(hopper: &Hopper, elements: &[T]) -> Self {
        Self::new(hopper, Guarded::holding(elements, 0))
    }

    /// As many NaN, or absurd integers.
    pub fn unwritten(hopper: &Hopper, len: usize) -> Self {
        Self::new(hopper, Guarded::new(len, 0))
    }

    fn new(hopper: &Hopper, guarded: Guarded<T>) -> Self {
        let context = &hopper.device.context;
        let buffer = Buffer::from_slice(context, guarded.all()).unwrap();
        let view = buffer.view::<T>().unwrap();
        let address = view.device_ptr(context.stream()).0;
        let address = address + (guarded.range().start * size_of::<T>()) as u64;
        Self {
            guarded,
            buffer,
            address,
        }
    }

    /// Of the first element; a multiple of 128.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn argument(&self) -> Argument<'static> {
        Argument::Address(self.address)
    }

    /// The elements, between margins that nobody wrote to.
    pub fn read(&self) -> Vec<T> {
        let back = self.buffer.to_vec::<T>().unwrap();
        self.guarded.check(&back).unwrap().to_vec()
    }
}
