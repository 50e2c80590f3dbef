//! Runs nvcc on the kernels that the cache lacks.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::cache;
use super::sources::{Archs, Kernel};
use super::toolkit::Toolkit;

/// Flags of every kernel. Contraction into fused multiply-add stays on: a kernel that must round
/// each step says `__fmul_rn`. Fast-math stays off. `-v` makes ptxas report registers and spills.
const FLAGS: [&str; 8] = [
    "-fatbin",
    "-O3",
    "-std=c++17",
    "-lineinfo",
    "-I",
    "kernels",
    "-Xptxas",
    "-v",
];

/// nvcc's own variables, which it reads whether we like it or not.
const NVCC_VARIABLES: [&str; 3] = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"];

/// One kernel to have in the cache.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    /// The directory that holds `kernels/`, in which nvcc runs.
    pub package: PathBuf,
    pub arguments: Vec<String>,
    pub fatbin: PathBuf,
    /// What nvcc and ptxas printed while they made the fatbin.
    pub report: PathBuf,
}

/// One compiled kernel.
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    pub fatbin: PathBuf,
    pub report: PathBuf,
    report_text: String,
}

impl Image {
    /// The compiler's warnings, from the run that filled the cache.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.report_text
            .lines()
            .filter(|line| line.to_lowercase().contains("warning"))
    }
}

/// What must be in the cache for these kernels.
pub fn jobs(
    package: &Path,
    cache: &Path,
    toolkit: &Toolkit,
    kernels: &[Kernel],
    archs: &Archs,
) -> Result<Vec<Job>, String> {
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let environment: Vec<String> = NVCC_VARIABLES
        .iter()
        .map(|name| env::var(name).unwrap_or_default())
        .collect();
    let job = |kernel: &Kernel| {
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).into();
        arguments.extend(["-gencode".to_owned(), archs.gencode(kernel.family)?]);
        let mut settings = arguments.clone();
        settings.push(toolkit.banner.clone());
        settings.extend(environment.iter().cloned());
        let key = cache::key(kernel, &settings);
        // The seed makes nvcc's generated symbols, and with them the image, the same each time.
        arguments.push(format!("-frandom-seed={key}"));
        arguments.push(format!("kernels/{}.cu", kernel.name));
        let stem = format!("{}-{key}", kernel.name.replace('/', "-"));
        Some(Job {
            name: kernel.name.clone(),
            package: package.to_path_buf(),
            arguments,
            fatbin: cache.join(format!("{stem}.fatbin")),
            report: cache.join(format!("{stem}.ptxas.txt")),
        })
    };
    Ok(kernels.iter().filter_map(job).collect())
}

/// Compiles what is missing, up to `parallelism` files at a time, and returns all images in order.
/// Every failure is reported, not the first alone.
pub fn all(jobs: &[Job], parallelism: usize, toolkit: &Toolkit) -> Result<Vec<Image>, String> {
    let missing: Vec<&Job> = jobs.iter().filter(|job| !job.fatbin.is_file()).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..parallelism.clamp(1, missing.len().max(1)) {
            scope.spawn(|| {
                while let Some(job) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = one(job, &toolkit.nvcc) {
                        failures
                            .lock()
                            .unwrap_or_else(|lock| lock.into_inner())
                            .push(why);
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(|lock| lock.into_inner());
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    jobs.iter().map(image).collect()
}

fn image(job: &Job) -> Result<Image, String> {
    Ok(Image {
        name: job.name.clone(),
        fatbin: job.fatbin.clone(),
        report: job.report.clone(),
        report_text: super::read(&job.report)?,
    })
}

/// Compiles one kernel. Both files are written under a temporary name and renamed, the image last:
/// where it exists it is whole, and its report is there.
fn one(job: &Job, nvcc: &Path) -> Result<(), String> {
    let temporary = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        PathBuf::from(name)
    };
    let io = |error| format!("{}: {error}", job.fatbin.display());
    let (fatbin, report) = (temporary(&job.fatbin), temporary(&job.report));
    let output = Command::new(nvcc)
        .current_dir(&job.package)
        .args(&job.arguments)
        .arg("-o")
        .arg(&fatbin)
        .output()
        .map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if !output.status.success() {
        // nvcc may have left nothing, or half an image.
        let _ = fs::remove_file(&fatbin);
        return Err(format!(
            "nvcc failed on kernels/{}.cu ({}):\n{text}",
            job.name, output.status
        ));
    }
    fs::write(&report, text.as_bytes()).map_err(io)?;
    fs::rename(&report, &job.report).map_err(io)?;
    fs::rename(&fatbin, &job.fatbin).map_err(io)
}
