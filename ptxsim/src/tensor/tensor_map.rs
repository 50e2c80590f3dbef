//! Tensor maps: what a tensor copy knows of its tensor and of the box that it moves.
//!
//! `CUtensorMap` is 128 opaque bytes; NVIDIA documents no layout. This one is ptxsim's own, so a
//! map made by a real driver cannot be used here, nor the reverse. The rules checked are those of
//! `cuTensorMapEncodeTiled` (CUDA driver API 13.0) and of PTX ISA 9.0, 5.5.
//!
//! Tiled maps without interleave are supported, with swizzles of 32, 64 and 128 bytes. Refused by
//! name: im2col, interleaved layouts, sub-byte types and swizzle atoms other than 16 bytes (the last
//! two need compute capability 10), and `TFLOAT32`, whose rounding during the copy is undocumented.

mod element;
mod replace;

use std::fmt;

use super::swizzle::Swizzle;
pub use element::ElementType;
pub use replace::Field;

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 5;
/// Bytes of an encoded map.
pub const ENCODED_BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"ptxsimTM";
/// Bounds of the driver API: a dimension at most 2^32 elements, a stride below 2^40 bytes.
const MAX_DIM: u64 = 1 << 32;
const STRIDE_LIMIT: u64 = 1 << 40;

/// Why a tensor map cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorMapError {
    /// A documented rule is broken.
    Invalid(String),
    /// Legal on some device, and not simulated.
    Unsupported(String),
}

impl fmt::Display for TensorMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorMapError::Invalid(text) => write!(f, "tensor map: {text}"),
            TensorMapError::Unsupported(text) => write!(f, "tensor map: {text} is not supported"),
        }
    }
}

impl std::error::Error for TensorMapError {}

fn invalid<T>(text: String) -> Result<T, TensorMapError> {
    Err(TensorMapError::Invalid(text))
}

fn unsupported<T>(text: impl Into<String>) -> Result<T, TensorMapError> {
    Err(TensorMapError::Unsupported(text.into()))
}

/// Arguments of `cuTensorMapEncodeTiled`, enumerations as the driver's integers.
#[derive(Debug, Clone, Copy)]
pub struct TiledParams<'a> {
    /// `CUtensorMapDataType`.
    pub data_type: u32,
    /// Device address of the first element.
    pub address: u64,
    /// Elements in each dimension, innermost first; the rank is its length.
    pub dims: &'a [u64],
    /// Bytes between neighbours of dimensions 1 and up: one fewer than dimensions.
    pub strides: &'a [u64],
    /// Extent of the box in each dimension.
    pub box_dims: &'a [u32],
    /// Step between the elements taken in each dimension.
    pub element_strides: &'a [u32],
    /// `CUtensorMapInterleave`.
    pub interleave: u32,
    /// `CUtensorMapSwizzle`.
    pub swizzle: u32,
    /// `CUtensorMapL2promotion`: a hint, checked and dropped.
    pub l2_promotion: u32,
    /// `CUtensorMapFloatOOBfill`.
    pub oob_fill: u32,
}

/// A tiled tensor map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of an element.
    pub element: ElementType,
    /// Dimensions in use, 1 to 5.
    pub rank: usize,
    /// Device address of element 0.
    pub address: u64,
    /// Elements in each dimension, innermost first; 1 beyond the rank.
    pub dims: [u64; MAX_RANK],
    /// Bytes between neighbours: `strides[i]` belongs to dimension `i + 1`; 0 beyond the rank.
    pub strides: [u64; MAX_RANK - 1],
    /// Extent of the box; 1 beyond the rank.
    pub box_dims: [u32; MAX_RANK],
    /// Step between the elements taken; that of dimension 0 is ignored without interleave.
    pub element_strides: [u32; MAX_RANK],
    /// Arrangement in shared memory.
    pub swizzle: Swizzle,
    /// Out-of-bounds elements become NaN rather than zero.
    pub fill_nan: bool,
}

/// Makes a tiled map.
///
/// # Errors
/// [`TensorMapError`] names the argument, its rule and its value.
pub fn encode_tiled(params: &TiledParams<'_>) -> Result<[u8; ENCODED_BYTES], TensorMapError> {
    let map = TensorMap::from_params(params)?;
    map.validate()?;
    Ok(map.encode())
}

