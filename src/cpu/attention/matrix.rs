//! Matrices of `f32` as the products read and write them.

use crate::cpu::lanes::LANES;
use std::ops::Range;

/// Numbers of a cache line.
pub(super) const LINE: usize = 2 * LANES;

#[derive(Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "read and written as a slice of floats")]
struct Line([f32; LINE]);

/// Rows of whole cache lines, so that no vector lies in two, and of an odd number of them, so that a column of many rows
/// spreads over all sets of a first-level cache: with four lines a row (64 numbers), 128 rows would share 16 of 64 sets.
#[derive(Default)]
pub(super) struct Matrix {
    lines: Vec<Line>,
    rows: usize,
    lines_of_row: usize,
}

impl Matrix {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let mut matrix = Self::default();
        matrix.reshape(rows, columns);
        matrix
    }

    /// Makes room for so many rows and columns, whose numbers are of no meaning.
    pub(super) fn reshape(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.lines_of_row = columns.div_ceil(LINE) | 1;
        self.lines
            .resize(rows * self.lines_of_row, Line([0.0; LINE]));
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers from the start of a row to that of the next, at least as many as there are columns.
    pub(super) fn stride(&self) -> usize {
        self.lines_of_row * LINE
    }

    /// A row with what fills its last lines.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &[f32] {
        let lines = &self.lines[row * self.lines_of_row..][..self.lines_of_row];
        // SAFETY: a line is 16 floats without padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE) }
    }

    #[inline(always)]
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let lines = &mut self.lines[row * self.lines_of_row..][..self.lines_of_row];
        // SAFETY: a line is 16 floats without padding, and any floats are a line.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LINE) }
    }

    /// The first number of a row.
    ///
    /// # Panics
    /// When there is no such row, unless it is the end of them.
    #[inline(always)]
    pub(super) fn at(&self, row: usize) -> *const f32 {
        self.lines[row * self.lines_of_row..].as_ptr().cast()
    }

    /// As [`at`](Self::at), to be written.
    #[inline(always)]
    pub(super) fn at_mut(&mut self, row: usize) -> *mut f32 {
        self.lines[row * self.lines_of_row..].as_mut_ptr().cast()
    }

    /// Column `first`, a multiple of [`LINE`], of the first of these rows: sixteen numbers, and as many [`stride`](Self::stride)
    ///  further on in each row after it.
    ///
    /// # Panics
    /// When the matrix lacks a row or the columns.
    #[inline(always)]
    pub(super) fn line(&mut self, rows: &Range<usize>, first: usize) -> *mut f32 {
        assert!(
            rows.end <= self.rows && first + LINE <= self.stride(),
            "rows and columns of the matrix"
        );
        self.at_mut(rows.start).wrapping_add(first)
    }
}
