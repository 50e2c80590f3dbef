//! Timing on the CPU and on CUDA.

use criterion::{BenchmarkId, Criterion, Throughput};
use ocelli::Device;
#[cfg(feature = "cuda")]
use ocelli::cuda::{Context, cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT};
use std::time::{Duration, Instant};

/// Bytes of the copy that measures a device's bandwidth: beyond every cache.
const COPY_BYTES: usize = 256 << 20;

/// A device and the bandwidth that a copy reached on it.
struct Measured {
    device: Device,
    name: String,
    /// Bytes read and written a second.
    peak: f64,
}

/// What one call must do at least.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Read and written.
    pub bytes: usize,
    /// Multiplications and additions; 0 where the bytes say it all.
    pub operations: f64,
}

/// Criterion and the devices.
pub struct Bench {
    criterion: Criterion,
    devices: Vec<Measured>,
    /// Lines of the summary.
    lines: Vec<String>,
    /// Run as a test, each case runs once, and small.
    smoke: bool,
}

impl Bench {
    /// Finds the devices and measures a copy on each. What is missing is printed with the reason.
    pub fn new() -> Self {
        let smoke = !std::env::args().any(|argument| argument == "--bench");
        let bytes = if smoke { 1 << 20 } else { COPY_BYTES };
        let threads = rayon::current_num_threads();
        let cpu = Measured {
            device: Device::Cpu,
            name: format!("cpu ({threads} threads)"),
            peak: copy_on_cpu(bytes),
        };
        let mut devices = vec![cpu];
        match gpu(bytes) {
            Ok(gpu) => devices.push(gpu),
            Err(reason) => println!("not measured: cuda: {reason}"),
        }
        for device in &devices {
            println!(
                "{}: a copy moves {:.1} GB/s",
                device.name,
                device.peak / 1e9
            );
        }
        let criterion = Criterion::default().sample_size(20).configure_from_args();
        Self {
            criterion,
            devices,
            lines: Vec::new(),
            smoke,
        }
    }

    /// `size`, or a hundredth of it in a smoke run.
    pub fn size(&self, size: usize) -> usize {
        if self.smoke { size / 100 } else { size }
    }

    /// Times `prepare(device)()` on each device. `bytes` is what one call must read and write at
    /// least.
    ///
    /// `prepare` makes the inputs, checks the answer and returns the call.
    pub fn case<F: FnMut()>(
        &mut self,
        op: &str,
        case: &str,
        bytes: usize,
        prepare: impl Fn(&Device) -> F,
    ) {
        let cost = Cost {
            bytes,
            operations: 0.0,
        };
        self.costly_case(op, case, cost, [true; 2], prepare);
    }

    /// The same for an op whose operations count, on the CPU and on CUDA where `devices` says so.
    pub fn costly_case<F: FnMut()>(
        &mut self,
        op: &str,
        case: &str,
        cost: Cost,
        devices: [bool; 2],
        prepare: impl Fn(&Device) -> F,
    ) {
        let [on_cpu, on_cuda] = devices;
        let asked = |measured: &&Measured| match measured.device {
            Device::Cpu => on_cpu,
            Device::Cuda(_) => on_cuda,
        };
        for measured in self.devices.iter().filter(asked) {
            let mut call = prepare(&measured.device);
            let mut samples = Vec::new();
            let (mut spent, mut made) = (Duration::ZERO, 0);
            let mut group = self
                .criterion
                .benchmark_group(format!("{op}/{}", measured.name));
            group.throughput(Throughput::BytesDecimal(cost.bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
                bencher.iter_custom(|calls| {
                    let before = processor_time();
                    let time = time(&measured.device, calls, &mut call);
                    spent += processor_time().saturating_sub(before);
                    made += calls;
                    samples.push(time.as_secs_f64() / calls as f64);
                    time
                });
            });
            group.finish();
            let name = format!("{op} {case} on {}", measured.name);
            let summary = summary(&name, samples, cost, measured.peak);
            self.lines.extend(summary.map(|line| match measured.device {
                Device::Cpu => {
                    let spent = 1e3 * spent.as_secs_f64() / made as f64;
                    format!("{line}, {spent:.3} ms of processor time")
                }
                Device::Cuda(_) => line,
            }));
        }
    }

