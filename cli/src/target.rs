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

/// The chosen target; by default the GPU where one can be used, else the CPU. Says on standard
/// error which.
pub fn open(choice: Option<Choice>) -> Result<Target> {
    match choice {
        Some(Choice::Reference) => Ok(Target::Reference),
        Some(Choice::Cpu) => Ok(Target::Device(Device::Cpu)),
        Some(Choice::Cuda) => match Device::cuda(0) {
            Ok(device) => Ok(Target::Device(device)),
            Err(error) => bail!("--device cuda: {error}"),
        },
        None => match Device::cuda(0) {
            Ok(device) => {
                eprintln!("device: {device}");
                Ok(Target::Device(device))
            }
            Err(error) => {
                eprintln!("device: cpu ({error})");
                Ok(Target::Device(Device::Cpu))
            }
        },
    }
}
