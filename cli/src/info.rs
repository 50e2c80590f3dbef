//! `ocelli info`: devices, driver and kernels.

use anyhow::Result;
use ocelli::Error;
use ocelli::cuda::{self, Context};
use std::fmt::Write as _;
use std::io::Write as _;

/// Prints what there is, and why what is missing is.
pub fn run() -> Result<()> {
    let mut text = format!("ocelli {}\n", env!("CARGO_PKG_VERSION"));
    kernels(&mut text)?;
    devices(&mut text)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn kernels(text: &mut String) -> Result<()> {
    let toolkit = cuda::toolkit();
    match (toolkit.nvcc, toolkit.absent) {
        (Some(nvcc), _) => {
            writeln!(
                text,
                "kernels: built by nvcc {nvcc} for {}",
                toolkit.architectures
            )?;
        }
        (None, reason) => writeln!(text, "kernels: none: {}", reason.unwrap_or("not built"))?,
    }
    for (name, image) in cuda::images() {
        writeln!(text, "  {name}: {} KiB", image.len().div_ceil(1024))?;
    }
    Ok(())
}

fn devices(text: &mut String) -> Result<()> {
    let threads = std::thread::available_parallelism()?;
    writeln!(text, "cpu: {threads} threads")?;
    for ordinal in 0.. {
        match Context::new(ordinal) {
            Ok(context) => {
                let gpu = context.properties();
                let (major, minor) = gpu.compute_capability;
                writeln!(
                    text,
                    "cuda:{ordinal}: {}, compute capability {major}.{minor}, {} multiprocessors, \
                     driver for CUDA {}",
                    gpu.name,
                    gpu.multiprocessors,
                    cuda::driver_version()?
                )?;
            }
            // The end of the list.
            Err(Error::NoDevice { count, .. }) if ordinal >= count && ordinal > 0 => break,
            Err(Error::KernelsNotBuilt { .. }) => {
                writeln!(
                    text,
                    "cuda:{ordinal}: there, but this build has no kernels for it"
                )?;
                break;
            }
            Err(error) => {
                writeln!(text, "cuda: {error}")?;
                break;
            }
        }
    }
    Ok(())
}
