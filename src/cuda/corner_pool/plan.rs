//! How a corner pool is laid over the GPU.

use super::super::check;
use super::super::divisor::Divisor;
use super::super::launch::{Kernel, Launch};
use super::OP;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::Scan;
use cudarc::driver::DeviceRepr;
use std::fmt;

const COLUMNS: &str = "corner_pool/columns";
const LINES: &str = "corner_pool/lines";

/// Symbols by type: f32, f16, bf16.
const COLUMNS_FORWARD: [&str; 3] = [
    "corner_pool_forward_columns_f32",
    "corner_pool_forward_columns_f16",
    "corner_pool_forward_columns_bf16",
];
const COLUMNS_BACKWARD: [&str; 3] = [
    "corner_pool_backward_columns_f32",
    "corner_pool_backward_columns_f16",
    "corner_pool_backward_columns_bf16",
];
const LINES_FORWARD: [&str; 3] = [
    "corner_pool_forward_lines_f32",
    "corner_pool_forward_lines_f16",
    "corner_pool_forward_lines_bf16",
];
const LINES_BACKWARD: [&str; 3] = [
    "corner_pool_backward_lines_f32",
    "corner_pool_backward_lines_f16",
    "corner_pool_backward_lines_bf16",
];

/// Threads of a block.
const THREADS: usize = 256;
/// Bytes of one load: the widest there is.
pub(super) const VECTOR_BYTES: usize = 16;
/// Steps that a thread of the kernel for columns holds: one byte of bits a column.
const STEPS: usize = 8;
/// Segments of a column in a block: 128 steps, a CornerNet map at once, and 16 lanes, 256 bytes of a
/// row.
const MAX_SEGMENTS: usize = 16;
/// Threads a line: 8 share a byte of bits where each has one element, and a warp shuffles.
const LANES_OF_LINE: (usize, usize) = (8, 32);
/// Columns are numbered in 31 bits, those of the last, partly empty block too.
const MAX_COLUMNS: usize = (1 << 31) - (1 << 12);
/// Blocks of a launch in x (CUDA C++ Programming Guide, compute capabilities).
const MAX_BLOCKS: usize = (1 << 31) - 1;

/// Every kernel of the op.
pub(in super::super) fn kernels() -> impl Iterator<Item = Kernel> {
    let columns = COLUMNS_FORWARD.into_iter().chain(COLUMNS_BACKWARD);
    let lines = LINES_FORWARD.into_iter().chain(LINES_BACKWARD);
    let kernel = |image| move |symbol| Kernel { image, symbol };
    columns.map(kernel(COLUMNS)).chain(lines.map(kernel(LINES)))
}

/// Which of the two passes a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// From input to maxima.
    Forward,
    /// From the gradient of the maxima to that of the input.
    Backward,
}

/// How a scan is laid over the GPU. It depends on shape and type alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) scan: Scan,
    pub(super) dtype: DType,
    pub(super) pass: Pass,
    /// Rows of columns, or lines, are whole vectors of 16 bytes.
    whole_vectors: bool,
    /// Neighbouring threads that hold the same steps (columns), or share a line.
    lanes: usize,
    pub(super) launch: Launch,
}

