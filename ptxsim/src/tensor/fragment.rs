//! Which lane and register holds which matrix element.
//!
//! One rule serves every shape of `mma.sync` with 32-bit registers and of `wgmma` (PTX ISA 9.7.14.5
//! and, for `wgmma`, whose layouts it gives as figures, CUTLASS's `mma_traits_sm90_gmma.hpp`): a warp's
//! lane is `4 * group + t`, a register packs `w = 32 / bits` elements that neighbour in k, and
//!
//! ```text
//! A  register r, element e: row group + 8 * (r % 2), k = w * t + e + 4 * w * (r / 2)   (16 rows)
//! A  register r, element e: row group,               k = w * t + e + 4 * w * r         (8 rows)
//! B  register r, element e: k = w * t + e + 4 * w * r, column group
//! D  32-bit register r:     row group + 8 * (r / 2 % 2), column 2 * t + r % 2 + 8 * (r / 4)
//! D  f16x2 register r, e:   row group + 8 * (r % 2),     column 2 * t + e + 8 * (r / 2)
//! ```
//!
//! In a warpgroup, warp `i` holds rows `16 * i ..` of A and D.

/// A register of one lane of a warp, and the element in it, counted from the low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Lane of the warp.
    pub lane: usize,
    /// Register of the operand.
    pub register: usize,
    /// Element of the register.
    pub element: usize,
}

/// Position of an element of A: row, k.
pub fn a_position(rows: usize, width: usize, place: Place) -> (usize, usize) {
    let Place {
        lane,
        register,
        element,
    } = place;
    let (row_half, k_half) = if rows == 8 {
        (0, register)
    } else {
        (register % 2, register / 2)
    };
    (
        lane / 4 + 8 * row_half,
        width * (lane % 4) + element + 4 * width * k_half,
    )
}

/// Position of an element of B: k, column.
pub fn b_position(width: usize, place: Place) -> (usize, usize) {
    let Place {
        lane,
        register,
        element,
    } = place;
    (
        width * (lane % 4) + element + 4 * width * register,
        lane / 4,
    )
}

/// Position of an element of C or D: row, column. `width` is 1 for f32 and s32, 2 for f16x2.
pub fn d_position(width: usize, place: Place) -> (usize, usize) {
    let Place {
        lane,
        register,
        element,
    } = place;
    let index = register * width + element;
    (
        lane / 4 + 8 * (index / 2 % 2),
        2 * (lane % 4) + index % 2 + 8 * (index / 4),
    )
}

/// Registers a lane gives to hold `rows * columns` elements of `width` a register.
pub fn registers(rows: usize, columns: usize, width: usize) -> usize {
    rows * columns / (32 * width)
}

/// Position in an 8x8 matrix of 16-bit elements of the fragment that `ldmatrix`, `stmatrix` and
/// `movmatrix` move: row, column. Transposed, row and column change places.
pub fn m8n8_position(lane: usize, element: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, 2 * (lane % 4) + element);
    if transposed {
        (column, row)
    } else {
        (row, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn places(registers: usize, width: usize) -> impl Iterator<Item = Place> {
        (0..32 * registers * width).map(move |i| Place {
            lane: i / (registers * width),
            register: i / width % registers,
            element: i % width,
        })
    }

    /// Every element has one place, for all shapes of mma.
    #[test]
    fn layouts_are_bijections() {
        for (m, k, width) in [
            (16, 4, 1),
            (16, 8, 1),
            (16, 8, 2),
            (16, 16, 2),
            (8, 16, 4),
            (16, 16, 4),
            (16, 32, 4),
        ] {
            let a: HashSet<_> = places(registers(m, k, width), width)
                .map(|p| a_position(m, width, p))
                .collect();
            assert_eq!(a.len(), m * k);
            assert!(a.iter().all(|&(row, depth)| row < m && depth < k));
            let b: HashSet<_> = places(registers(8, k, width), width)
                .map(|p| b_position(width, p))
                .collect();
            assert_eq!(b.len(), 8 * k);
            assert!(b.iter().all(|&(depth, column)| depth < k && column < 8));
        }
        for n in (8..=256).step_by(8) {
            for width in [1, 2] {
                let d: HashSet<_> = places(registers(16, n, width), width)
                    .map(|p| d_position(width, p))
                    .collect();
                assert_eq!(d.len(), 16 * n);
                assert!(d.iter().all(|&(row, column)| row < 16 && column < n));
            }
        }
    }

    /// The formulas of the PTX ISA, which numbers elements, not registers (9.7.14.5.8 and .10).
    #[test]
    fn agrees_with_the_isa_element_by_element() {
        for place in places(4, 2) {
            let (i, group, t) = (
                2 * place.register + place.element,
                place.lane / 4,
                place.lane % 4,
            );
            let row = if i < 2 || (4..6).contains(&i) {
                group
            } else {
                group + 8
            };
            let column = t * 2 + (i & 1) + if i < 4 { 0 } else { 8 };
            assert_eq!(a_position(16, 2, place), (row, column));
            if i < 4 {
                let k = t * 2 + (i & 1) + if i < 2 { 0 } else { 8 };
                assert_eq!(b_position(2, place), (k, group));
                let row = if i < 2 { group } else { group + 8 };
                assert_eq!(d_position(2, place), (row, t * 2 + (i & 1)));
            }
        }
        for place in places(4, 4) {
            let (i, group, t) = (
                4 * place.register + place.element,
                place.lane / 4,
                place.lane % 4,
            );
            let row = if i < 4 || (8..12).contains(&i) {
                group
            } else {
                group + 8
            };
            let column = t * 4 + (i & 3) + if i < 8 { 0 } else { 16 };
            assert_eq!(a_position(16, 4, place), (row, column));
        }
        for place in places(4, 1) {
            let (i, group, t) = (place.register, place.lane / 4, place.lane % 4);
            let row = if i == 0 || i == 2 { group } else { group + 8 };
            let column = if i < 2 { t } else { t + 4 };
            assert_eq!(a_position(16, 1, place), (row, column));
            let row = if i < 2 { group } else { group + 8 };
            assert_eq!(d_position(1, place), (row, t * 2 + (i & 1)));
        }
    }

    /// CUTLASS's `CLayout_64xN` and `ALayout_64x16` as shapes and strides over (thread, value),
    /// giving row + 64 * column.
    #[test]
    fn agrees_with_cutlass_for_wgmma() {
        for thread in 0..128 {
            let (t, group, warp) = (thread % 4, thread / 4 % 8, thread / 32);
            for value in 0..128 {
                let index = t * 128
                    + group
                    + warp * 16
                    + value % 2 * 64
                    + value / 2 % 2 * 8
                    + value / 4 * 512;
                let place = Place {
                    lane: thread % 32,
                    register: value,
                    element: 0,
                };
                let (row, column) = d_position(1, place);
                assert_eq!(16 * warp + row + 64 * column, index);
            }
            for value in 0..8 {
                let index = t * 128
                    + group
                    + warp * 16
                    + value % 2 * 64
                    + value / 2 % 2 * 8
                    + value / 4 * 512;
                let place = Place {
                    lane: thread % 32,
                    register: value / 2,
                    element: value % 2,
                };
                let (row, k) = a_position(16, 2, place);
                assert_eq!(16 * warp + row + 64 * k, index);
            }
        }
    }
}