    /// Prints the summary.
    pub fn finish(self) {
        self.criterion.final_summary();
        for line in self.lines {
            println!("{line}");
        }
    }
}

/// Median, spread between the quartiles, share of the peak, and operations a second where they count. Nothing where a filter left the
/// case out.
fn summary(name: &str, mut samples: Vec<f64>, cost: Cost, peak: f64) -> Option<String> {
    samples.sort_by(f64::total_cmp);
    let quartile = |quarter: usize| samples.get(samples.len() * quarter / 4).copied();
    let (low, median, high) = (quartile(1)?, quartile(2)?, quartile(3)?);
    let share = 100.0 * cost.bytes as f64 / median / peak;
    let spread = 100.0 * (high - low) / median;
    let rate = match cost.operations {
        0.0 => String::new(),
        operations => format!(", {:.3} TFLOP/s", operations / median / 1e12),
    };
    Some(format!(
        "{name}: {:.3} ms, quartiles {spread:.0} % apart, {share:.0} % of a copy's bandwidth{rate}",
        1e3 * median
    ))
}

/// What all threads of this program have spent on processors: of use where other programs compete for them. 0 where the
/// system does not tell.
fn processor_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let spent = tasks.filter_map(|task| {
        let path = task.ok()?.path().join("schedstat");
        let text = std::fs::read_to_string(path).ok()?;
        let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(nanoseconds))
    });
    spent.sum()
}

fn time(device: &Device, calls: u64, call: &mut impl FnMut()) -> Duration {
    match device {
        Device::Cpu => {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed()
        }
        Device::Cuda(context) => time_on_cuda(context, calls, call),
    }
}

/// Sums what device events say of each call, after as many bytes were written as would fill the L2
/// twice.
#[cfg(feature = "cuda")]
fn time_on_cuda(context: &Context, calls: u64, call: &mut impl FnMut()) -> Duration {
    /// Events in flight: a few are enough to keep the device busy.
    const BATCH: u64 = 64;
    let stream = context.stream();
    let flush = (2 * context.properties().l2_bytes as usize).max(1 << 20);
    let mut flush = stream.alloc_zeros::<u8>(flush).expect("room for a flush");
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

/// Best of five copies, all threads at work.
fn copy_on_cpu(bytes: usize) -> f64 {
    use rayon::prelude::*;
    let source = vec![1u8; bytes];
    let mut target = vec![0u8; bytes];
    let seconds = |target: &mut [u8]| {
        let start = Instant::now();
        let chunks = target
            .par_chunks_mut(1 << 20)
            .zip(source.par_chunks(1 << 20));
        chunks.for_each(|(target, source)| target.copy_from_slice(source));
        start.elapsed().as_secs_f64()
    };
    let best = (0..5)
        .map(|_| seconds(&mut target))
        .fold(f64::INFINITY, f64::min);
    2.0 * bytes as f64 / best
}

#[cfg(feature = "cuda")]
fn gpu(bytes: usize) -> Result<Measured, ocelli::Error> {
    let context = Context::new(0)?;
    let stream = context.stream();
    let source = stream.alloc_zeros::<u8>(bytes).expect("room for a copy");
    let mut target = stream.alloc_zeros::<u8>(bytes).expect("room for a copy");
    let mut copy = || stream.memcpy_dtod(&source, &mut target).expect("a copy");
    let seconds = |_| time_on_cuda(&context, 1, &mut copy).as_secs_f64();
    let best = (0..10).map(seconds).fold(f64::INFINITY, f64::min);
    Ok(Measured {
        name: format!("cuda ({})", context.properties().name),
        device: Device::Cuda(context.clone()),
        peak: 2.0 * bytes as f64 / best,
    })
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Measured, ocelli::Error> {
    Err(ocelli::Error::CudaFeatureOff)
}
