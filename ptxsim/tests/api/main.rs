//! Parts of the driver API that cudarc's safe interface does not use.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::c_void;
use std::ptr::null_mut;

use common::{SAXPY, context, simulator};
use cudarc::driver::{result, sys};
use sys::CUresult;

/// Calls a driver function that must succeed.
macro_rules! ok {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: pointers are to locals of the types that the function takes.
        assert_eq!(unsafe { sys::$name($($argument),*) }, CUresult::CUDA_SUCCESS, stringify!($name))
    };
}

/// Calls a driver function and returns its status.
macro_rules! status {
    ($name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as above.
        unsafe { sys::$name($($argument),*) }
    };
}

mod graphs;

fn stream(flags: u32) -> sys::CUstream {
    context().bind_to_thread().unwrap();
    let mut stream = null_mut();
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

fn allocate(bytes: usize) -> u64 {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, bytes));
    address
}

fn read<T: Default + Clone>(address: u64, len: usize) -> Vec<T> {
    let mut values = vec![T::default(); len];
    ok!(cuMemcpyDtoH_v2(
        values.as_mut_ptr().cast(),
        address,
        size_of_val(&values[..])
    ));
    values
}

/// A function that bindings for some CUDA versions do not declare.
///
/// # Safety
///
/// `F` must be its type.
unsafe fn symbol<F: Copy>(name: &str) -> F {
    // SAFETY: the library runs no code when it is loaded, and is loaded already; the caller vouches
    // for the type.
    unsafe {
        let library = libloading::os::unix::Library::new(simulator().path()).unwrap();
        *library.get::<F>(name.as_bytes()).unwrap()
    }
}

