//! The build script's parts: find nvcc, read the sources, compile what the cache lacks, write the
//! Rust table of images.

pub mod cache;
pub mod compile;
pub mod images;
pub mod sources;
pub mod toolkit;
pub mod watch;

use std::path::Path;

/// Reads a file, naming it in the error.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
