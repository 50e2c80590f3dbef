//! Compiles `kernels/**/*.cu` with nvcc, where there is one, and writes `$OUT_DIR/kernels.rs`.
//!
//! Without nvcc the crate builds on, without kernels, after one warning.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

// Tested by tests/build_script.rs.
#[path = "build/mod.rs"]
mod kernel_build;

use kernel_build::sources::{self, Archs};
use kernel_build::toolkit::{self, Places, Search};
use kernel_build::{cache, compile, images, watch};

/// Environment variables that change what is built, beside those that [`toolkit`] searches.
const SETTINGS: [&str; 5] = [
    "OCELLI_CUDA_ARCHS",
    "OCELLI_REQUIRE_NVCC",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
    "NVCC_CCBIN",
];

fn main() -> ExitCode {
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        watch::paths([PathBuf::from("build.rs")]);
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let package = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(required("OUT_DIR")?);
    let target = cache::target_dir(&out, &env::var("TARGET").unwrap_or_default());
    watch::paths([
        package.join("build.rs"),
        package.join("build"),
        package.join("kernels"),
    ]);
    watch::variables(SETTINGS.into_iter().chain(toolkit::VARIABLES));

    let places = Places::from_env(&target);
    let toolkit = match toolkit::find(&places)? {
        Search::Found(toolkit) => toolkit,
        Search::Absent(reason) => {
            if env::var_os("OCELLI_REQUIRE_NVCC").is_some_and(|value| value == "1") {
                return Err(format!("OCELLI_REQUIRE_NVCC=1, but {reason}"));
            }
            watch::for_toolkit(&places, &out)?;
            println!("cargo::warning=ocelli is built without its CUDA kernels: {reason}");
            return images::write_absent(&out, &reason);
        }
    };
    watch::paths([toolkit.nvcc.clone()]);

    let archs = Archs::from_setting(env::var("OCELLI_CUDA_ARCHS").ok().as_deref())?;
    let mut kernels = sources::scan(&package.join("kernels"))?;
    let for_tests = env::var_os("CARGO_FEATURE_TESTING").is_some();
    kernels.retain(|kernel| for_tests || !kernel.is_for_tests());
    let jobs = compile::jobs(&package, &cache::dir(&target), &toolkit, &kernels, &archs)?;
    let images = compile::all(&jobs, parallelism(), &toolkit)?;
    for warning in images.iter().flat_map(|image| image.warnings()) {
        println!("cargo::warning={warning}");
    }
    images::write(
        &out,
        &images,
        &toolkit.version.to_string(),
        &archs.to_string(),
    )
}

fn required(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this program is run by cargo"))
}

/// The number of jobs cargo was given.
fn parallelism() -> usize {
    env::var("NUM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(1)
}
