//! Extents of tensors.

use crate::error::{Error, Result};
use std::fmt;

/// A shape as messages print it: `[2, 3]`.
pub(crate) struct ShapeText<'a>(pub &'a [usize]);

impl fmt::Display for ShapeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Number of elements of a shape.
///
/// Above 2^48 elements is an error: no machine holds that many, and below it no product of a count
/// with an element size or a stride overflows an `i64`.
pub(crate) fn element_count(op: &'static str, argument: &str, shape: &[usize]) -> Result<usize> {
    const LIMIT: usize = 1 << 48;
    // Zero extents are left out, so that a huge extent beside one is still refused.
    let product = shape
        .iter()
        .filter(|&&extent| extent != 0)
        .try_fold(1usize, |count, &extent| {
            count.checked_mul(extent).filter(|&count| count <= LIMIT)
        });
    match product {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(count) => Ok(count),
        None => Err(Error::input(
            op,
            argument,
            "at most 2^48 elements",
            ShapeText(shape),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_elements() {
        assert_eq!(element_count("t", "s", &[]).unwrap(), 1);
        assert_eq!(element_count("t", "s", &[2, 0, 5]).unwrap(), 0);
        assert!(element_count("t", "s", &[usize::MAX, 0]).is_err());
        assert!(element_count("t", "s", &[1 << 40, 1 << 40]).is_err());
    }
}
