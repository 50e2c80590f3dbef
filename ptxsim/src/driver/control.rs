//! The `ptxsim_*` exports, through which [`crate::client`] reaches the loaded library.
//!
//! The client is linked into the program and has statics of its own; only what goes through these
//! functions concerns the driver. Their numbers are those of the enumerations below.

use std::ffi::c_void;

use super::ffi::guard;
use super::{report, settings, state};
use crate::sim::{Arch, Checks};

/// Version of these exports; the client refuses another.
pub const VERSION: u32 = 1;

/// Architectures by their number.
pub const ARCHS: [Arch; 2] = [Arch::Sm80, Arch::Sm90a];
/// Checks by their number.
pub const CHECKS: [Checks; 3] = [Checks::Off, Checks::Memory, Checks::All];

/// Receives bytes; the first argument is the caller's own.
pub type Sink = unsafe extern "C" fn(*mut c_void, *const u8, usize);

/// [`VERSION`]. Also tells the library from a real driver.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_version() -> u32 {
    VERSION
}

/// Sets the architecture; 0 if it is set, 1 if the driver runs with another already or the number
/// is unknown.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_set_arch(arch: u32) -> u32 {
    let done = ARCHS
        .get(arch as usize)
        .is_some_and(|&arch| state::choose_arch(arch));
    u32::from(!done)
}

/// The architecture of the driver, or what it will be.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_arch() -> u32 {
    let arch = state::arch();
    ARCHS.iter().position(|&known| known == arch).unwrap_or(0) as u32
}

/// Sets the checks of launches by the calling thread; 1 if the number is unknown.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_set_checks(checks: u32) -> u32 {
    match CHECKS.get(checks as usize) {
        Some(&checks) => {
            settings::set_thread_checks(checks);
            0
        }
        None => 1,
    }
}

/// Whether findings, and why calls fail, are printed to the standard error; 0 for no.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_set_prints(prints: u32) {
    settings::set_prints(prints != 0);
}

/// Makes launches from now on keep their reports until they are taken.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_keep_reports() {
    report::keep();
}

/// Gives `sink` the reports of the calling thread's launches since the last call, as JSON.
///
/// # Safety
///
/// `sink` may be called with `target` and bytes that are valid during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptxsim_take_reports(sink: Sink, target: *mut c_void) -> u32 {
    guard("ptxsim_take_reports", || {
        let json = report::take();
        // SAFETY: by the caller's promise.
        unsafe { sink(target, json.as_ptr(), json.len()) };
        Ok(())
    })
}

/// Findings so far, of all threads.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_findings() -> u64 {
    report::findings()
}
