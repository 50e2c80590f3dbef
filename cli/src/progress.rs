//! Progress on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `count` steps of this name on standard error; nothing where that is no terminal.
pub fn bar(name: &'static str, count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_prefix(name);
    match ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Prints a line on standard error without tearing the bar.
pub fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| eprintln!("{line}"));
}
