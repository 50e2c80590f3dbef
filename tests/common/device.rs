//! The devices that a test program runs on.
//!
//! `OCELLI_TEST_DEVICE` chooses one: `cpu`, `sim-sm_80`, `sim-sm_90a` (simulated GPUs; set `PTXSIM_ARCH` alike) or `gpu`. Without it, the
//! CPU and the simulated sm_80. A program sees one CUDA driver, so it runs on one CUDA device. What cannot be used is
//! printed with the reason, or fails where `OCELLI_REQUIRE_GPU=1` or `OCELLI_REQUIRE_SIM=1` says so.

use std::sync::OnceLock;

/// Where a suite runs.
#[derive(Debug, Clone)]
pub enum Target {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(ocelli::cuda::Context),
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
    match wanted {
        Some("cpu") => vec![Target::Cpu],
        Some("gpu") => gpu(require_gpu).into_iter().collect(),
        Some("sim-sm_80") => simulated("sm_80", require_sim).into_iter().collect(),
        Some("sim-sm_90a") => simulated("sm_90a", require_sim).into_iter().collect(),
        None => [Some(Target::Cpu), simulated("sm_80", require_sim)]
            .into_iter()
            .flatten()
            .collect(),
        Some(other) => {
            panic!("OCELLI_TEST_DEVICE must be cpu, sim-sm_80, sim-sm_90a or gpu, got `{other}`")
        }
    }
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
    if let Err(reason) = super::simulator::load() {
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
