//! What the tests share: the simulated driver in place, a context, kernels.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::sync::{Arc, OnceLock};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use ptxsim::client::{Simulator, load_always};

/// The simulated driver, loaded before cudarc looks for one. It prints nothing: the tests provoke
/// findings and failures, and read them.
pub fn simulator() -> &'static Simulator {
    static SIMULATOR: OnceLock<Simulator> = OnceLock::new();
    SIMULATOR.get_or_init(|| {
        let simulator = load_always().expect("the shared library is built with the tests");
        simulator.set_prints(false);
        simulator
    })
}

/// A context on the simulated device.
pub fn context() -> Arc<CudaContext> {
    simulator();
    CudaContext::new(0).expect("the simulated device")
}

/// A function of a module.
pub fn function(context: &Arc<CudaContext>, ptx: &str, name: &str) -> CudaFunction {
    let module = context
        .load_module(Ptx::from_src(ptx))
        .expect("the module loads");
    module.load_function(name).expect("the function is there")
}

/// Launches [`SAXPY`] on one-dimensional blocks.
pub fn saxpy(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    shape: LaunchConfig,
    y: &mut CudaSlice<f32>,
    x: &CudaSlice<f32>,
    a: f32,
    n: u32,
) -> Result<(), DriverError> {
    let mut launch = stream.launch_builder(function);
    launch.arg(y).arg(x).arg(&a).arg(&n);
    // SAFETY: the arguments have the kernel's types, and the simulated driver checks its accesses.
    unsafe { launch.launch(shape) }.map(|_| ())
}

/// `blocks` blocks of `threads` threads.
pub fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// `y[i] = a * x[i] + y[i]` for `i < n`; parameters `y`, `x`, `a`, `n`.
pub const SAXPY: &str = "
.version 8.0
.target sm_80
.address_size 64

.visible .entry saxpy(
    .param .u64 saxpy_y,
    .param .u64 saxpy_x,
    .param .f32 saxpy_a,
    .param .u32 saxpy_n
)
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;

    ld.param.u64 %rd1, [saxpy_y];
    ld.param.u64 %rd2, [saxpy_x];
    ld.param.f32 %f1, [saxpy_a];
    ld.param.u32 %r1, [saxpy_n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra $done;
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r5, 4;
    add.s64 %rd6, %rd3, %rd5;
    add.s64 %rd7, %rd4, %rd5;
    ld.global.f32 %f2, [%rd6];
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f4, %f1, %f3, %f2;
    st.global.f32 [%rd6], %f4;
$done:
    ret;
}
";

/// Each block writes its rank in the cluster: `out[block] = %cluster_ctarank`. Needs sm_90.
pub const CLUSTER_RANK: &str = "
.version 8.0
.target sm_90
.address_size 64

.visible .entry cluster_rank(.param .u64 out)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<5>;

    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %cluster_ctarank;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r2;
    ret;
}
";
