//! The fatbin container: a header of 16 bytes and entries, each with a header of its own.
//!
//! NVIDIA does not publish the format; the offsets here are those seen in what nvcc 13.0 writes,
//! with its compression modes `none`, `speed` (LZ4) and `size` (zstd).

use super::ImageError;

/// Bytes of the container's header.
pub const HEADER_BYTES: usize = 16;

const FATBIN_MAGIC: u32 = 0xBA55_ED50;
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const ELF_MAGIC: u32 = 0x464C_457F;

const ENTRY_PTX: u16 = 1;
/// Bytes of an entry's header up to the decompressed size.
const ENTRY_BYTES: usize = 64;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// What the first bytes of an image say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A fatbin; [`container_bytes`] gives its length.
    Fatbin,
    /// `__fatBinC_Wrapper_t`: magic and version of 4 bytes each, then the address of a fatbin.
    Wrapper,
    /// An ELF file with machine code.
    Cubin,
    /// Anything else, taken for PTX text.
    Text,
}

/// The kind of an image, from its first 4 bytes.
pub fn kind(image: &[u8]) -> Kind {
    match u32_at(image, 0) {
        Some(FATBIN_MAGIC) => Kind::Fatbin,
        Some(WRAPPER_MAGIC) => Kind::Wrapper,
        Some(ELF_MAGIC) => Kind::Cubin,
        _ => Kind::Text,
    }
}

/// Length of a fatbin in bytes, its header included, from that header. A driver that is given
/// nothing but an address learns from this how much there is.
///
/// # Errors
///
/// A wrong magic or an impossible size.
pub fn container_bytes(header: &[u8; HEADER_BYTES]) -> Result<usize, ImageError> {
    let sizes = u32_at(header, 0)
        .zip(u16_at(header, 6))
        .zip(u64_at(header, 8));
    let Some(((FATBIN_MAGIC, header_bytes), body)) = sizes else {
        return Err(ImageError::Malformed("not a fatbin".into()));
    };
    let total = u64::from(header_bytes)
        .checked_add(body)
        .and_then(|total| usize::try_from(total).ok());
    match total {
        Some(total)
            if usize::from(header_bytes) >= HEADER_BYTES && total <= isize::MAX as usize =>
        {
            Ok(total)
        }
        _ => Err(ImageError::Malformed(format!(
            "a fatbin header of {header_bytes} and a body of {body} bytes"
        ))),
    }
}

/// How the bytes of an entry are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
}

/// An entry of a fatbin.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// PTX rather than machine code.
    pub is_ptx: bool,
    /// Compute capability times ten.
    pub capability: u32,
    /// How `bytes` are stored.
    pub compression: Compression,
    /// As stored.
    pub bytes: &'a [u8],
    /// Length after decompression; 0 where nothing is compressed.
    pub decompressed: u64,
}

/// The entries of a fatbin, in order.
pub fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, ImageError> {
    let Some(header) = image.first_chunk::<HEADER_BYTES>() else {
        return Err(ImageError::Malformed(
            "the header of the fatbin is cut off".into(),
        ));
    };
    let end = container_bytes(header)?;
    if end > image.len() {
        return Err(ImageError::Malformed(format!(
            "the fatbin has {} of its {end} bytes",
            image.len()
        )));
    }
    let start = usize::from(u16_at(header, 6).unwrap_or(0));
    let mut rest = &image[start..end];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, length) = entry(rest).ok_or_else(|| {
            ImageError::Malformed(format!("entry {} of the fatbin is damaged", entries.len()))
        })?;
        entries.push(entry);
        rest = &rest[length..];
    }
    Ok(entries)
}

/// The first entry of `bytes` and its length with header and padding; `None` if it does not fit.
fn entry(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let header = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let padded = usize::try_from(u64_at(bytes, 8)?).ok()?;
    let length = header.checked_add(padded)?;
    if header < ENTRY_BYTES || length > bytes.len() {
        return None;
    }
    let stored = usize::try_from(u32_at(bytes, 16)?).ok()?;
    let flags = u64_at(bytes, 40)?;
    let compression = match (flags & FLAG_LZ4 != 0, flags & FLAG_ZSTD != 0) {
        (false, false) => Compression::None,
        (true, false) => Compression::Lz4,
        (false, true) => Compression::Zstd,
        (true, true) => return None,
    };
    let payload = &bytes[header..length];
    let entry = Entry {
        is_ptx: u16_at(bytes, 0)? == ENTRY_PTX,
        capability: u32_at(bytes, 28)?,
        compression,
        bytes: if compression == Compression::None {
            payload
        } else {
            payload.get(..stored)?
        },
        decompressed: u64_at(bytes, 56)?,
    };
    Some((entry, length))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
