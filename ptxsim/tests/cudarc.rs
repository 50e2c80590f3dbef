//! The simulated driver through cudarc's safe interface.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::{SAXPY, context, function, saxpy, shape, simulator};
use cudarc::driver::{DriverError, LaunchConfig, PushKernelArg, result, sys};
use sys::CUresult;

#[test]
fn device_says_what_it_is() {
    let context = context();
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.name().unwrap(), "ptxsim sm_80");
    let (free, total) = context.mem_get_info().unwrap();
    assert!(0 < free && free <= total);
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(attribute).unwrap(), 108);
}

#[test]
fn copies_and_memsets() {
    let stream = context().new_stream().unwrap();
    let host: Vec<u32> = (0..1000).collect();
    let device = stream.clone_htod(&host).unwrap();
    let mut copy = stream.alloc_zeros::<u32>(1000).unwrap();
    stream.memcpy_dtod(&device, &mut copy).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), host);
    stream.memset_zeros(&mut copy).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), vec![0; 1000]);
    assert_eq!(
        stream.clone_dtoh(&device.slice(10..20)).unwrap(),
        host[10..20]
    );
}

#[test]
fn kernel_computes_and_is_counted() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let kernel = function(&context, SAXPY, "saxpy");
    let n = 1000u32;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let device_x = stream.clone_htod(&x).unwrap();
    let mut y = stream.clone_htod(&vec![1.0f32; n as usize]).unwrap();
    simulator().take_reports();
    saxpy(
        &stream,
        &kernel,
        shape(n.div_ceil(128), 128),
        &mut y,
        &device_x,
        2.0,
        n,
    )
    .unwrap();
    let expected: Vec<f32> = x.iter().map(|x| 2.0 * x + 1.0).collect();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), expected);

    let reports = simulator().take_reports();
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!(
        (report.kernel.as_str(), report.grid, report.block),
        ("saxpy", [8, 1, 1], [128, 1, 1])
    );
    assert_eq!(report.findings, []);
    // 1000 floats of x and of y are read, those of y written; 31 whole warps and one of 8 lanes.
    assert_eq!(report.counters.global_loads.bytes, 8000);
    assert_eq!(report.counters.global_stores.bytes, 4000);
    assert_eq!(report.counters.global_stores.requests, 32);
    assert_eq!(report.counters.global_stores.sectors, 125);
}

#[test]
fn out_of_bounds_is_returned_found_and_not_sticky() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let kernel = function(&context, SAXPY, "saxpy");
    let x = stream.clone_htod(&[1.0f32; 64]).unwrap();
    let mut y = stream.clone_htod(&[1.0f32; 64]).unwrap();
    simulator().take_reports();
    // 65 elements: one too many.
    let error = saxpy(&stream, &kernel, shape(1, 128), &mut y, &x, 2.0, 65).unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    let findings = simulator().take_reports().remove(0).findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].kind, ptxsim::report::FindingKind::OutOfBounds);
    assert_eq!(findings[0].thread, [64, 0, 0]);
    assert!(simulator().findings() > 0);

    // What the failed launch had written by then stays written.
    stream.memset_zeros(&mut y).unwrap();
    saxpy(&stream, &kernel, shape(1, 128), &mut y, &x, 2.0, 64).unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0; 64]);
}

#[test]
fn events_are_ordered_in_time() {
    let stream = context().new_stream().unwrap();
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(flags).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    let end = stream.record_event(flags).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() >= 2.0);
    assert!(end.elapsed_ms(&start).unwrap() <= -2.0);
    let untimed = stream.record_event(None).unwrap();
    let error = start.elapsed_ms(&untimed).unwrap_err();
    assert_eq!(error, DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE));
}

/// A host function may wait for something that the program does after it enqueued it.
#[test]
fn host_function_holds_back_its_stream() {
    unsafe extern "C" fn wait(data: *mut std::ffi::c_void) {
        // SAFETY: the pointer below, passed once.
        let receiver = unsafe { Box::from_raw(data.cast::<mpsc::Receiver<()>>()) };
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let context = context();
    let stream = context.new_stream().unwrap();
    let other = context.new_stream().unwrap();
    let (sender, receiver) = mpsc::channel();
    let data = Box::into_raw(Box::new(receiver)).cast();
    // SAFETY: `wait` takes such a pointer.
    unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(wait), data) }
        .result()
        .unwrap();
    let event = stream.record_event(None).unwrap();
    assert!(!event.is_complete());
    other.wait(&event).unwrap();
    sender.send(()).unwrap();
    other.synchronize().unwrap();
    assert!(event.is_complete());
}

#[test]
fn graph_replays_what_a_stream_captured() {
    let context = context();
    let stream = context.new_stream().unwrap();
    // SAFETY: all work is in one stream.
    unsafe { context.disable_event_tracking() };
    let kernel = function(&context, SAXPY, "saxpy");
    let x = stream.clone_htod(&[1.0f32; 32]).unwrap();
    let mut y = stream.clone_htod(&[9.0f32; 32]).unwrap();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    stream.memset_zeros(&mut y).unwrap();
    for _ in 0..2 {
        saxpy(&stream, &kernel, shape(1, 32), &mut y, &x, 3.0, 32).unwrap();
    }
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [9.0; 32]);
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [6.0; 32]);
    }
}