/// `cuTensorMapReplaceAddress`.
///
/// # Errors
/// The bytes are not a map, or the address breaks a rule.
pub fn replace_address(
    bytes: &mut [u8; ENCODED_BYTES],
    address: u64,
) -> Result<(), TensorMapError> {
    let map = TensorMap {
        address,
        ..TensorMap::decode(bytes)?
    };
    map.validate()?;
    *bytes = map.encode();
    Ok(())
}

/// Why `cuTensorMapEncodeIm2col` and its wide form fail.
pub fn im2col() -> TensorMapError {
    TensorMapError::Unsupported("im2col".into())
}

impl TensorMap {
    fn from_params(params: &TiledParams<'_>) -> Result<Self, TensorMapError> {
        let rank = params.dims.len();
        let expected = [rank.saturating_sub(1), rank, rank];
        let lengths = [
            params.strides.len(),
            params.box_dims.len(),
            params.element_strides.len(),
        ];
        if rank == 0 || rank > MAX_RANK || lengths != expected {
            return invalid(format!(
                "rank must be 1 to 5, with rank - 1 strides and rank box dimensions and element \
                 strides, got rank {rank} with {lengths:?}"
            ));
        }
        if params.l2_promotion > 3 {
            return invalid(format!(
                "l2Promotion must be 0 to 3, got {}",
                params.l2_promotion
            ));
        }
        let mut map = TensorMap {
            element: ElementType::from_driver(params.data_type)?,
            rank,
            address: params.address,
            dims: [1; MAX_RANK],
            strides: [0; MAX_RANK - 1],
            box_dims: [1; MAX_RANK],
            element_strides: [1; MAX_RANK],
            swizzle: swizzle_mode(params.swizzle)?,
            fill_nan: fill_mode(params.oob_fill)?,
        };
        interleave_mode(params.interleave)?;
        map.dims[..rank].copy_from_slice(params.dims);
        map.strides[..rank - 1].copy_from_slice(params.strides);
        map.box_dims[..rank].copy_from_slice(params.box_dims);
        map.element_strides[..rank].copy_from_slice(params.element_strides);
        Ok(map)
    }

