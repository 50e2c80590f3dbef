//! The simulated CUDA driver.

/// Makes the next search for a CUDA driver find the simulator.
pub fn load() -> Result<(), String> {
    ptxsim::client::load()
        .map(drop)
        .map_err(|error| error.to_string())
}
