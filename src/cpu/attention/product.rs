//! The matrix product that all of attention on the CPU comes down to.

use super::matrix::Matrix;
#[cfg(target_arch = "x86_64")]
use crate::cpu::lanes::Avx2;
use crate::cpu::lanes::{LANES, Lanes, Portable};

/// Rows of a register tile: with two vectors of columns, twelve sums, which hide the latency of two multiply-adds a cycle
/// and leave four of sixteen registers to the operands. With four rows and three vectors all sixteen are in use, and LLVM
/// moves and spills sums in the loop, which halves its speed.
const ROWS: usize = 6;

/// A left operand.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// A matrix's rows from one on.
    Rows(&'a Matrix, usize),
    /// The columns, from the first on, of a matrix whose rows count from one on.
    Columns(&'a Matrix, usize),
}

/// `C = A B`, or `C += A B` where `accumulate`: `A` is `[rows, steps]`, `B` `[steps, columns]` from a row of its matrix
/// on, `C` `[rows, columns]` likewise. `columns` is a multiple of 8. Each sum is a chain of fused multiply-adds in order of
/// the steps.
///
/// # Panics
/// When a matrix lacks a row or a column.
pub(super) fn product<V: Product>(
    [rows, steps, columns]: [usize; 3],
    a: Left<'_>,
    (b, first_b): (&Matrix, usize),
    (c, first_c): (&mut Matrix, usize),
    accumulate: bool,
) {
    let a_fits = match a {
        Left::Rows(a, first) => first + rows <= a.rows() && steps <= a.stride(),
        Left::Columns(a, first) => first + steps <= a.rows() && rows <= a.stride(),
    };
    let b_fits = first_b + steps <= b.rows() && columns <= b.stride();
    let c_fits = first_c + rows <= c.rows() && columns <= c.stride();
    assert!(
        a_fits && b_fits && c_fits && columns.is_multiple_of(LANES),
        "whole operands"
    );
    let mut strip = Strip {
        steps,
        columns,
        a: match a {
            Left::Rows(a, first) => (a.at(first), a.stride(), 1),
            Left::Columns(a, first) => (a.at(first), 1, a.stride()),
        },
        b: (b.at(first_b), b.stride()),
        c: (c.at_mut(first_c), c.stride()),
        accumulate,
    };
    // Strips as even as may be: a last one of one row would wait for its sums.
    let strips = rows.div_ceil(ROWS);
    for index in 0..strips {
        let of_strip = rows * (index + 1) / strips - rows * index / strips;
        // SAFETY: the strips divide the rows of both matrices; these, and everything else that a strip names, are theirs,
        // as asserted; `c` is borrowed mutably, so it is neither of the others.
        unsafe {
            match of_strip {
                1 => strip.multiply::<V, 1>(),
                2 => strip.multiply::<V, 2>(),
                3 => strip.multiply::<V, 3>(),
                4 => strip.multiply::<V, 4>(),
                5 => strip.multiply::<V, 5>(),
                _ => strip.multiply::<V, ROWS>(),
            }
        }
        strip.a.0 = strip.a.0.wrapping_add(of_strip * strip.a.1);
        strip.c.0 = strip.c.0.wrapping_add(of_strip * strip.c.1);
    }
}

/// Up to six rows of a product.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    steps: usize,
    columns: usize,
    /// Where the operand begins, and how far apart its rows and its columns are.
    a: (*const f32, usize, usize),
    /// Where the operand begins, and how far apart its rows are.
    b: (*const f32, usize),
    c: (*mut f32, usize),
    accumulate: bool,
}

impl Strip {
    /// # Safety
    /// The operands hold `R` rows, so many steps and columns; `c` overlaps neither other. The processor has the
    /// instructions of `V`.
    #[inline(always)]
    unsafe fn multiply<V: Product, const R: usize>(&self) {
        const WIDE: usize = 2 * LANES;
        let wide = self.columns / WIDE * WIDE;
        for column in (0..wide).step_by(WIDE) {
            // SAFETY: the columns are among those that the caller promises.
            unsafe { V::register_tile::<R, 2>(self, column) };
        }
        if wide < self.columns {
            // SAFETY: as above: the number of columns is a multiple of 8.
            unsafe { V::register_tile::<R, 1>(self, wide) };
        }
    }

