//! Tells cargo when to run the build script again.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use super::toolkit::Places;

/// Watches files, and directories with all that is in them.
pub fn paths(paths: impl IntoIterator<Item = PathBuf>) {
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// Watches environment variables.
pub fn variables(names: impl IntoIterator<Item = &'static str>) {
    for name in names {
        println!("cargo::rerun-if-env-changed={name}");
    }
}

/// Watches for an nvcc to appear in a place where there is none.
///
/// Cargo takes a watched path that does not exist for changed at every build, and reads a watched
/// directory to its depths. So it watches a directory of links to the programs that may appear:
/// links that lead nowhere do not count, and a link dated far ahead counts as a change as soon as
/// it leads somewhere, however old the program installed there.
pub fn for_toolkit(places: &Places, out: &Path) -> Result<(), String> {
    let links = out.join("awaited");
    let io = |error| format!("{}: {error}", links.display());
    if links.exists() {
        fs::remove_dir_all(&links).map_err(io)?;
    }
    fs::create_dir_all(&links).map_err(io)?;
    let (unfit, awaited): (Vec<_>, Vec<_>) = places.candidates().partition(|nvcc| nvcc.exists());
    for (i, nvcc) in awaited.iter().enumerate() {
        let link = links.join(i.to_string());
        symlink(nvcc, &link).map_err(io)?;
        // The standard library cannot date a link. If `touch` cannot either, a program that is
        // newer than this build is still noticed.
        let _ = Command::new("touch")
            .args(["-h", "-d", "2100-01-01"])
            .arg(&link)
            .status();
    }
    // Cargo counts what is made while this program runs as changed after it.
    File::open(&links)
        .and_then(|links| links.set_modified(UNIX_EPOCH))
        .map_err(io)?;
    paths(unfit);
    paths([links]);
    Ok(())
}
