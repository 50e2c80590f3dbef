//! What the kernels for compute capability 9.0 exactly have in common.

use crate::cuda::tensor_map::Tensor;
use crate::params::attention::{Geometry, Layout};

/// Threads of a warpgroup.
pub(super) const WARPGROUP: usize = 128;
/// Rows of a warpgroup: the M of wgmma.
pub(super) const GROUP_ROWS: usize = 64;

/// A tensor of tokens as tensor maps see it; extents as [`Geometry::query_extents`] has them.
pub(super) fn tensor(layout: &Layout, [batch, tokens, heads, columns]: [usize; 4]) -> Tensor {
    Tensor {
        extents: [columns, tokens, heads, batch],
        strides: [layout.token, layout.head, layout.batch],
    }
}

/// Queries, keys and values.
pub(super) fn tensors(geometry: &Geometry) -> [Tensor; 3] {
    let (queries, keys) = (geometry.query_extents(), geometry.key_extents());
    [
        tensor(&geometry.q, queries),
        tensor(&geometry.k, keys),
        tensor(&geometry.v, keys),
    ]
}
