//! The devices that a test program runs on.
//!
//! `OCELLI_TEST_DEVICE` chooses the CUDA device beside the CPU: `sim-sm_80` (the default) or
//! `sim-sm_90a`, which are simulated; `gpu`; or `cpu` for none. A device that cannot be used is
//! printed with the reason, or fails the tests where `OCELLI_REQUIRE_GPU=1` or
//! `OCELLI_REQUIRE_SIM=1` says so.

use ocelli::Device;
use std::sync::OnceLock;

/// Where a suite runs.
#[derive(Debug, Clone)]
pub enum Target {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
}

/// A CUDA device, real or simulated.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone)]
pub struct Cuda {
    pub context: ocelli::cuda::Context,
    pub simulator: Option<&'static ptxsim::client::Simulator>,
}

impl Target {
    /// The device as tensors know it.
    pub fn device(&self) -> Device {
        match self {
            Target::Cpu => Device::Cpu,
            #[cfg(feature = "cuda")]
            Target::Cuda(cuda) => Device::Cuda(cuda.context.clone()),
        }
    }
}

#[cfg(feature = "cuda")]
impl Cuda {
    /// The same device with a stream that no other test launches on, and all kernels loaded: a capture would take in
    /// what other threads launch on its stream.
    pub fn for_capture(&self) -> Self {
        let context = ocelli::cuda::Context::new(self.context.ordinal()).unwrap();
        context.preload().unwrap();
        Self {
            context,
            simulator: self.simulator,
        }
    }

    /// The launches of this thread since the last call, as the simulator saw them. Fails where it
    /// found anything wrong.
    pub fn launches(&self) -> Vec<ptxsim::report::LaunchReport> {
        let reports = self
            .simulator
            .map_or_else(Vec::new, |simulator| simulator.take_reports());
        for report in &reports {
            assert!(
                report.findings.is_empty(),
                "{}: {:#?}",
                report.kernel,
                report.findings
            );
        }
        reports
    }
}

/// All devices of this run. The first call opens them and prints what is left out.
pub fn targets() -> &'static [Target] {
    static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();
    TARGETS.get_or_init(|| {
        let wanted = std::env::var("OCELLI_TEST_DEVICE").unwrap_or_else(|_| "sim-sm_80".into());
        let cuda = match wanted.as_str() {
            "cpu" => None,
            "gpu" | "sim-sm_80" | "sim-sm_90a" => cuda(&wanted),
            other => {
                panic!(
                    "OCELLI_TEST_DEVICE must be cpu, sim-sm_80, sim-sm_90a or gpu, got `{other}`"
                )
            }
        };
        std::iter::once(Target::Cpu).chain(cuda).collect()
    })
}

/// Opens a CUDA device, prints that it is left out, or fails where it must not be.
fn cuda(name: &str) -> Option<Target> {
    let variable = if name == "gpu" {
        "OCELLI_REQUIRE_GPU"
    } else {
        "OCELLI_REQUIRE_SIM"
    };
    match open(name) {
        Ok(target) => Some(target),
        Err(reason) => {
            let required = std::env::var(variable).is_ok_and(|value| value == "1");
            assert!(!required, "{variable}=1, but {name}: {reason}");
            println!("skipped: {name}: {reason}");
            None
        }
    }
}

#[cfg(feature = "cuda")]
fn open(name: &str) -> Result<Target, String> {
    use ptxsim::sim::Arch;
    let simulator = match name {
        "sim-sm_80" => Some(crate::simulator::load(Arch::Sm80)?),
        "sim-sm_90a" => Some(crate::simulator::load(Arch::Sm90a)?),
        _ => None,
    };
    let context = ocelli::cuda::Context::new(0).map_err(|error| error.to_string())?;
    Ok(Target::Cuda(Cuda { context, simulator }))
}

#[cfg(not(feature = "cuda"))]
fn open(_: &str) -> Result<Target, String> {
    Err("the feature `cuda` is off".into())
}
