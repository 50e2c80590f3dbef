//! Matrices of `wgmma` in shared memory.

use crate::checks::{Access, Kind, Proxy};
use crate::exec::warp::Warp;
use crate::memory::SHARED_RANK_SHIFT;
use crate::report::FindingKind;
use crate::sim::LaunchError;
use crate::tensor::descriptor::{Descriptor, Major};
use crate::tensor::multiply::LANES as PANEL;
use crate::tensor::product::{OperandA, OperandB, Product};

/// Rows of A that one warp computes.
const WARP_ROWS: usize = 16;
/// Bytes of a chunk, the unit of the canonical layouts.
const CHUNK: usize = 16;

/// Reads A, 64 rows for the four warps.
///
/// # Errors
/// Where the descriptor leads out of shared memory.
pub fn read_a(
    warp: &mut Warp<'_>,
    product: &Product,
    descriptor: u64,
    major: Major,
) -> Result<[OperandA; 4], LaunchError> {
    let depth = product.depth;
    let mut parts: [OperandA; 4] = Default::default();
    for part in &mut parts {
        part.elements.resize(WARP_ROWS * depth, 0);
    }
    let matrix = Matrix {
        name: "A",
        rows: 4 * WARP_ROWS,
        major,
        descriptor,
    };
    matrix.read(warp, product, |row, k, value| {
        parts[row / WARP_ROWS].elements[row % WARP_ROWS * depth + k] = value;
    })?;
    Ok(parts)
}

/// Reads B.
///
/// # Errors
/// Where the descriptor leads out of shared memory.
pub fn read_b(
    warp: &mut Warp<'_>,
    product: &Product,
    descriptor: u64,
    major: Major,
) -> Result<OperandB, LaunchError> {
    let depth = product.depth;
    let mut b = OperandB::default();
    b.elements.resize(product.columns * depth, 0);
    let matrix = Matrix {
        name: "B",
        rows: product.columns,
        major,
        descriptor,
    };
    matrix.read(warp, product, |column, k, value| {
        b.elements[(column / PANEL * depth + k) * PANEL + column % PANEL] = value;
    })?;
    Ok(b)
}

/// A matrix of `rows` m or n by k.
struct Matrix {
    name: &'static str,
    rows: usize,
    major: Major,
    descriptor: u64,
}

impl Matrix {
    /// Calls `put` with the row, k and value of each element.
    fn read(
        &self,
        warp: &mut Warp<'_>,
        product: &Product,
        mut put: impl FnMut(usize, usize, u32),
    ) -> Result<(), LaunchError> {
        let descriptor = Descriptor::decode(self.descriptor);
        if descriptor.base_offset != 0 {
            let message = format!(
                "the descriptor of {} has base offset {}; only tiles aligned to their swizzle \
                 pattern are simulated",
                self.name, descriptor.base_offset
            );
            warp.find(FindingKind::Operand, message, 0, None);
            return Err(LaunchError::LaunchFailed);
        }
        let size = product.arithmetic.element_bits() / 8;
        let per_chunk = CHUNK / size;
        let (rows, columns) = match self.major {
            Major::K => (self.rows, product.depth / per_chunk),
            Major::Mn => (product.depth, self.rows / per_chunk),
        };
        let rank = warp.rank;
        let span = warp.shared[rank].span();
        let mut unwritten = None;
        let mut bytes = [0; CHUNK];
        for row in 0..rows {
            for column in 0..columns {
                let offset = descriptor.chunk(self.major, row as u32, column as u32) as usize;
                if offset + CHUNK > span.len() {
                    return Err(self.outside(warp, offset, span.len()));
                }
                span.read(offset, &mut bytes);
                self.observe(warp, offset);
                unwritten = unwritten.or_else(|| span.first_invalid(offset, CHUNK));
                for (i, element) in bytes.chunks_exact(size).enumerate() {
                    let value = element
                        .iter()
                        .rev()
                        .fold(0, |v, &byte| v << 8 | u32::from(byte));
                    let along = column * per_chunk + i;
                    match self.major {
                        Major::K => put(row, along, value),
                        Major::Mn => put(along, row, value),
                    }
                }
            }
        }
        if let Some(offset) = unwritten {
            self.report_unwritten(warp, offset);
        }
        Ok(())
    }

    /// Tells the race detector that a chunk is read.
    fn observe(&self, warp: &mut Warp<'_>, offset: usize) {
        let (agent, issuer, line) = (super::agent(warp), warp.agent(), warp.line());
        let start = shared_address(warp, offset) as u32;
        let Some(races) = &mut warp.cluster.races else {
            return;
        };
        let access = Access::asynchronous(agent, issuer, Kind::Read, Proxy::Async, line);
        if let Some(conflict) = races.access_range(&access, start, CHUNK as u32) {
            warp.find_conflict(&conflict, conflict.lane, Some(conflict.address));
        }
    }

    #[cold]
    fn outside(&self, warp: &mut Warp<'_>, offset: usize, len: usize) -> LaunchError {
        let name = self.name;
        let message = format!(
            "matrix {name} of wgmma reaches offset {offset:#x} of shared memory, which has {len} bytes"
        );
        let address = shared_address(warp, offset);
        warp.find(FindingKind::OutOfBounds, message, 0, Some(address));
        LaunchError::IllegalAddress
    }

    #[cold]
    fn report_unwritten(&self, warp: &mut Warp<'_>, offset: usize) {
        let message = format!(
            "an element of matrix {} of wgmma is uninitialised",
            self.name
        );
        let address = shared_address(warp, offset);
        warp.find(FindingKind::Uninitialized, message, 0, Some(address));
    }
}

fn shared_address(warp: &Warp<'_>, offset: usize) -> u64 {
    ((warp.rank as u64) << SHARED_RANK_SHIFT) + offset as u64
}
