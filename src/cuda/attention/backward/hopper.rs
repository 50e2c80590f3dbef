//! The kernels for compute capability 9.0 exactly: when they fit, and the tensor maps that they take.

use super::families::{Family, Role};
use crate::cuda::attention::warpgroups::{self, GROUP_ROWS};
use crate::cuda::tensor_map::{Tensor, TensorMap};
use crate::cuda::{Properties, image};
use crate::dtype::DType;
use crate::error::Result;
use crate::params::attention::{Geometry, GradientLayouts};

const KEYS_IMAGE: &str = "attention/backward_keys_sm90";
const QUERIES_IMAGE: &str = "attention/backward_queries_sm90";
const SHORT_IMAGE: &str = "attention/backward_short_sm90";

/// Warpgroups of a block with rows; another one copies.
const GROUPS: usize = 2;
const WARPS: usize = 4 * (GROUPS + 1);

/// Shared memory of a block, as `Shared90` in `kernels/attention/backward_sm90.cuh` has it: `units` times 64
/// rows of two tensors, `stages` tiles of `columns` of two others with `statistics` numbers a column, two
/// barriers a stage and one.
const fn shared_bytes(
    dim: usize,
    units: usize,
    columns: usize,
    stages: usize,
    statistics: usize,
) -> usize {
    let rows = 2 * units * GROUP_ROWS * dim * 2;
    let stage = 2 * columns * dim * 2 + statistics * columns * size_of::<f32>();
    rows + stages * (stage + 16) + 8
}

/// The kernels; those of keys have two statistics a query.
pub(super) const FAMILIES: [Family; 4] = [
    Family {
        role: Role::Keys,
        image: KEYS_IMAGE,
        symbols: [
            None,
            Some("attention_backward_keys_sm90_d64_f16"),
            Some("attention_backward_keys_sm90_d64_bf16"),
        ],
        columns: 64,
        tile: [GROUPS * GROUP_ROWS, 128],
        warps: WARPS,
        shared_bytes: shared_bytes(64, GROUPS, 128, 3, 2),
        reason: "sums, scores and slopes fill 192 registers of 240",
    },
    Family {
        role: Role::Keys,
        image: KEYS_IMAGE,
        symbols: [
            None,
            Some("attention_backward_keys_sm90_d128_f16"),
            Some("attention_backward_keys_sm90_d128_bf16"),
        ],
        columns: 128,
        tile: [GROUPS * GROUP_ROWS, 64],
        warps: WARPS,
        shared_bytes: shared_bytes(128, GROUPS, 64, 3, 2),
        reason: "sums, scores and slopes fill 192 registers of 240",
    },
    Family {
        role: Role::Queries,
        image: QUERIES_IMAGE,
        symbols: [
            None,
            Some("attention_backward_queries_sm90_d64_f16"),
            Some("attention_backward_queries_sm90_d64_bf16"),
        ],
        columns: 64,
        tile: [GROUPS * GROUP_ROWS, 128],
        warps: WARPS,
        shared_bytes: shared_bytes(64, GROUPS, 128, 3, 0),
        reason: "sums, scores and slopes fill 160 registers of 240",
    },
    Family {
        role: Role::Queries,
        image: QUERIES_IMAGE,
        symbols: [
            None,
            Some("attention_backward_queries_sm90_d128_f16"),
            Some("attention_backward_queries_sm90_d128_bf16"),
        ],
        columns: 128,
        tile: [GROUPS * GROUP_ROWS, 128],
        warps: WARPS,
        shared_bytes: shared_bytes(128, GROUPS, 128, 2, 0),
        reason: "sums, scores and slopes fill 192 registers of 240",
    },
];

/// Keys of a block that holds all of a head: two units of 64 a warpgroup.
const SHORT_KEYS: usize = 256;
/// Fewest keys beyond which both warpgroups have two units, or one and a part. Up to here several blocks
/// for any GPU fit a multiprocessor, and this one's memory is empty.
const FEW_KEYS: usize = 128;
const SHORT_QUERIES: usize = 128;

