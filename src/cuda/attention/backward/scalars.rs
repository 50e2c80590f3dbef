//! What the kernels of the backward pass take beside their buffers.

use crate::cuda::attention::scalars::{Scalars, Strides};
use crate::params::Attention;
use crate::params::attention::{Geometry, GradientLayouts};
use cudarc::driver::DeviceRepr;

/// Queries whose statistics are kept together. Mirrors `kStatisticsGroup` in
/// `kernels/attention/backward_scalars.cuh`.
pub(super) const STATISTICS_GROUP: usize = 128;

/// Mirrors `BackwardScalars` in `kernels/attention/backward_scalars.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BackwardScalars {
    forward: Scalars,
    dout: Strides,
    dq: Strides,
    dk: Strides,
    dv: Strides,
    statistics: i64,
}

const _: () = {
    assert!(size_of::<BackwardScalars>() == size_of::<Scalars>() + 104);
    assert!(std::mem::offset_of!(BackwardScalars, statistics) == size_of::<Scalars>() + 96);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert; no padding.
unsafe impl DeviceRepr for BackwardScalars {}

impl BackwardScalars {
    /// Scalars of a geometry, layouts and parameters that were checked.
    pub(super) fn new(
        geometry: &Geometry,
        gradients: &GradientLayouts,
        params: &Attention,
    ) -> Self {
        let packed = geometry.packed.is_some();
        Self {
            forward: Scalars::new(geometry, params),
            dout: Strides::new(&gradients.dout, packed),
            dq: Strides::new(&gradients.dq, packed),
            dk: Strides::new(&gradients.dk, packed),
            dv: Strides::new(&gradients.dv, packed),
            statistics: statistics_of_head(geometry) as i64,
        }
    }
}

/// Statistics of one head: whole groups; where sequences are packed, one more for each, so that
/// none begins in another's.
fn statistics_of_head(geometry: &Geometry) -> usize {
    match geometry.packed {
        Some([queries, _]) => (queries / STATISTICS_GROUP + geometry.batch) * STATISTICS_GROUP,
        None => geometry.queries.next_multiple_of(STATISTICS_GROUP),
    }
}

/// Statistics of one kind: as many as there are places for queries.
pub(super) fn statistics(geometry: &Geometry) -> usize {
    let batch = if geometry.packed.is_some() {
        1
    } else {
        geometry.batch
    };
    batch * geometry.heads * statistics_of_head(geometry)
}
