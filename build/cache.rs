//! The cache of compiled kernels: `ocelli-kernels` in cargo's target directory, which all profiles
//! share. A file's name holds a hash of all that it was made from, so an entry never goes stale.

use std::path::{Path, PathBuf};

use super::sources::Kernel;

/// Bumped when the meaning of a cache entry changes.
const FORMAT: &str = "1";

/// Cargo's target directory, from the build script's `OUT_DIR` in it:
/// `TARGET_DIR[/TRIPLE]/PROFILE/build/..`. Falls back on `out` itself.
pub fn target_dir(out: &Path, triple: &str) -> PathBuf {
    let build = out
        .ancestors()
        .find(|directory| directory.ends_with("build"));
    let parent = build.and_then(Path::parent).and_then(Path::parent);
    match parent {
        Some(parent) if parent.ends_with(triple) => parent.parent().unwrap_or(parent),
        Some(parent) => parent,
        None => out,
    }
    .to_path_buf()
}

/// The cache of a target directory.
pub fn dir(target: &Path) -> PathBuf {
    target.join("ocelli-kernels")
}

/// The hash of a kernel's sources and of the settings that it is compiled with.
pub fn key(kernel: &Kernel, settings: &[String]) -> String {
    let mut hash = Fnv::new();
    hash.text(FORMAT);
    hash.text(&kernel.name);
    for setting in settings {
        hash.text(setting);
    }
    for (path, text) in &kernel.files {
        hash.text(&path.to_string_lossy());
        hash.text(text);
    }
    format!("{:032x}", hash.0)
}

/// FNV-1a with 128 bits: stable over Rust versions, unlike the standard library's hasher.
/// <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
struct Fnv(u128);

impl Fnv {
    const PRIME: u128 = (1 << 88) + 0x13b;

    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds a text and its length, so that `a`, `bc` and `ab`, `c` differ.
    fn text(&mut self, text: &str) {
        for byte in (text.len() as u64)
            .to_le_bytes()
            .into_iter()
            .chain(text.bytes())
        {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Self::PRIME);
        }
    }
}