    /// Checks every rule that the driver documents. A map changed by `tensormap.replace` is checked
    /// when it is used: between two replacements it may be inconsistent.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), TensorMapError> {
        if !self.address.is_multiple_of(16) {
            return invalid(format!(
                "address must be a multiple of 16, got {:#x}",
                self.address
            ));
        }
        if self.rank == 0 || self.rank > MAX_RANK {
            return invalid(format!("rank must be 1 to 5, got {}", self.rank));
        }
        for d in 0..self.rank {
            self.validate_dimension(d)?;
        }
        let inner = self.row_bytes();
        if !inner.is_multiple_of(16) {
            return invalid(format!(
                "the box's inner row must be a multiple of 16 bytes, got {inner}"
            ));
        }
        if self.swizzle != Swizzle::None && inner > self.swizzle.span() {
            let span = self.swizzle.span();
            return invalid(format!(
                "the box's inner row must be at most the swizzle's {span} bytes, got {inner}"
            ));
        }
        if self.fill_nan && !self.element.is_float() {
            return invalid(format!(
                "NaN fill needs a floating-point type, got {:?}",
                self.element
            ));
        }
        Ok(())
    }

    fn validate_dimension(&self, d: usize) -> Result<(), TensorMapError> {
        if self.dims[d] == 0 || self.dims[d] > MAX_DIM {
            return invalid(format!(
                "dimension {d} must be 1 to 2^32, got {}",
                self.dims[d]
            ));
        }
        if self.box_dims[d] == 0 || self.box_dims[d] > 256 {
            return invalid(format!(
                "box dimension {d} must be 1 to 256, got {}",
                self.box_dims[d]
            ));
        }
        let step = self.element_strides[d];
        if step == 0 || step > 8 {
            return invalid(format!("element stride {d} must be 1 to 8, got {step}"));
        }
        if d > 0 {
            let stride = self.strides[d - 1];
            if !stride.is_multiple_of(16) || stride >= STRIDE_LIMIT {
                return invalid(format!(
                    "stride {} must be a multiple of 16 below 2^40, got {stride}",
                    d - 1
                ));
            }
        }
        Ok(())
    }

    /// The 128 bytes.
    pub fn encode(&self) -> [u8; ENCODED_BYTES] {
        let mut out = Vec::with_capacity(ENCODED_BYTES);
        out.extend(MAGIC);
        out.extend(self.address.to_le_bytes());
        self.dims
            .iter()
            .chain(&self.strides)
            .for_each(|v| out.extend(v.to_le_bytes()));
        // tensormap.replace may store any 32-bit box dimension or element stride.
        let steps = self.box_dims.iter().chain(&self.element_strides[1..]);
        steps.for_each(|v| out.extend(&v.min(&0xffff).to_le_bytes()[..2]));
        let swizzle = swizzle_code(self.swizzle);
        out.extend([self.element_strides[0].min(255) as u8, self.rank as u8]);
        out.extend([self.element.code(), swizzle, u8::from(self.fill_nan)]);
        let mut bytes = [0; ENCODED_BYTES];
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// Reads the 128 bytes back, without [`TensorMap::validate`].
    ///
    /// # Errors
    /// They were not written by [`TensorMap::encode`].
    pub fn decode(bytes: &[u8; ENCODED_BYTES]) -> Result<Self, TensorMapError> {
        if bytes[..8] != MAGIC {
            return invalid("these 128 bytes are not a map that the simulated driver made".into());
        }
        let word = |i: usize| u64_at(bytes, 8 + 8 * i);
        let half = |i: usize| u32::from(u16::from_le_bytes([bytes[88 + 2 * i], bytes[89 + 2 * i]]));
        let [step, rank, element, swizzle, fill_nan] = std::array::from_fn(|i| bytes[106 + i]);
        Ok(TensorMap {
            address: word(0),
            dims: std::array::from_fn(|i| word(1 + i)),
            strides: std::array::from_fn(|i| word(1 + MAX_RANK + i)),
            box_dims: std::array::from_fn(half),
            element_strides: std::array::from_fn(|i| match i {
                0 => u32::from(step),
                _ => half(MAX_RANK + i - 1),
            }),
            rank: usize::from(rank),
            element: ElementType::from_driver(u32::from(element))?,
            swizzle: swizzle_mode(u32::from(swizzle))?,
            fill_nan: fill_nan != 0,
        })
    }

    /// Bytes of one innermost row of the box.
    pub fn row_bytes(&self) -> u32 {
        self.box_dims[0] * self.element.size()
    }

    /// Elements taken along dimension `d` of the box.
    pub fn taken(&self, d: usize) -> u32 {
        if d == 0 {
            self.box_dims[0]
        } else {
            self.box_dims[d].div_ceil(self.element_strides[d])
        }
    }

    /// Bytes of the box in shared memory: what a copy reports to its mbarrier, elements outside the
    /// tensor included.
    pub fn box_bytes(&self) -> u32 {
        (1..self.rank).map(|d| self.taken(d)).product::<u32>() * self.row_bytes()
    }
}

fn u64_at(bytes: &[u8; ENCODED_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn swizzle_mode(value: u32) -> Result<Swizzle, TensorMapError> {
    match value {
        0 => Ok(Swizzle::None),
        1 => Ok(Swizzle::B32),
        2 => Ok(Swizzle::B64),
        3 => Ok(Swizzle::B128),
        4..=6 => unsupported("a swizzle that needs compute capability 10"),
        _ => invalid(format!("swizzle must be 0 to 6, got {value}")),
    }
}

fn swizzle_code(swizzle: Swizzle) -> u8 {
    match swizzle {
        Swizzle::None => 0,
        Swizzle::B32 => 1,
        Swizzle::B64 => 2,
        Swizzle::B128 => 3,
    }
}

fn fill_mode(value: u32) -> Result<bool, TensorMapError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => invalid(format!("out-of-bounds fill must be 0 or 1, got {value}")),
    }
}

fn interleave_mode(value: u32) -> Result<(), TensorMapError> {
    match value {
        0 => Ok(()),
        1 | 2 => unsupported("an interleaved layout"),
        _ => invalid(format!("interleave must be 0 to 2, got {value}")),
    }
}

#[cfg(test)]
mod tests;
