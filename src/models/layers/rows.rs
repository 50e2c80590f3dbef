//! Rows picked out of a tensor.

use crate::error::Result;
use crate::ops::embedding;
use crate::tensor::Tensor;

/// Rows of `width` elements of `x`, taken as one long list of them, in the order of `indices`: `[R, width]`, a copy.
///
/// # Errors
/// When `x` does not consist of such rows, is i32, or has more than `i32` counts.
pub fn rows(x: &Tensor, width: usize, indices: impl Iterator<Item = usize>) -> Result<Tensor> {
    let table = x.reshape(&[x.len() / width.max(1), width])?;
    // An index beyond i32 becomes one that no row has; `embedding` gives zeros for it.
    let indices = indices.map(|index| i32::try_from(index).unwrap_or(-1));
    let indices: Vec<i32> = indices.collect();
    let count = indices.len();
    embedding(&table, &Tensor::from_vec(indices, &[count], &x.device())?)
}
