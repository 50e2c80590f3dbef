//! Clocks of the CPU and of CUDA.

use ocelli::Device;
#[cfg(feature = "cuda")]
use ocelli::cuda::{Context, cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT};
use std::time::{Duration, Instant};

/// The time of so many calls.
pub fn time(device: &Device, calls: u64, call: &mut impl FnMut()) -> Duration {
    match device {
        Device::Cpu => {
            let (start, clock) = (processor_time(), Instant::now());
            (0..calls).for_each(|_| call());
            match (start, processor_time()) {
                (Some(start), Some(end)) => end - start,
                _ => clock.elapsed(),
            }
        }
        Device::Cuda(context) => time_on_cuda(context, calls, call),
    }
}

/// Sums what device events say of each call, after so much was written that the L2 is cold, and that the host
/// has queued the call before the device comes to it.
#[cfg(feature = "cuda")]
fn time_on_cuda(context: &Context, calls: u64, call: &mut impl FnMut()) -> Duration {
    /// Events in flight: a few are enough to keep the device busy.
    const BATCH: u64 = 64;
    let stream = context.stream();
    /// As in `benches/peers.py`: the L2 of an H200 five times.
    const FLUSH_BYTES: usize = 256 << 20;
    let mut flush = stream
        .alloc_zeros::<u8>(FLUSH_BYTES)
        .expect("room for a flush");
    let event = || {
        stream
            .record_event(Some(CU_EVENT_DEFAULT))
            .expect("an event")
    };
    let mut total = Duration::ZERO;
    let mut left = calls;
    while left > 0 {
        let batch = left.min(BATCH);
        let events: Vec<_> = (0..batch)
            .map(|_| {
                stream.memset_zeros(&mut flush).expect("a flush");
                let start = event();
                call();
                (start, event())
            })
            .collect();
        context.synchronize().expect("the device ran the op");
        for (start, end) in events {
            let milliseconds = start.elapsed_ms(&end).expect("a time");
            total += Duration::from_secs_f64(f64::from(milliseconds) / 1e3);
        }
        left -= batch;
    }
    total
}

#[cfg(not(feature = "cuda"))]
fn time_on_cuda(context: &ocelli::cuda::Context, _: u64, _: &mut impl FnMut()) -> Duration {
    match *context {}
}

/// What all threads of the process have had of the processors, where they work one at a time and Linux counts: on a machine
/// with other work it is still what a call takes.
pub fn processor_time() -> Option<Duration> {
    if rayon::current_num_threads() > 1 {
        return None;
    }
    let mut sum = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let line = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += line.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(sum))
}
