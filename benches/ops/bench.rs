//! The cases: each timed on the devices that it asks for, with a line of the summary.

use crate::measured::{Measured, cpu, gpu};
use crate::timing::time;
use criterion::{BenchmarkId, Criterion, Throughput};
use ocelli::Device;
use ocelli::testing::strategy::Data;
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

/// What is predicted of an H200, a line a case.
const PREDICTED: &str = include_str!("../h200.csv");
/// Whole models, of which nothing is predicted.
const MODELS: [&str; 3] = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "vit"];

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
    /// Op and case of all that CUDA is asked for, filtered out or not.
    on_cuda: BTreeSet<(String, String)>,
    /// Run as a test, each case runs once, and small.
    smoke: bool,
}

impl Bench {
    /// Finds the devices and what each reaches. What is missing is printed with the reason.
    pub fn new() -> Self {
        let smoke = !std::env::args().any(|argument| argument == "--bench");
        let mut devices = vec![cpu(smoke)];
        match gpu(smoke) {
            Ok(gpu) => devices.push(gpu),
            Err(reason) => println!("not measured: cuda: {reason}"),
        }
        for device in &devices {
            println!("{device}");
        }
        let criterion = Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        Self {
            criterion: criterion.configure_from_args(),
            devices,
            on_cuda: BTreeSet::new(),
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
    /// `prepare` makes the inputs, checks the answer and returns the call; it is not called where a filter leaves the case
    /// out.
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
        if on_cuda {
            self.on_cuda.insert((op.to_owned(), case.to_owned()));
        }
        let asked = |measured: &&Measured| match measured.device {
            Device::Cpu => on_cpu,
            Device::Cuda(_) => on_cuda,
        };
        for measured in self.devices.iter().filter(asked) {
            let mut call = None;
            let mut samples = Vec::new();
            let (mut spent, mut made) = (Duration::ZERO, 0);
            let mut group = self
                .criterion
                .benchmark_group(format!("{op}/{}", measured.name));
            group.throughput(Throughput::BytesDecimal(cost.bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(case), |bencher| {
                // Criterion comes here several times, once to warm up.
                let call = call.get_or_insert_with(|| prepare(&measured.device));
                bencher.iter_custom(|calls| {
                    let before = processor_time();
                    let time = time(&measured.device, calls, call);
                    spent += processor_time().saturating_sub(before);
                    made += calls;
                    samples.push(time.as_secs_f64() / calls as f64);
                    time
                });
            });
            group.finish();
            let name = format!("{op} {case} on {}", measured.name);
            let Some(line) = summary(&name, samples, cost, measured) else {
                continue;
            };
            match measured.device {
                Device::Cpu => {
                    let spent = 1e3 * spent.as_secs_f64() / made as f64;
                    println!("{line}, {spent:.3} ms of processor time");
                }
                Device::Cuda(_) => println!("{line}"),
            }
            // In a file, too, if the run is ended from outside.
            let _ = std::io::stdout().flush();
        }
    }

    /// Ends the run. A smoke run checks that each prediction has its case, and each op on CUDA a prediction.
    pub fn finish(self) {
        self.criterion.final_summary();
        if !self.smoke {
            return;
        }
        let predicted: BTreeSet<&str> = PREDICTED.lines().filter_map(predicted).collect();
        let names: BTreeSet<String> = (self.on_cuda.iter())
            .map(|(op, case)| format!("{op} {case}"))
            .collect();
        for case in &predicted {
            assert!(names.contains(*case), "no case of h200.csv's `{case}`");
        }
        for (op, _) in &self.on_cuda {
            let is_predicted = predicted
                .iter()
                .any(|case| case.split(' ').next() == Some(op));
            let is_model = MODELS.contains(&op.as_str());
            assert!(
                is_predicted || is_model,
                "h200.csv predicts nothing of {op}"
            );
        }
    }
}

/// The name in a line of [`PREDICTED`].
fn predicted(line: &str) -> Option<&str> {
    line.strip_prefix('"')?.split('"').next()
}

/// Normal numbers, the first million of them again and again: what takes a minute to draw adds nothing.
pub fn normal(spread: f32, len: usize, seed: u64) -> Vec<f32> {
    // A prime, so that rows differ whatever their length.
    const DRAWN: usize = 1_000_003;
    let drawn = Data::Spread(spread).values(len.min(DRAWN), seed);
    drawn.iter().copied().cycle().take(len).collect()
}

/// Median, spread between the quartiles, share of the device's bandwidth, and where operations count, their rate and its
/// share of a matrix product's. Nothing where a filter left the case out.
fn summary(name: &str, mut samples: Vec<f64>, cost: Cost, reached: &Measured) -> Option<String> {
    samples.sort_by(f64::total_cmp);
    let quartile = |quarter: usize| samples.get(samples.len() * quarter / 4).copied();
    let (low, median, high) = (quartile(1)?, quartile(2)?, quartile(3)?);
    let share = 100.0 * cost.bytes as f64 / median / reached.bandwidth;
    let spread = 100.0 * (high - low) / median;
    let rate = match cost.operations / median {
        0.0 => String::new(),
        rate => format!(
            ", {:.3} TFLOP/s, {:.0} % of a product's",
            rate / 1e12,
            100.0 * rate / reached.operations
        ),
    };
    Some(format!(
        "{name}: {:.4} ms, quartiles {spread:.0} % apart, {share:.0} % of a copy's bandwidth{rate}",
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
