//! Images that a driver loads: PTX text or a fatbin, from which one PTX text is picked.
//!
//! Machine code (cubins) cannot be executed here and is passed over.

mod decompress;
mod fatbin;
mod select;

use crate::sim::Arch;
use std::fmt;

pub use fatbin::{HEADER_BYTES, Kind, container_bytes, kind};

/// Largest PTX text that is accepted, decompressed.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Why an image cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// Not an image, cut off, or damaged.
    Malformed(String),
    /// A sound image without PTX for the architecture; what it holds instead, such as
    /// `PTX for sm_90a` or `machine code for sm_80`.
    NoPtx {
        /// The architecture asked for.
        arch: Arch,
        /// Contents of the image.
        found: Vec<String>,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::Malformed(rule) => write!(f, "image: {rule}"),
            ImageError::NoPtx { arch, found } => {
                let found = if found.is_empty() {
                    "nothing".to_owned()
                } else {
                    found.join(", ")
                };
                write!(
                    f,
                    "image: no PTX for {}, found {found}",
                    select::target_name(*arch)
                )
            }
        }
    }
}

impl std::error::Error for ImageError {}

/// The PTX text that suits `arch` best: the highest target that is not above it, and of equal ones
/// the architecture-specific (`a`) one. Such a target runs on exactly its own architecture, a
/// family-specific (`f`) one on its family only.
///
/// `image` is a fatbin, or PTX text with or without its closing NUL; bytes behind the fatbin or
/// the NUL are not looked at. Memory is bounded by [`MAX_TEXT_BYTES`] whatever the image says.
///
/// # Errors
///
/// [`ImageError::Malformed`] for what is no image, [`ImageError::NoPtx`] where nothing fits.
pub fn ptx_for(image: &[u8], arch: Arch) -> Result<String, ImageError> {
    match kind(image) {
        Kind::Fatbin => select::best(&fatbin::entries(image)?, arch),
        Kind::Text => select::only(&text(image), arch),
        Kind::Cubin => Err(ImageError::NoPtx {
            arch,
            found: vec!["machine code".into()],
        }),
        Kind::Wrapper => Err(ImageError::Malformed(
            "a fatbin wrapper holds the address of its fatbin, which a byte slice cannot follow"
                .into(),
        )),
    }
}

/// A C string or a plain text; PTX is ASCII, except for what file names may hold.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