impl Plan {
    /// Plans a pass over a map of type `dtype`.
    ///
    /// # Errors
    /// When `dtype` is no float type, or the map has more than 2^31 - 4096 columns or lines, or 2^48
    /// elements.
    pub fn new(scan: Scan, dtype: DType, pass: Pass) -> Result<Self> {
        scan.check(OP)?;
        let of_type = check::of_dtype(OP, "input", [0, 1, 2], dtype)?;
        let columns = scan.outer * scan.inner;
        if columns > MAX_COLUMNS {
            let rule = format!("at most {MAX_COLUMNS}");
            return Err(Error::input(OP, "columns", rule, columns));
        }
        let lines = scan.inner == 1;
        let (whole_vectors, lanes, of_block) = shares(&scan, dtype);
        let symbols = match (lines, pass) {
            (false, Pass::Forward) => COLUMNS_FORWARD,
            (false, Pass::Backward) => COLUMNS_BACKWARD,
            (true, Pass::Forward) => LINES_FORWARD,
            (true, Pass::Backward) => LINES_BACKWARD,
        };
        let blocks = columns.div_ceil(of_block).min(MAX_BLOCKS);
        let launch = Launch {
            kernel: Kernel {
                image: if lines { LINES } else { COLUMNS },
                symbol: symbols[of_type],
            },
            grid: [blocks as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared_bytes: 0,
        };
        Ok(Self {
            scan,
            dtype,
            pass,
            whole_vectors,
            lanes,
            launch,
        })
    }

    /// What is planned.
    pub fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Whether there is nothing to launch.
    pub(super) fn is_empty(&self) -> bool {
        self.scan.elements() == 0
    }

    pub(super) fn scalars(&self, aligned: bool, accumulate: bool) -> Scalars {
        let Scan {
            outer,
            length,
            inner,
            from_end,
        } = self.scan;
        let wide = self.whole_vectors && aligned;
        let by_inner = if wide && inner > 1 {
            inner * self.dtype.size() / VECTOR_BYTES
        } else {
            inner
        };
        Scalars {
            length: length as i64,
            inner: inner as i64,
            columns: (outer * inner) as i64,
            by_inner: Divisor::new(by_inner as u32),
            lanes_log2: self.lanes.ilog2() as i32,
            from_end: i32::from(from_end),
            wide: i32::from(wide),
            accumulate: i32::from(accumulate),
            padding: (4 * self.scan.bit_words() - outer * self.scan.groups() * inner) as i32,
            end: 0,
        }
    }
}

/// Whether rows of columns, or lines, are whole vectors; the lanes of a block; and the columns of one.
fn shares(scan: &Scan, dtype: DType) -> (bool, usize, usize) {
    let vector = VECTOR_BYTES / dtype.size();
    if scan.inner == 1 {
        let whole = scan.length.is_multiple_of(vector);
        let threads = scan.length.div_ceil(if whole { vector } else { 1 });
        let (low, high) = LANES_OF_LINE;
        let lanes = threads.next_power_of_two().clamp(low, high);
        return (whole, lanes, THREADS / lanes);
    }
    let segments = scan.length.div_ceil(STEPS).next_power_of_two();
    let lanes = THREADS / segments.clamp(1, MAX_SEGMENTS);
    (scan.inner.is_multiple_of(vector), lanes, lanes * vector)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scan {
            outer,
            length,
            inner,
            ..
        } = self.scan;
        let bits = outer * self.scan.groups() * inner;
        let maps = 2 * self.scan.elements() * self.dtype.size();
        writeln!(
            f,
            "{OP} [{outer}, {length}, {inner}] {} {:?}: {maps} bytes at least, {bits} more with bits",
            self.dtype, self.pass
        )?;
        if inner == 1 {
            write!(
                f,
                "  {}: {} threads a line, to hold most of it at once",
                self.launch, self.lanes
            )
        } else {
            write!(
                f,
                "  {}: {} segments of {STEPS} steps (one byte of bits) by {} vectors of a row; a block \
                 has whole columns, so that carries stay in it",
                self.launch,
                THREADS / self.lanes,
                self.lanes
            )
        }
    }
}

/// The kernels' scalars. Mirrors `Scalars` in `kernels/common/scan.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Scalars {
    length: i64,
    inner: i64,
    columns: i64,
    by_inner: Divisor,
    lanes_log2: i32,
    from_end: i32,
    wide: i32,
    accumulate: i32,
    padding: i32,
    /// Fills the struct to its alignment.
    end: i32,
}

const _: () = {
    assert!(size_of::<Scalars>() == 56);
    assert!(std::mem::offset_of!(Scalars, by_inner) == 24);
    assert!(std::mem::offset_of!(Scalars, padding) == 48);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert.
unsafe impl DeviceRepr for Scalars {}
