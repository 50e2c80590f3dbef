//! The matrix product that all of attention on the CPU comes down to: four rows against up to three vectors, summed in
//! registers.

use crate::cpu::lanes::{LANES, Lanes};

/// Rows of a register tile: with three vectors of columns, twelve sums, which hide the latency of two multiply-adds a
/// cycle and leave four of sixteen registers to the operands.
pub(super) const ROWS: usize = 4;

/// A matrix: where it begins, and how far apart rows and columns are.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const f32,
    pub(super) row: usize,
    pub(super) step: usize,
}

/// `C = A B`, or `C += A B` where `accumulate`, of `[4, steps]` and `[steps, 8 W]`; each sum in order of its steps.
///
/// # Safety
/// `a` holds 4 rows of `steps`; `b` has `steps` rows and `c` 4 rows of `8 W` numbers, `b_row` and `c_row` apart; `c`
/// overlaps neither.
#[inline(always)]
pub(super) unsafe fn product<V: Lanes, const W: usize>(
    steps: usize,
    a: Left,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    accumulate: bool,
) {
    let mut sums = [[V::splat(0.0); W]; ROWS];
    // SAFETY: every address is of an element that the caller promises.
    unsafe {
        if accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (w, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(c.add(row * c_row + w * LANES));
                }
            }
        }
        for step in 0..steps {
            let mut columns = [V::splat(0.0); W];
            for (w, column) in columns.iter_mut().enumerate() {
                *column = V::load(b.add(step * b_row + w * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*a.start.add(row * a.row + step * a.step));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = a.mul_add(column, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (w, sum) in sums.iter().enumerate() {
                sum.store(c.add(row * c_row + w * LANES));
            }
        }
    }
}

/// `C += A B` for any number of columns that is a multiple of 8.
///
/// # Safety
/// As [`product`], with `columns` for `8 W`.
#[inline(always)]
pub(super) unsafe fn add_product<V: Lanes>(
    steps: usize,
    a: Left,
    (b, b_row): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    columns: usize,
) {
    const WIDE: usize = 3 * LANES;
    let mut column = 0;
    // SAFETY: the columns from `column` on are within those that the caller promises.
    unsafe {
        while column + WIDE <= columns {
            product::<V, 3>(
                steps,
                a,
                (b.add(column), b_row),
                (c.add(column), c_row),
                true,
            );
            column += WIDE;
        }
        let (b, c) = ((b.add(column), b_row), (c.add(column), c_row));
        match columns - column {
            LANES => product::<V, 1>(steps, a, b, c, true),
            0 => {}
            _ => product::<V, 2>(steps, a, b, c, true),
        }
    }
}
