//! The walk of a tensor copy over its box: PTX ISA 9.0, 5.5.3.
//!
//! The box is dense in shared memory, innermost dimension first, before the swizzle. Elements along
//! dimension 0 are neighbours in both memories, so the walk goes row by row, and a row falls into a
//! part before the tensor, a part inside and a part after it.

use super::tensor_map::{MAX_RANK, TensorMap};

/// One innermost row of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Byte offset in the box, before the swizzle.
    pub offset: u32,
    /// Bytes that lie before the tensor.
    pub before: u32,
    /// Bytes inside the tensor.
    pub inside: u32,
    /// Bytes that lie after the tensor.
    pub after: u32,
    /// Global address of the first byte inside; meaningless where `inside` is 0.
    pub global: u64,
}

impl TensorMap {
    /// The rows of the box whose first element has coordinates `start`, innermost first. The map
    /// must be valid ([`TensorMap::validate`]).
    pub fn rows(&self, start: [i32; MAX_RANK]) -> impl Iterator<Item = Row> + '_ {
        let counts: [u32; MAX_RANK] =
            std::array::from_fn(|d| if d == 0 { 1 } else { self.taken(d) });
        let total: u32 = counts.iter().product();
        (0..total).map(move |index| {
            let mut rest = index;
            let mut address = self.address;
            let mut inside = true;
            for d in 1..self.rank {
                let step = rest % counts[d] * self.element_strides[d];
                rest /= counts[d];
                let coordinate = i64::from(start[d]) + i64::from(step);
                match u64::try_from(coordinate) {
                    Ok(c) if c < self.dims[d] => {
                        address = address.wrapping_add(c.wrapping_mul(self.strides[d - 1]));
                    }
                    _ => inside = false,
                }
            }
            self.row(index, start[0], inside, address)
        })
    }

    fn row(&self, index: u32, first: i32, inside: bool, address: u64) -> Row {
        let size = self.element.size();
        let count = i64::from(self.box_dims[0]);
        let first = i64::from(first);
        let dim = i64::try_from(self.dims[0]).unwrap_or(i64::MAX);
        let begin = first.clamp(0, dim);
        let end = (first + count).clamp(0, dim);
        let (before, length) = if inside && end > begin {
            (begin - first, end - begin)
        } else {
            (0, 0)
        };
        // Each is at most the box's 256 elements of 8 bytes.
        let bytes = |elements: i64| elements as u32 * size;
        Row {
            offset: index * self.row_bytes(),
            before: bytes(before),
            inside: bytes(length),
            after: bytes(count - before - length),
            global: address.wrapping_add(begin as u64 * u64::from(size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::swizzle::Swizzle;
    use super::super::tensor_map::ElementType;
    use super::*;

    /// Row-major tensor of u16 with padded rows.
    fn map(dims: &[u64], box_dims: &[u32], steps: &[u32]) -> TensorMap {
        let mut map = TensorMap {
            element: ElementType::U16,
            rank: dims.len(),
            address: 0x10000,
            dims: [1; MAX_RANK],
            strides: [0; MAX_RANK - 1],
            box_dims: [1; MAX_RANK],
            element_strides: [1; MAX_RANK],
            swizzle: Swizzle::None,
            fill_nan: false,
        };
        let mut stride = (dims[0] * 2).next_multiple_of(16) + 16;
        for d in 0..dims.len() {
            map.dims[d] = dims[d];
            map.box_dims[d] = box_dims[d];
            map.element_strides[d] = steps[d];
            if d > 0 {
                map.strides[d - 1] = stride;
                stride *= dims[d];
            }
        }
        map.validate().unwrap();
        map
    }

    /// Global address of each element of the box by the definition: every coordinate on its own.
    fn by_definition(map: &TensorMap, start: [i32; MAX_RANK]) -> Vec<Option<u64>> {
        let counts: Vec<u32> = (0..MAX_RANK).map(|d| map.taken(d)).collect();
        let total: u32 = counts.iter().product();
        let mut out = Vec::new();
        for index in 0..total {
            let mut rest = index;
            let mut address = Some(map.address);
            for d in 0..MAX_RANK {
                let step = if d == 0 { 1 } else { map.element_strides[d] };
                let c = i64::from(start[d]) + i64::from(rest % counts[d] * step);
                rest /= counts[d];
                let stride = if d == 0 { 2 } else { map.strides[d - 1] as i64 };
                let inside = c >= 0 && c < map.dims[d] as i64;
                address = address
                    .filter(|_| inside)
                    .map(|a| a.wrapping_add((c * stride) as u64));
            }
            out.push(address);
        }
        out
    }

    fn by_rows(map: &TensorMap, start: [i32; MAX_RANK]) -> Vec<Option<u64>> {
        let mut out = Vec::new();
        for row in map.rows(start) {
            assert_eq!(row.before + row.inside + row.after, map.row_bytes());
            assert_eq!(row.offset as usize, out.len() * 2);
            out.extend((0..row.before / 2).map(|_| None));
            out.extend((0..row.inside / 2).map(|i| Some(row.global + 2 * u64::from(i))));
            out.extend((0..row.after / 2).map(|_| None));
        }
        out
    }

    #[test]
    fn rows_agree_with_the_definition() {
        let cases: [(&[u64], &[u32], &[u32]); 6] = [
            (&[19], &[8], &[1]),
            (&[3], &[16], &[1]),
            (&[20, 7], &[16, 5], &[1, 1]),
            (&[20, 7, 3], &[8, 4, 2], &[1, 2, 1]),
            (&[9, 4, 3, 2], &[8, 3, 2, 2], &[1, 1, 2, 1]),
            (&[9, 4, 3, 2, 5], &[8, 5, 2, 2, 3], &[1, 3, 1, 1, 2]),
        ];
        for (dims, box_dims, steps) in cases {
            let map = map(dims, box_dims, steps);
            for shift in [-300, -17, -3, -1, 0, 1, 2, 5, 18, 19, 400] {
                for d in 0..dims.len() {
                    let mut start = [0; MAX_RANK];
                    start[d] = shift;
                    start[0] = start[0].max(shift / 2);
                    assert_eq!(
                        by_rows(&map, start),
                        by_definition(&map, start),
                        "{map:?} {start:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn extreme_coordinates_lie_outside() {
        let map = map(&[20, 7], &[16, 5], &[1, 1]);
        for start in [[i32::MIN, 0], [i32::MAX, 0], [0, i32::MIN], [0, i32::MAX]] {
            let start = [start[0], start[1], 0, 0, 0];
            assert!(
                map.rows(start)
                    .all(|row| row.inside == 0 && row.after == 32)
            );
        }
    }
}