    /// # Safety
    /// As [`Product::register_tile`].
    #[inline(always)]
    unsafe fn register_tile<V: Lanes, const R: usize, const W: usize>(&self, column: usize) {
        let ((a, a_row, a_step), (b, b_row), (c, c_row)) = (self.a, self.b, self.c);
        let mut sums = [[V::splat(0.0); W]; R];
        // SAFETY: every address is of an element that the caller promises.
        unsafe {
            let (mut b, c) = (b.add(column), c.add(column));
            if self.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (w, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(c.add(row * c_row + w * LANES));
                    }
                }
            }
            for step in 0..self.steps {
                let columns: [V; W] = std::array::from_fn(|w| V::load(b.add(w * LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*a.add(row * a_row + step * a_step));
                    for (sum, &column) in sums.iter_mut().zip(&columns) {
                        *sum = a.mul_add(column, *sum);
                    }
                }
                b = b.add(b_row);
            }
            for (row, sums) in sums.iter().enumerate() {
                for (w, sum) in sums.iter().enumerate() {
                    sum.store(c.add(row * c_row + w * LANES));
                }
            }
        }
    }
}

/// Vectors that products are made of.
pub(super) trait Product: Lanes {
    /// `R` rows and `W` vectors of a strip, from a column on, summed in registers.
    ///
    /// # Safety
    /// The strip's operands hold them; `c` overlaps neither other. The processor has the instructions.
    unsafe fn register_tile<const R: usize, const W: usize>(strip: &Strip, column: usize);
}

impl Product for Portable {
    #[inline(always)]
    unsafe fn register_tile<const R: usize, const W: usize>(strip: &Strip, column: usize) {
        // SAFETY: the same promises.
        unsafe { strip.register_tile::<Self, R, W>(column) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Product for Avx2 {
    #[inline(always)]
    unsafe fn register_tile<const R: usize, const W: usize>(strip: &Strip, column: usize) {
        /// A function of its own, so that no constant of its callers takes a register from the sums.
        ///
        /// # Safety
        /// As [`Product::register_tile`].
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        unsafe fn apart<const R: usize, const W: usize>(strip: &Strip, column: usize) {
            // SAFETY: the same promises.
            unsafe { strip.register_tile::<Avx2, R, W>(column) }
        }
        // SAFETY: the same promises.
        unsafe { apart::<R, W>(strip, column) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(rows: usize, columns: usize, seed: usize) -> Matrix {
        let mut matrix = Matrix::zeros(rows, columns);
        for row in 0..rows {
            for (column, x) in matrix.row_mut(row).iter_mut().enumerate() {
                *x = ((row * 37 + column * 11 + seed) as f32 * 0.71).sin();
            }
        }
        matrix
    }

    fn check<V: Product>() {
        for [rows, steps, columns] in [[1, 1, 8], [5, 3, 16], [6, 64, 24], [19, 33, 40], [7, 0, 8]]
        {
            for (is_turned, accumulate) in [(false, false), (false, true), (true, true)] {
                let a = if is_turned {
                    wave(steps + 2, rows, 1)
                } else {
                    wave(rows + 2, steps, 1)
                };
                let (b, before) = (wave(steps + 1, columns, 2), wave(rows + 3, columns, 3));
                let mut c = wave(rows + 3, columns, 3);
                let left = if is_turned {
                    Left::Columns(&a, 2)
                } else {
                    Left::Rows(&a, 2)
                };
                product::<V>(
                    [rows, steps, columns],
                    left,
                    (&b, 1),
                    (&mut c, 3),
                    accumulate,
                );
                for row in 0..rows + 3 {
                    for column in 0..c.stride() {
                        let mut expected = before.row(row)[column];
                        if row >= 3 && column < columns {
                            expected = if accumulate { expected } else { 0.0 };
                            for step in 0..steps {
                                let a = match is_turned {
                                    true => a.row(2 + step)[row - 3],
                                    false => a.row(2 + row - 3)[step],
                                };
                                expected = a.mul_add(b.row(1 + step)[column], expected);
                            }
                        }
                        assert_eq!(c.row(row)[column], expected, "{row}, {column}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_is_its_definition_and_leaves_the_rest_alone() {
        check::<Portable>();
        #[cfg(target_arch = "x86_64")]
        if Avx2::is_available() {
            check::<Avx2>();
        }
    }
}