/// The kernels of short sequences.
pub(super) const SHORT: Family = Family {
    role: Role::All,
    image: SHORT_IMAGE,
    symbols: [
        None,
        Some("attention_backward_short_sm90_f16"),
        Some("attention_backward_short_sm90_bf16"),
    ],
    columns: 64,
    tile: [SHORT_KEYS, SHORT_QUERIES],
    warps: WARPS,
    // And the gradients of the scores.
    shared_bytes: shared_bytes(64, SHORT_KEYS / GROUP_ROWS, SHORT_QUERIES, 2, 2)
        .next_multiple_of(1024)
        + SHORT_KEYS * SHORT_QUERIES * 2,
    reason: "all keys of a head in a block: each tensor is moved once",
};

/// Most columns of these kernels.
const COLUMNS: usize = 128;

/// Whether the GPU has kernels of its own for this type.
pub(super) fn is_concerned(gpu: &Properties, dtype: DType) -> bool {
    gpu.compute_capability == (9, 0) && dtype.size() == 2
}

/// Why a GPU of compute capability 9.0 does not take these kernels; `None` where it does. `short`: a block
/// may hold all keys of a head.
pub(super) fn refusal(
    geometry: &Geometry,
    gradients: &GradientLayouts,
    short: bool,
) -> Option<&'static str> {
    let images = [KEYS_IMAGE, QUERIES_IMAGE, SHORT_IMAGE];
    let built = images.into_iter().all(image::is_built);
    if short && geometry.keys <= FEW_KEYS {
        Some("few keys")
    } else if geometry.head_dim > COLUMNS {
        Some("no registers for the sums of 256 columns")
    } else if image::toolkit().absent.is_none() && !built {
        Some("not built for sm_90a")
    } else if !tensors(geometry, gradients).iter().all(Tensor::has_map) {
        Some("no tensor map for these extents or strides")
    } else {
        None
    }
}

/// Tokens of a box of queries (and output gradients) and of one of keys (and values); `None` for kernels
/// that take no tensor maps.
pub(super) fn boxes(family: &Family) -> Option<[usize; 2]> {
    match family.image {
        KEYS_IMAGE => Some([family.tile[1], GROUP_ROWS]),
        SHORT_IMAGE => Some([SHORT_QUERIES, GROUP_ROWS]),
        QUERIES_IMAGE => Some([GROUP_ROWS, family.tile[1]]),
        _ => None,
    }
}

/// Queries, keys, values and output gradients as tensor maps see them.
fn tensors(geometry: &Geometry, gradients: &GradientLayouts) -> [Tensor; 4] {
    let [q, k, v] = warpgroups::tensors(geometry);
    let dout = warpgroups::tensor(&gradients.dout, geometry.query_extents());
    [q, k, v, dout]
}

/// Tensor maps of queries, keys, values and output gradients, which start at these addresses.
pub(super) fn maps(
    geometry: &Geometry,
    gradients: &GradientLayouts,
    dtype: DType,
    [queries, keys]: [usize; 2],
    addresses: [u64; 4],
) -> Result<[TensorMap; 4]> {
    let tensors = tensors(geometry, gradients);
    let boxes = [queries, keys, keys, queries];
    let map = |i: usize| TensorMap::new(addresses[i], dtype, &tensors[i], boxes[i] as u32);
    Ok([map(0)?, map(1)?, map(2)?, map(3)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_a_multiprocessor() {
        let bytes = FAMILIES.map(|family| family.shared_bytes);
        assert_eq!(bytes, [134_200, 165_432, 131_128, 196_648]);
        assert_eq!(SHORT.shared_bytes, 199_680);
        assert!(bytes.iter().all(|bytes| *bytes <= 227 * 1024));
    }
}
