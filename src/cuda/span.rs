//! Ops in which each thread makes one span of the output: 16 bytes, or one element where extents or
//! addresses are no multiples of that (`kernels/dense/span.cuh`).

use super::launch::{Kernel, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Threads of a block.
pub(super) const THREADS: usize = 256;
/// Bytes of the widest load.
const WIDE_BYTES: usize = 16;

/// How an output is cut into spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spans {
    /// Spans in all, and of an innermost row.
    pub vectors: i64,
    pub row_vectors: i64,
    pub wide: bool,
}

impl Spans {
    /// Cuts `elements` elements in rows of `row`. `addresses` are those of all buffers that are cut
    /// alike.
    pub(super) fn new(elements: usize, row: usize, dtype: DType, addresses: &[u64]) -> Self {
        let whole = (row * dtype.size()).is_multiple_of(WIDE_BYTES);
        let aligned = addresses
            .iter()
            .all(|address| address.is_multiple_of(WIDE_BYTES as u64));
        let wide = whole && aligned;
        let step = if wide { WIDE_BYTES / dtype.size() } else { 1 };
        Self {
            vectors: (elements / step) as i64,
            row_vectors: (row / step) as i64,
            wide,
        }
    }

    /// A thread for each span.
    pub(super) fn launch(&self, op: &'static str, kernel: Kernel) -> Result<Launch> {
        let blocks = (self.vectors as usize).div_ceil(THREADS);
        let Some(blocks) = i32::try_from(blocks).ok() else {
            return Err(Error::input(op, "out", "at most 2^39 spans", self.vectors));
        };
        Ok(Launch {
            kernel,
            grid: [blocks as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
        })
    }
}
