//! The raw CUDA layer under the ops: buffers and workspace of the program's own, and a CUDA graph that suppresses boxes
//! again and again without a wait or an allocation.
//!
//!     cargo run --release --example raw_cuda
//!
//! On a simulated GPU: `LD_PRELOAD=$PWD/target/release/libptxsim.so target/release/examples/raw_cuda`.

use ocelli::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use ocelli::cuda::{Context, nms};
use ocelli::params::Nms;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A program that has a stream already gives it to `Context::from_stream`.
    let context = Context::new(0)?;
    let stream = context.stream();

    // The first two boxes overlap by two thirds.
    let boxes = [0f32, 0., 10., 10., 2., 0., 12., 10., 20., 20., 30., 30.];
    let boxes = stream.clone_htod(&boxes)?;
    let mut scores = stream.clone_htod(&[0.8f32, 0.9, 0.7])?;
    let mut indices = stream.alloc_zeros::<i32>(3)?;
    let mut count = stream.alloc_zeros::<i32>(1)?;
    let plan = nms::Plan::new(context.properties(), 1, 3, 3)?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;

    let mut arguments = nms::Arguments {
        boxes: boxes.as_view(),
        scores: scores.as_view(),
        classes: None,
        counts: None,
        indices: indices.as_view_mut(),
        kept: count.as_view_mut(),
        workspace: workspace.as_view_mut(),
    };
    // The first launch loads the kernel, which a capture does not allow.
    nms::launch(&context, &plan, &Nms::default(), &mut arguments)?;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    nms::launch(&context, &plan, &Nms::default(), &mut arguments)?;
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
    let graph = graph.ok_or("nothing was captured")?;

    for new in [[0.8, 0.9, 0.7], [0.5, 0.4, 0.7]] {
        stream.memcpy_htod(&new, &mut scores)?;
        graph.launch()?;
        let (indices, count) = (stream.clone_dtoh(&indices)?, stream.clone_dtoh(&count)?);
        println!("scores {new:?}: kept {:?}", &indices[..count[0] as usize]);
    }
    Ok(())
}