#[test]
fn occupancy_of_a_small_kernel() {
    let kernel = function(&context(), SAXPY, "saxpy");
    assert_eq!(
        kernel
            .occupancy_max_active_blocks_per_multiprocessor(256, 0, None)
            .unwrap(),
        8
    );
    assert_eq!(
        kernel
            .occupancy_max_active_blocks_per_multiprocessor(32, 0, None)
            .unwrap(),
        32
    );
    assert_eq!(
        kernel
            .occupancy_max_active_blocks_per_multiprocessor(128, 80 << 10, None)
            .unwrap(),
        2
    );
    extern "C" fn none(_: i32) -> usize {
        0
    }
    let (grid, block) = kernel
        .occupancy_max_potential_block_size(none, 0, 0, None)
        .unwrap();
    assert_eq!((grid, block), (216, 1024));
}

#[test]
fn shared_memory_must_be_asked_for() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let kernel = function(&context, SAXPY, "saxpy");
    let x = stream.clone_htod(&[1.0f32; 32]).unwrap();
    let mut y = stream.clone_htod(&[0.0f32; 32]).unwrap();
    let mut run = |shared: u32| {
        let shape = LaunchConfig {
            shared_mem_bytes: shared,
            ..shape(1, 32)
        };
        saxpy(&stream, &kernel, shape, &mut y, &x, 3.0, 32)
    };
    assert_eq!(run(48 << 10), Ok(()));
    assert_eq!(
        run(64 << 10),
        Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE))
    );
    let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(attribute, 64 << 10).unwrap();
    assert_eq!(run(64 << 10), Ok(()));
    assert!(kernel.set_attribute(attribute, 164 << 10).is_err());
}

#[test]
fn bad_shapes_are_refused() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let kernel = function(&context, SAXPY, "saxpy");
    let x = stream.clone_htod(&[1.0f32; 32]).unwrap();
    let mut y = stream.clone_htod(&[0.0f32; 32]).unwrap();
    for (grid, block) in [
        ((0, 1, 1), (32, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 65536, 1), (32, 1, 1)),
    ] {
        let shape = LaunchConfig {
            grid_dim: grid,
            block_dim: block,
            shared_mem_bytes: 0,
        };
        let error = saxpy(&stream, &kernel, shape, &mut y, &x, 3.0, 32).unwrap_err();
        assert_eq!(
            error,
            DriverError(CUresult::CUDA_ERROR_INVALID_VALUE),
            "{grid:?} {block:?}"
        );
    }
}

#[test]
fn bad_modules_are_refused_with_the_right_code() {
    let context = context();
    context.bind_to_thread().unwrap();
    let load = |image: &[u8]| {
        // SAFETY: `image` is a zero-terminated text, or a header that says its length.
        unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map(|_| ())
            .unwrap_err()
            .0
    };
    assert_eq!(load(b"not ptx at all\0"), CUresult::CUDA_ERROR_INVALID_PTX);
    let unknown = SAXPY.replace("fma.rn.f32", "frobnicate.f32") + "\0";
    assert_eq!(load(unknown.as_bytes()), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(
        load(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0\0"),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    let newer = SAXPY.replace("sm_80", "sm_90a") + "\0";
    assert_eq!(
        load(newer.as_bytes()),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    // A fatbin of 2^62 bytes.
    let mut header = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    header.extend((1u64 << 62).to_le_bytes());
    assert_eq!(load(&header), CUresult::CUDA_ERROR_INVALID_IMAGE);
}

#[test]
fn pinned_and_managed_memory_is_seen_by_kernels() {
    let context = context();
    let stream = context.new_stream().unwrap();
    let kernel = function(&context, SAXPY, "saxpy");
    // SAFETY: floats have no invalid values.
    let mut y = unsafe { context.alloc_unified::<f32>(32, true) }.unwrap();
    y.as_mut_slice().unwrap().fill(1.0);
    let x = stream.clone_htod(&[1.0f32; 32]).unwrap();
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut y).arg(&x).arg(&3.0f32).arg(&32u32);
    // SAFETY: the arguments have the kernel's types.
    unsafe { launch.launch(shape(1, 32)) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(y.as_slice().unwrap(), [4.0; 32]);
}

/// Reports belong to the thread that launched.
#[test]
fn threads_do_not_mix() {
    let context = context();
    let run = |launches: usize| {
        let stream = context.new_stream().unwrap();
        let kernel = function(&context, SAXPY, "saxpy");
        let x = stream.clone_htod(&[1.0f32; 32]).unwrap();
        let mut y = stream.clone_htod(&[0.0f32; 32]).unwrap();
        for _ in 0..launches {
            saxpy(&stream, &kernel, shape(1, 32), &mut y, &x, 1.0, 32).unwrap();
        }
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [launches as f32; 32]);
        simulator().take_reports().len()
    };
    let counts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5)
            .map(|launches| scope.spawn(move || run(launches)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(counts, [1, 2, 3, 4]);
}
