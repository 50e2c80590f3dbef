//! `cargo xtask test`: every test, on every device there is.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cuda;
use crate::pip;
use crate::summary::Summary;
use crate::workspace::{Workspace, shown};

/// The test programs that run on the device named by `OCELLI_TEST_DEVICE`: each op's property suite, and the models.
pub const DEVICE_TESTS: [&str; 2] = ["devices", "models"];

#[derive(clap::Args, Default)]
pub struct Options {
    /// Try many more cases of every property.
    #[arg(long)]
    pub full: bool,
    /// Only tests whose names contain one of these.
    pub filters: Vec<String>,
}

/// A CUDA device that a test program can be pointed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    SimSm80,
    SimSm90a,
    Gpu,
}

impl Device {
    /// The value of `OCELLI_TEST_DEVICE`.
    fn name(self) -> &'static str {
        match self {
            Self::SimSm80 => "sim-sm_80",
            Self::SimSm90a => "sim-sm_90a",
            Self::Gpu => "gpu",
        }
    }

    /// Points a test program at the device. With `required`, tests that cannot use it fail.
    fn select(self, command: &mut Command, simulator: &Path, required: bool) {
        command.env("OCELLI_TEST_DEVICE", self.name());
        let (arch, requirement) = match self {
            Self::SimSm80 => (Some("sm_80"), "OCELLI_REQUIRE_SIM"),
            Self::SimSm90a => (Some("sm_90a"), "OCELLI_REQUIRE_SIM"),
            Self::Gpu => (None, "OCELLI_REQUIRE_GPU"),
        };
        if let Some(arch) = arch {
            // PTXSIM=1 simulates on a machine with a GPU, too.
            command
                .env("PTXSIM", "1")
                .env("PTXSIM_ARCH", arch)
                .env("PTXSIM_LIB", simulator);
        }
        if required {
            command.env(requirement, "1");
        }
    }
}

/// Where proptest looks for the seed of its random cases.
const SEED: &str = "PROPTEST_RNG_SEED";
/// The default tier draws the same cases in every run, so that a change alone can make it fail; the
/// whole draws new ones each time.
const DEFAULT_SEED: &str = "20261123";

/// Runs the tests; `false` when one failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let start = Instant::now();
    let mut total = Summary::default();
    let kernels = match cuda::set_up(workspace) {
        Ok(toolkit) => format!("built by nvcc {}", toolkit.version),
        Err(error) if std::env::var("OCELLI_REQUIRE_NVCC").is_ok_and(|value| value == "1") => {
            return Err(error.context("OCELLI_REQUIRE_NVCC=1"));
        }
        Err(error) => {
            total.skip(&format!("every CUDA kernel: {error:#}"));
            "not built".to_owned()
        }
    };
    let has_kernels = total.skipped.is_empty();
    let simulator = build_simulator(workspace)?;

    let mut report = vec![format!("kernels: {kernels}")];
    let mut ok = true;
    for device in [Device::SimSm80, Device::SimSm90a, Device::Gpu] {
        if device == Device::Gpu && !pip::runs("nvidia-smi", &["-L"]) {
            total.skip("every test on a GPU: nvidia-smi finds none");
            continue;
        }
        let (label, targets): (_, &[&str]) = match device {
            Device::SimSm80 => ("cpu and sim-sm_80", &["--workspace"]),
            _ => {
                let [ops, models] = DEVICE_TESTS;
                (
                    device.name(),
                    &["--workspace", "--test", ops, "--test", models],
                )
            }
        };
        let mut command = workspace.cargo(&["test", "--no-fail-fast"]);
        command
            .args(targets)
            .args(["--", "--show-output"])
            .args(&options.filters);
        if options.full {
            command.env("OCELLI_TEST_FULL", "1");
        } else if std::env::var_os(SEED).is_none() {
            command.env(SEED, DEFAULT_SEED);
        }
        device.select(&mut command, &simulator, has_kernels);
        println!("== {label}: {}", shown(&command));
        let (summary, succeeded) = run_programs(&mut command)?;
        report.push(format!("{label}: {summary}"));
        report.extend(
            summary
                .failures
                .iter()
                .map(|test| format!("failed: {test} ({label})")),
        );
        ok &= succeeded;
        total.add(&summary);
    }
    print_report(&report, &total, ok, start);
    Ok(ok)
}

/// Builds the simulated driver, and returns where it lies.
fn build_simulator(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo(&["build", "--quiet", "--package=ptxsim", "--lib"]);
    let status = command.status().with_context(|| shown(&command))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(&command));
    }
    Ok(workspace.target.join("debug/libptxsim.so"))
}

/// Runs test programs, passing on what they print, and counts.
fn run_programs(command: &mut Command) -> Result<(Summary, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| shown(command))?;
    let summary = Mutex::new(Summary::default());
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|output| Box::new(output) as _),
        child.stderr.take().map(|output| Box::new(output) as _),
    ];
    std::thread::scope(|scope| {
        for output in outputs.into_iter().flatten() {
            scope.spawn(|| pass_on(output, &summary));
        }
    });
    let status = child.wait().with_context(|| shown(command))?;
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((summary, status.success()))
}

/// Counts each line as it comes and prints it. What passing tests printed is left out, but for what
/// they skipped.
fn pass_on(output: impl Read, summary: &Mutex<Summary>) {
    let mut of_passing_tests = false;
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match line.as_ref() {
            "successes:" => of_passing_tests = true,
            "failures:" => of_passing_tests = false,
            line if line.starts_with("test result: ") => of_passing_tests = false,
            _ => {}
        }
        let skips = summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line(&line);
        if skips || !of_passing_tests {
            // A closed terminal must not end the tests.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

fn print_report(report: &[String], total: &Summary, ok: bool, start: Instant) {
    println!("== summary");
    report.iter().for_each(|line| println!("{line}"));
    total
        .skipped
        .iter()
        .for_each(|what| println!("skipped: {what}"));
    let verdict = if ok {
        "all tests passed"
    } else {
        "TESTS FAILED"
    };
    println!(
        "{verdict}: {total}; {} skipped; {} s",
        total.skipped.len(),
        start.elapsed().as_secs()
    );
}
