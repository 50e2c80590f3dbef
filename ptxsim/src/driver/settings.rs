//! Settings: environment variables, and what a client sets through the `ptxsim_*` exports.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sim::{Arch, Checks};

/// `PTXSIM_ARCH`: `sm_80`, the default, or `sm_90a`.
pub fn arch() -> Arch {
    match variable("PTXSIM_ARCH").as_deref() {
        None | Some("sm_80") => Arch::Sm80,
        Some("sm_90a") => Arch::Sm90a,
        Some(other) => {
            eprintln!("ptxsim: PTXSIM_ARCH must be sm_80 or sm_90a, got {other:?}; using sm_80");
            Arch::Sm80
        }
    }
}

static CHECKS: LazyLock<Checks> = LazyLock::new(|| match variable("PTXSIM_CHECKS").as_deref() {
    None | Some("all") => Checks::All,
    Some("memory") => Checks::Memory,
    Some("off") => Checks::Off,
    Some(other) => {
        eprintln!("ptxsim: PTXSIM_CHECKS must be off, memory or all, got {other:?}; using all");
        Checks::All
    }
});

thread_local! {
    static THREAD_CHECKS: Cell<Option<Checks>> = const { Cell::new(None) };
}

/// Checks of launches by this thread: its own setting, else `PTXSIM_CHECKS`, else all.
pub fn checks() -> Checks {
    THREAD_CHECKS.get().unwrap_or(*CHECKS)
}

/// Sets the checks of launches by this thread.
pub fn set_thread_checks(checks: Checks) {
    THREAD_CHECKS.set(Some(checks));
}

static PRINTS: AtomicBool = AtomicBool::new(true);

/// Whether findings, and why calls fail, are printed to the standard error.
pub fn prints() -> bool {
    PRINTS.load(Ordering::Relaxed)
}

/// Sets [`prints`] for all threads.
pub fn set_prints(prints: bool) {
    PRINTS.store(prints, Ordering::Relaxed);
}

/// `PTXSIM_REPORT`: file to which each launch adds a line of JSON.
pub fn report_file() -> Option<PathBuf> {
    variable("PTXSIM_REPORT").map(PathBuf::from)
}

/// `PTXSIM_FINDINGS`: file to which each launch with findings adds a line; the runner reads it.
pub fn findings_file() -> Option<PathBuf> {
    variable("PTXSIM_FINDINGS").map(PathBuf::from)
}

/// `PTXSIM_LEAKS=1`: allocations that are live at exit are findings.
pub fn leaks() -> bool {
    variable("PTXSIM_LEAKS").is_some_and(|value| value != "0")
}

/// `PTXSIM_ERRORS=deferred`: an error of a kernel is not returned by its launch but by the next
/// call that synchronises, and by every call after it, as on a GPU.
pub fn deferred_errors() -> bool {
    static DEFERRED: LazyLock<bool> =
        LazyLock::new(|| variable("PTXSIM_ERRORS").as_deref() == Some("deferred"));
    *DEFERRED
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
