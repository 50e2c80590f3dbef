//! The simulated CUDA driver of this program.

use ptxsim::client::Simulator;
use ptxsim::sim::Arch;
use std::sync::OnceLock;

/// Loads the simulator, so that the next search for a CUDA driver finds it. Its architecture can be
/// chosen once.
pub fn load(arch: Arch) -> Result<&'static Simulator, String> {
    static SIMULATOR: OnceLock<Result<Simulator, String>> = OnceLock::new();
    let loaded = SIMULATOR
        .get_or_init(|| ptxsim::client::load_always().map_err(|error| error.to_string()))
        .as_ref();
    let simulator = loaded.map_err(Clone::clone)?;
    if simulator.set_arch(arch) {
        Ok(simulator)
    } else {
        Err(format!(
            "the simulated device is {:?} already",
            simulator.arch()
        ))
    }
}
