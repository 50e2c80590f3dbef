//! Where reports of launches go: the standard error, files, and the client that asks for them.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::settings;
use super::state::driver;
use crate::memory::AllocationInfo;
use crate::report::{Finding, FindingKind, LaunchReport};

static FINDINGS: AtomicU64 = AtomicU64::new(0);

/// Whether launches keep their reports for [`take`]: only where a client will.
static KEEP: AtomicBool = AtomicBool::new(false);

thread_local! {
    static KEPT: RefCell<Vec<LaunchReport>> = const { RefCell::new(Vec::new()) };
}

/// A file that lines are added to.
struct Lines(Option<Mutex<File>>);

impl Lines {
    fn open(variable: &str, path: Option<&Path>) -> Lines {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.inspect_err(|error| eprintln!("ptxsim: {variable}={}: {error}", path.display()))
                .ok()
        };
        Lines(path.and_then(open).map(Mutex::new))
    }

    /// Adds a line in one write, so that those of several processes do not mix.
    fn add(&self, line: impl FnOnce() -> String) {
        if let Some(file) = &self.0 {
            let line = line() + "\n";
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = file.write_all(line.as_bytes()) {
                eprintln!("ptxsim: cannot write a report: {error}");
            }
        }
    }
}

static REPORTS: LazyLock<Lines> =
    LazyLock::new(|| Lines::open("PTXSIM_REPORT", settings::report_file().as_deref()));
static FINDING_LINES: LazyLock<Lines> =
    LazyLock::new(|| Lines::open("PTXSIM_FINDINGS", settings::findings_file().as_deref()));

/// Says on the standard error why a call of the driver failed.
pub fn explain(what: &str, error: &impl Display) {
    if settings::prints() {
        eprintln!("ptxsim: {what}: {error}");
    }
}

/// Prints the findings of a launch and passes its report on.
pub fn publish(report: LaunchReport) {
    if settings::prints() {
        report
            .findings
            .iter()
            .for_each(|finding| eprintln!("{finding}"));
    }
    count(&report);
    REPORTS.add(|| json(&report));
    if KEEP.load(Ordering::Acquire) {
        KEPT.with_borrow_mut(|kept| kept.push(report));
    }
}

fn count(report: &LaunchReport) {
    if !report.findings.is_empty() {
        FINDINGS.fetch_add(report.findings.len() as u64, Ordering::Relaxed);
        FINDING_LINES.add(|| format!("{} {}", report.kernel, report.findings.len()));
    }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Numbers, strings and lists only: this cannot fail, and an empty line is valid JSON Lines.
    serde_json::to_string(value).unwrap_or_default()
}

/// Makes launches keep their reports.
pub fn keep() {
    KEEP.store(true, Ordering::Release);
}

/// Takes the reports of this thread's launches since the last call, as a JSON array.
pub fn take() -> String {
    json(&KEPT.take())
}

/// Findings so far, of all threads.
pub fn findings() -> u64 {
    FINDINGS.load(Ordering::Relaxed)
}

/// What starts with the driver.
pub fn at_start() {
    if settings::leaks() {
        // SAFETY: `report_leaks` is a function of this library, which is never unloaded.
        unsafe { libc::atexit(report_leaks) };
    }
}

/// Reports live allocations as findings.
extern "C" fn report_leaks() {
    let Ok(driver) = driver() else { return };
    let leaks = driver.memory.leaks();
    if !leaks.is_empty() {
        let findings = leaks.iter().map(leak).collect();
        publish(LaunchReport {
            kernel: "at exit".into(),
            findings,
            ..LaunchReport::default()
        });
    }
}

fn leak(info: &AllocationInfo) -> Finding {
    Finding {
        kind: FindingKind::Leak,
        message: format!("{} bytes are allocated at exit", info.len),
        kernel: "at exit".into(),
        source: None,
        ptx_line: 0,
        block: [0; 3],
        thread: [0; 3],
        address: Some(info.address),
        allocation: Some(info.to_string()),
        count: 1,
    }
}