#[test]
fn copies_in_two_dimensions() {
    stream(1);
    let host: Vec<u8> = (0..12).collect();
    let (mut device, mut pitch) = (0, 0);
    ok!(cuMemAllocPitch_v2(&mut device, &mut pitch, 4, 3, 4));
    assert_eq!(pitch, 512);
    let mut copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: host.as_ptr().cast(),
        srcDevice: 0,
        srcArray: null_mut(),
        srcPitch: 4,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: device,
        dstArray: null_mut(),
        dstPitch: pitch,
        WidthInBytes: 4,
        Height: 3,
    };
    ok!(cuMemcpy2D_v2(&copy));
    assert_eq!(read::<u8>(device + pitch as u64, 4), [4, 5, 6, 7]);
    // The lower right 2 x 2 of it.
    let mut part = [0u8; 4];
    copy.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    (copy.srcDevice, copy.srcPitch, copy.srcXInBytes, copy.srcY) = (device, pitch, 2, 1);
    copy.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
    (copy.dstHost, copy.dstPitch) = (part.as_mut_ptr().cast(), 2);
    (copy.WidthInBytes, copy.Height) = (2, 2);
    ok!(cuMemcpy2D_v2(&copy));
    assert_eq!(part, [6, 7, 10, 11]);
    copy.Height = 3;
    assert_eq!(
        status!(cuMemcpy2D_v2(&copy)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn memsets_of_all_widths() {
    stream(1);
    let address = allocate(64);
    ok!(cuMemsetD8_v2(address, 1, 64));
    ok!(cuMemsetD16_v2(address + 2, 0x0302, 1));
    ok!(cuMemsetD32_v2(address + 4, 0x0706_0504, 1));
    assert_eq!(read::<u8>(address, 9), [1, 1, 2, 3, 4, 5, 6, 7, 1]);
    ok!(cuMemsetD2D8_v2(address, 16, 9, 2, 3));
    assert_eq!(read::<u8>(address + 32, 3), [9, 9, 1]);
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(status!(cuMemsetD16_v2(address + 1, 0, 1)), invalid);
    assert_eq!(status!(cuMemsetD8_v2(address, 0, 65)), invalid);
}

#[test]
fn pointer_attributes() {
    stream(1);
    let address = allocate(1000);
    let (mut start, mut bytes) = (0u64, 0usize);
    ok!(cuMemGetAddressRange_v2(
        &mut start,
        &mut bytes,
        address + 999
    ));
    assert_eq!((start, bytes), (address, 1000));
    let attribute = |attribute, address| {
        let mut value = 0u32;
        let status = status!(cuPointerGetAttribute(
            (&raw mut value).cast(),
            attribute,
            address
        ));
        (status, value)
    };
    let memory_type = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    assert_eq!(attribute(memory_type, address), (CUresult::CUDA_SUCCESS, 2));
    let mut pinned: *mut c_void = null_mut();
    ok!(cuMemHostAlloc(&mut pinned, 64, 0));
    assert_eq!(
        attribute(memory_type, pinned as u64),
        (CUresult::CUDA_SUCCESS, 1)
    );
    ok!(cuMemFreeHost(pinned));
    let unknown = attribute(memory_type, address + 1000).0;
    assert_eq!(unknown, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn registered_memory_is_the_program_s_own() {
    stream(1);
    let mut own = vec![1u32; 1024];
    let pointer = own.as_mut_ptr().cast();
    ok!(cuMemHostRegister_v2(pointer, 4096, 0));
    let twice = status!(cuMemHostRegister_v2(pointer, 4096, 0));
    assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    ok!(cuMemsetD32_v2(pointer as u64, 3, 1024));
    ok!(cuMemHostUnregister(pointer));
    assert_eq!(own, [3; 1024]);
    let again = status!(cuMemHostUnregister(pointer));
    assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

#[test]
fn pools_account_for_their_memory() {
    let stream = stream(1);
    // SAFETY: all zeros are a value of this structure.
    let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    let mut pool = null_mut();
    ok!(cuMemPoolCreate(&mut pool, &properties));
    let used = || {
        let mut used = 0u64;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        ok!(cuMemPoolGetAttribute(
            pool,
            attribute,
            (&raw mut used).cast()
        ));
        used
    };
    let mut address = 0;
    ok!(cuMemAllocFromPoolAsync(&mut address, 100, pool, stream));
    assert_eq!(used(), 100);
    ok!(cuMemFreeAsync(address, stream));
    assert_eq!(used(), 0);
    ok!(cuMemPoolDestroy(pool));
    assert_eq!(
        status!(cuMemPoolDestroy(pool)),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn stale_handles_are_errors() {
    let old = stream(1);
    ok!(cuStreamDestroy_v2(old));
    let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
    assert_eq!(status!(cuStreamSynchronize(old)), invalid);
    assert_eq!(status!(cuEventRecord(old.cast(), null_mut())), invalid);
    let text = std::ffi::CString::new(SAXPY).unwrap();
    let (mut module, mut function) = (null_mut(), null_mut());
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    ok!(cuModuleGetFunction(
        &mut function,
        module,
        c"saxpy".as_ptr()
    ));
    let missing = status!(cuModuleGetFunction(
        &mut function,
        module,
        c"saxpi".as_ptr()
    ));
    assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
    ok!(cuModuleUnload(module));
    let mut value = 0;
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
    assert_eq!(
        status!(cuFuncGetAttribute(&mut value, attribute, function)),
        invalid
    );
    assert_eq!(status!(cuModuleUnload(module)), invalid);
}

#[test]
fn unsupported_calls_say_so() {
    stream(1);
    let mut texture = 0;
    let (null, none) = (std::ptr::null(), std::ptr::null());
    let status = status!(cuTexObjectCreate(
        &mut texture,
        null,
        none,
        std::ptr::null()
    ));
    assert_eq!(status, CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn why_a_module_does_not_load_is_in_the_log() {
    stream(1);
    let text = SAXPY.replace("fma.rn.f32", "frobnicate.f32");
    let text = std::ffi::CString::new(text).unwrap();
    let mut log = [1u8; 256];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module = null_mut();
    let status = status!(cuModuleLoadDataEx(
        &mut module,
        text.as_ptr().cast(),
        2,
        options.as_mut_ptr(),
        values.as_mut_ptr(),
    ));
    assert_eq!(status, CUresult::CUDA_ERROR_INVALID_PTX);
    let message = std::ffi::CStr::from_bytes_until_nul(&log)
        .unwrap()
        .to_str()
        .unwrap();
    assert!(
        message.contains("frobnicate") && message.contains("saxpy"),
        "{message}"
    );
}

#[test]
fn contexts_stack_up() {
    stream(1);
    let (mut old, mut new, mut current) = (null_mut(), null_mut(), null_mut());
    ok!(cuCtxGetCurrent(&mut old));
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, i32) -> u32;
    // SAFETY: the type is the driver API's.
    unsafe {
        let create: Create = symbol("cuCtxCreate_v2");
        assert_eq!(create(&mut new, 0, 0), 0);
    }
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, new);
    ok!(cuCtxDestroy_v2(new));
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, old);
    assert_eq!(
        status!(cuCtxSetCurrent(new)),
        CUresult::CUDA_ERROR_INVALID_CONTEXT
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut address = 0;
            let none = status!(cuMemAlloc_v2(&mut address, 4));
            assert_eq!(none, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        });
    });
    // SAFETY: no arguments that could be wrong.
    assert!(result::device::get(1).is_err());
}
