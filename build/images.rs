//! Writes `kernels.rs`, which the library includes: the images and how they were built.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::compile::Image;

/// Writes the table of images. They are copied from the cache to `out`, which cargo owns, so that
/// the cache can be deleted at any time; the reports lie beside them.
pub fn write(out: &Path, images: &[Image], nvcc: &str, archs: &str) -> Result<(), String> {
    let directory = out.join("images");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut table = String::new();
    for image in images {
        let stem = image.name.replace('/', "-");
        let fatbin = directory.join(format!("{stem}.fatbin"));
        copy(&image.fatbin, &fatbin)?;
        copy(&image.report, &directory.join(format!("{stem}.ptxas.txt")))?;
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "    ({:?}, &Aligned(*include_bytes!({fatbin:?})).0),",
            image.name
        );
    }
    write_table(out, &table, &format!("Some({nvcc:?})"), archs, "None")
}

/// Writes a table without images, and the reason.
pub fn write_absent(out: &Path, reason: &str) -> Result<(), String> {
    write_table(out, "", "None", "", &format!("Some({reason:?})"))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| format!("{} -> {}: {error}", from.display(), to.display()))
}

fn write_table(
    out: &Path,
    table: &str,
    nvcc: &str,
    archs: &str,
    absent: &str,
) -> Result<(), String> {
    let text = format!(
        "/// Images are read by the driver in place, as structures of 8-byte words.
#[allow(dead_code)] // Without images nothing is aligned.
#[repr(C, align(16))]
struct Aligned<T>(T);
/// Every compiled kernel file: its path below `kernels/` without extension, and its fatbin.
pub static IMAGES: &[(&str, &[u8])] = &[
{table}];
/// The version of the nvcc that compiled them.
pub const NVCC: Option<&str> = {nvcc};
/// The architectures they were compiled for.
pub const ARCHS: &str = {archs:?};
/// Why there are none: the places searched for nvcc, and how to install it.
pub const ABSENT: Option<&str> = {absent};
"
    );
    let path = out.join("kernels.rs");
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
