//! The devices that a test program runs on.
//!
//! `OCELLI_TEST_DEVICE` chooses the CUDA device beside the CPU: `sim-sm_80` (the default) or `sim-sm_90a`, simulated, each with
//! `PTXSIM_ARCH` alike; `gpu`; or `cpu` for none. A device that cannot be used is printed with the reason, or fails the
//! tests where `OCELLI_REQUIRE_GPU=1` or `OCELLI_REQUIRE_SIM=1` says so.

use ocelli::Device;
use std::sync::OnceLock;

/// Where a suite runs.
#[derive(Debug, Clone)]
pub enum Target {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(ocelli::cuda::Context),
}

impl Target {
    /// The device as tensors know it.
    pub fn device(&self) -> Device {
        match self {
            Target::Cpu => Device::Cpu,
            #[cfg(feature = "cuda")]
            Target::Cuda(context) => Device::Cuda(context.clone()),
        }
    }
}

/// All devices of this run. The first call opens them and prints what is left out.
pub fn targets() -> &'static [Target] {
    static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();
    TARGETS.get_or_init(|| {
        let wanted = std::env::var("OCELLI_TEST_DEVICE").ok();
        open(
            wanted.as_deref(),
            required("OCELLI_REQUIRE_SIM"),
            required("OCELLI_REQUIRE_GPU"),
        )
    })
}

fn required(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value == "1")
}

fn open(wanted: Option<&str>, require_sim: bool, require_gpu: bool) -> Vec<Target> {
    let cuda = match wanted {
        Some("cpu") => None,
        Some("gpu") => gpu(require_gpu),
        Some("sim-sm_80") | None => simulated("sm_80", require_sim),
        Some("sim-sm_90a") => simulated("sm_90a", require_sim),
        Some(other) => {
            panic!("OCELLI_TEST_DEVICE must be cpu, sim-sm_80, sim-sm_90a or gpu, got `{other}`")
        }
    };
    std::iter::once(Target::Cpu).chain(cuda).collect()
}

/// Prints that a device is left out, or fails where it must not be.
fn skipped(device: &str, reason: &str, required: bool) -> Option<Target> {
    assert!(!required, "{device} is required: {reason}");
    println!("skipped: {device}: {reason}");
    None
}

#[cfg(feature = "cuda")]
fn gpu(required: bool) -> Option<Target> {
    match ocelli::cuda::Context::new(0) {
        Ok(context) => Some(Target::Cuda(context)),
        Err(error) => skipped("gpu", &error.to_string(), required),
    }
}

#[cfg(feature = "cuda")]
fn simulated(arch: &str, required: bool) -> Option<Target> {
    let device = format!("sim-{arch}");
    let chosen = std::env::var("PTXSIM_ARCH").unwrap_or_else(|_| "sm_80".into());
    if chosen != arch {
        return skipped(&device, &format!("PTXSIM_ARCH is {chosen}"), required);
    }
    if let Err(reason) = crate::simulator::load() {
        return skipped(&device, &reason, required);
    }
    match ocelli::cuda::Context::new(0) {
        Ok(context) => Some(Target::Cuda(context)),
        Err(error) => skipped(&device, &error.to_string(), required),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(required: bool) -> Option<Target> {
    skipped("gpu", "the feature `cuda` is off", required)
}

#[cfg(not(feature = "cuda"))]
fn simulated(arch: &str, required: bool) -> Option<Target> {
    skipped(
        &format!("sim-{arch}"),
        "the feature `cuda` is off",
        required,
    )
}
