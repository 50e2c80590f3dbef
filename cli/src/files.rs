//! Files that the program writes.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// Writes a file, which appears whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else {
        bail!("{}: not the path of a file", path.display());
    };
    let name = format!(".{}.{}", name.to_string_lossy(), std::process::id());
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // The rest of a failed write; that it may not be there either is no further failure.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(|| path.display().to_string())
}
