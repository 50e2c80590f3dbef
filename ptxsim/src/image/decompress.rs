//! Decompression within limits.

use super::fatbin::{Compression, Entry};
use super::{ImageError, MAX_TEXT_BYTES};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::borrow::Cow;
use std::io::Read;

/// An LZ4 block grows by less than this factor: each byte of a match length adds at most 255.
const LZ4_MAX_RATIO: u64 = 255;

/// The bytes of an entry as they were before compression.
pub fn decompress<'a>(entry: &Entry<'a>) -> Result<Cow<'a, [u8]>, ImageError> {
    if entry.decompressed > MAX_TEXT_BYTES {
        return Err(ImageError::Malformed(format!(
            "an entry of {} bytes, more than {MAX_TEXT_BYTES}",
            entry.decompressed
        )));
    }
    match entry.compression {
        Compression::None => Ok(Cow::Borrowed(entry.bytes)),
        Compression::Lz4 => lz4(entry.bytes, entry.decompressed).map(Cow::Owned),
        Compression::Zstd => zstd(entry.bytes, entry.decompressed).map(Cow::Owned),
    }
}

fn lz4(bytes: &[u8], length: u64) -> Result<Vec<u8>, ImageError> {
    if length > (bytes.len() as u64).saturating_mul(LZ4_MAX_RATIO) {
        return Err(ImageError::Malformed(format!(
            "{} bytes of LZ4 cannot hold {length}",
            bytes.len()
        )));
    }
    lz4_flex::block::decompress(bytes, length as usize)
        .map_err(|error| ImageError::Malformed(format!("LZ4: {error}")))
}

fn zstd(bytes: &[u8], length: u64) -> Result<Vec<u8>, ImageError> {
    let malformed = |error: &dyn std::fmt::Display| ImageError::Malformed(format!("zstd: {error}"));
    let mut frames = FrameDecoder::new();
    frames.set_max_window_size(MAX_TEXT_BYTES);
    let decoder =
        StreamingDecoder::new_with_decoder(bytes, frames).map_err(|error| malformed(&error))?;
    let mut text = Vec::new();
    // One byte more than promised, so that a longer frame shows.
    decoder
        .take(length + 1)
        .read_to_end(&mut text)
        .map_err(|error| malformed(&error))?;
    if text.len() as u64 != length {
        return Err(malformed(&format!(
            "{} bytes or more where the entry says {length}",
            text.len()
        )));
    }
    Ok(text)
}
