//! Where the program computes.

use anyhow::{Result, bail};
use ocelli::Device;

/// Where an op runs.
#[derive(Debug, Clone)]
pub enum Target {
    /// The definitions, in double precision.
    Reference,
    /// A backend.
    Device(Device),
}

/// A choice on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The definitions: slow, exact.
    Reference,
    /// All processor threads.
    Cpu,
    /// The first GPU.
    Cuda,
}

/// A choice among the backends on the command line: models have no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// All processor threads.
    Cpu,
    /// The first GPU.
    Cuda,
}

/// The chosen target; as [`open_backend`] where it is not the reference.
pub fn open(choice: Option<Choice>) -> Result<Target> {
    let backend = match choice {
        Some(Choice::Reference) => return Ok(Target::Reference),
        Some(Choice::Cpu) => Some(Backend::Cpu),
        Some(Choice::Cuda) => Some(Backend::Cuda),
        None => None,
    };
    Ok(Target::Device(open_backend(backend)?))
}

/// The chosen device; by default the GPU where one can be used, else the CPU, and standard error says which.
pub fn open_backend(choice: Option<Backend>) -> Result<Device> {
    match choice {
        Some(Backend::Cpu) => Ok(Device::Cpu),
        Some(Backend::Cuda) => match Device::cuda(0) {
            Ok(device) => Ok(device),
            Err(error) => bail!("--device cuda: {error}"),
        },
        None => match Device::cuda(0) {
            Ok(device) => {
                eprintln!("device: {device}");
                Ok(device)
            }
            Err(error) => {
                eprintln!("device: cpu ({error})");
                Ok(Device::Cpu)
            }
        },
    }
}
