//! What only the simulated sm_90a has: clusters and tensor maps.

mod common;

use std::sync::Arc;

use common::{CLUSTER_RANK, function, simulator};
use cudarc::driver::{CudaContext, DevicePtr, sys};
use ptxsim::sim::Arch;
use sys::CUresult;

fn context() -> Arc<CudaContext> {
    assert!(simulator().set_arch(Arch::Sm90a));
    common::context()
}

/// The handle of a function, which cudarc keeps to itself.
fn raw_function(context: &Arc<CudaContext>, ptx: &str, name: &str) -> sys::CUfunction {
    context.bind_to_thread().unwrap();
    let text = std::ffi::CString::new(ptx).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: valid pointers and zero-terminated texts.
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast())
            .result()
            .unwrap();
        sys::cuModuleGetFunction(&mut function, module, name.as_ptr())
            .result()
            .unwrap();
    }
    function
}

/// Launches `cluster_rank` on 8 blocks in clusters of the given extents.
fn launch(context: &Arc<CudaContext>, cluster: [u32; 3]) -> Result<Vec<u32>, CUresult> {
    let stream = context.new_stream().unwrap();
    let function = raw_function(context, CLUSTER_RANK, "cluster_rank");
    let out = stream.alloc_zeros::<u32>(8).unwrap();
    let (address, _guard) = out.device_ptr(&stream);
    let mut argument = address;
    let mut arguments = [(&raw mut argument).cast()];
    // SAFETY: all zeros are a value of these structures.
    let (mut config, mut attribute) = unsafe {
        (
            std::mem::zeroed::<sys::CUlaunchConfig>(),
            std::mem::zeroed::<sys::CUlaunchAttribute>(),
        )
    };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    let extents = (&raw mut attribute.value).cast::<[u32; 3]>();
    // SAFETY: the union begins with the extents of a cluster.
    unsafe { extents.write(cluster) };
    (config.gridDimX, config.gridDimY, config.gridDimZ) = (8, 1, 1);
    (config.blockDimX, config.blockDimY, config.blockDimZ) = (1, 1, 1);
    config.hStream = stream.cu_stream();
    (config.attrs, config.numAttrs) = (&raw mut attribute, 1);
    let extra = std::ptr::null_mut();
    // SAFETY: the pointers are valid, and the kernel takes one address.
    let status = unsafe { sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), extra) };
    status.result().map_err(|error| error.0)?;
    Ok(stream.clone_dtoh(&out).unwrap())
}

#[test]
fn clusters() {
    let context = context();
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert_eq!(
        launch(&context, [4, 1, 1]),
        Ok(vec![0, 1, 2, 3, 0, 1, 2, 3])
    );
    assert_eq!(launch(&context, [1, 1, 1]), Ok(vec![0; 8]));
    // Does not divide the grid; too large.
    assert_eq!(
        launch(&context, [3, 1, 1]),
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    assert_eq!(
        launch(&context, [16, 1, 1]),
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
}

#[test]
fn cluster_occupancy() {
    let context = context();
    let function = function(&context, CLUSTER_RANK, "cluster_rank");
    let config = cudarc::driver::LaunchConfig {
        grid_dim: (8, 1, 1),
        block_dim: (1024, 1, 1),
        shared_mem_bytes: 0,
    };
    let size = function
        .occupancy_max_potential_cluster_size(config, &context.default_stream())
        .unwrap();
    assert_eq!(size, 8);
}

#[test]
fn tensor_maps() {
    context().bind_to_thread().unwrap();
    let encode = |inner_box: u32, address: u64| {
        let mut map = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: the arrays have the length of the rank, the strides one less.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                address as *mut _,
                [256, 128].as_ptr(),
                [512].as_ptr(),
                [inner_box, 64].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    assert_eq!(encode(64, 0x100_0000_0000), CUresult::CUDA_SUCCESS);
    // Wider than the swizzle; misaligned.
    assert_eq!(
        encode(128, 0x100_0000_0000),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        encode(64, 0x100_0000_0008),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}
