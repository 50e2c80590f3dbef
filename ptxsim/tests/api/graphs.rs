//! Graphs, built by hand and captured.

use super::*;

#[test]
fn graph_built_by_hand_follows_its_dependencies() {
    let stream = stream(1);
    let address = allocate(16);
    let mut graph = null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    // SAFETY: all zeros are a value of this structure.
    let mut params: sys::CUDA_MEMSET_NODE_PARAMS = unsafe { std::mem::zeroed() };
    (params.dst, params.elementSize, params.width, params.height) = (address, 4, 4, 1);
    let (mut first, mut second) = (null_mut(), null_mut());
    // Added in the wrong order: the edge below sets it right.
    params.value = 2;
    ok!(cuGraphAddMemsetNode(
        &mut second,
        graph,
        null_mut(),
        0,
        &params,
        null_mut()
    ));
    params.value = 1;
    ok!(cuGraphAddMemsetNode(
        &mut first,
        graph,
        null_mut(),
        0,
        &params,
        null_mut()
    ));
    let executable = instantiate(graph);
    ok!(cuGraphLaunch(executable, stream));
    assert_eq!(read::<u32>(address, 4), [1; 4]);
    dependency(graph, first, second);
    ok!(cuGraphLaunch(instantiate(graph), stream));
    assert_eq!(read::<u32>(address, 4), [2; 4]);

    let mut count = 0;
    ok!(cuGraphGetNodes(graph, null_mut(), &mut count));
    assert_eq!(count, 2);
    dependency(graph, second, first);
    let mut executable = null_mut();
    let cycle = status!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    assert_eq!(cycle, CUresult::CUDA_ERROR_INVALID_VALUE);
    ok!(cuGraphDestroy(graph));
    assert_eq!(
        status!(cuGraphDestroy(graph)),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
    executable
}

fn dependency(graph: sys::CUgraph, from: sys::CUgraphNode, to: sys::CUgraphNode) {
    type Nodes = *const sys::CUgraphNode;
    type Add = unsafe extern "C" fn(sys::CUgraph, Nodes, Nodes, usize) -> u32;
    // SAFETY: the type is the driver API's, and the arrays have one element.
    unsafe {
        let add: Add = symbol("cuGraphAddDependencies");
        assert_eq!(add(graph, &from, &to, 1), 0);
    }
}

#[test]
fn capture_forks_and_joins_over_events() {
    let (origin, fork) = (stream(1), stream(1));
    let address = allocate(8);
    let (mut forked, mut joined) = (null_mut(), null_mut());
    ok!(cuEventCreate(&mut forked, 2));
    ok!(cuEventCreate(&mut joined, 2));
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let begin = || {
        ok!(cuStreamBeginCapture_v2(origin, mode));
        ok!(cuEventRecord(forked, origin));
        ok!(cuStreamWaitEvent(fork, forked, 0));
        ok!(cuMemsetD32Async(address, 7, 1, fork));
        ok!(cuMemsetD32Async(address + 4, 8, 1, origin));
    };
    let mut graph = null_mut();
    begin();
    let unjoined = status!(cuStreamEndCapture(origin, &mut graph));
    assert_eq!(unjoined, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    assert!(graph.is_null());

    begin();
    ok!(cuEventRecord(joined, fork));
    let unmatched = status!(cuStreamEndCapture(fork, &mut graph));
    assert_eq!(unmatched, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    let invalid = status!(cuStreamEndCapture(origin, &mut graph));
    assert_eq!(invalid, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin();
    ok!(cuEventRecord(joined, fork));
    ok!(cuStreamWaitEvent(origin, joined, 0));
    ok!(cuStreamEndCapture(origin, &mut graph));
    ok!(cuMemsetD32_v2(address, 0, 2));
    ok!(cuGraphLaunch(instantiate(graph), origin));
    assert_eq!(read::<u32>(address, 2), [7, 8]);
}

#[test]
fn capture_refuses_what_cannot_be_captured() {
    let stream = stream(1);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let mut graph = null_mut();
    let end = |graph: &mut sys::CUgraph| {
        let status = status!(cuStreamEndCapture(stream, graph));
        assert_eq!(status, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    };
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    assert_eq!(status!(cuStreamSynchronize(stream)), unsupported);
    end(&mut graph);
    ok!(cuStreamBeginCapture_v2(stream, mode));
    let mut address = 0;
    assert_eq!(status!(cuMemAlloc_v2(&mut address, 4)), unsupported);
    end(&mut graph);
    let legacy = status!(cuStreamBeginCapture_v2(null_mut(), mode));
    assert_eq!(legacy, unsupported);
    let nothing = status!(cuStreamEndCapture(stream, &mut graph));
    assert_eq!(nothing, CUresult::CUDA_ERROR_ILLEGAL_STATE);
}

/// A capture that nobody can end must not forbid allocations for ever.
#[test]
fn destroyed_stream_ends_its_capture() {
    let stream = stream(1);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    ok!(cuStreamBeginCapture_v2(stream, mode));
    ok!(cuStreamDestroy_v2(stream));
    let address = allocate(4);
    ok!(cuMemFree_v2(address));
}

#[test]
fn graph_keeps_the_memory_that_it_allocates() {
    let stream = stream(1);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let out = allocate(4);
    ok!(cuStreamBeginCapture_v2(stream, mode));
    let mut scratch = 0;
    ok!(cuMemAllocAsync(&mut scratch, 4, stream));
    ok!(cuMemsetD32Async(scratch, 5, 1, stream));
    ok!(cuMemcpyDtoDAsync_v2(out, scratch, 4, stream));
    ok!(cuMemFreeAsync(scratch, stream));
    let mut graph = null_mut();
    ok!(cuStreamEndCapture(stream, &mut graph));
    let executable = instantiate(graph);
    for _ in 0..2 {
        ok!(cuMemsetD32_v2(out, 0, 1));
        ok!(cuGraphLaunch(executable, stream));
        assert_eq!(read::<u32>(out, 1), [5]);
    }
    ok!(cuGraphDestroy(graph));
    ok!(cuGraphExecDestroy(executable));
    assert_eq!(
        status!(cuMemFree_v2(scratch)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}
