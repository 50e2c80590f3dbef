//! The kernels of the backward pass, and how each is laid over the GPU.

use super::scalars::STATISTICS_GROUP;
use crate::cuda::attention::scalars::Blocks;
use crate::cuda::launch::{Kernel, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::params::attention::Geometry;
use std::fmt;

/// What a stage writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Statistics of the queries.
    Rows,
    /// Gradients of keys and values, or one of them.
    Keys,
    /// Gradient of the queries.
    Queries,
    /// Gradient of the bias.
    Bias,
}

/// Kernels of one stage, which differ in the type of elements.
#[derive(Debug)]
struct Family {
    role: Role,
    image: &'static str,
    /// Of f32, f16 and bf16; a family may serve f32 alone, or not.
    symbols: [Option<&'static str>; 3],
    /// Head dimensions that it serves, up to here.
    columns: usize,
    /// Rows of a block, and columns of a tile that is streamed past them.
    tile: [usize; 2],
    warps: usize,
    shared_bytes: usize,
    reason: &'static str,
}

/// Bytes of a 16-bit element.
const HALF: usize = 2;
/// Bytes of a statistic.
const STATISTIC: usize = size_of::<f32>();

/// Shared memory of a block that owns `rows` rows of two tensors, and has `columns` of two others
/// copied into one of two stages while it uses the other, with `statistics` numbers a column.
const fn streamed(dim: usize, [rows, columns]: [usize; 2], statistics: usize) -> usize {
    let stage = 2 * columns * dim * HALF + statistics * columns * STATISTIC;
    2 * rows * dim * HALF + 2 * stage
}

const KEYS: &str = "attention/backward_keys_sm80";
const QUERIES: &str = "attention/backward_queries_sm80";

const SHARED_OPERANDS: &str = "32 rows a warp, so that an operand from shared memory serves two \
                               products";
const REGISTERS: &str = "the sums of 16 rows a warp fill 128 registers";

const FAMILIES: [Family; 8] = [
    Family {
        role: Role::Rows,
        image: "attention/backward_rows",
        symbols: [
            Some("attention_backward_rows_f32"),
            Some("attention_backward_rows_f16"),
            Some("attention_backward_rows_bf16"),
        ],
        columns: 256,
        tile: [STATISTICS_GROUP, 0],
        warps: 4,
        shared_bytes: 0,
        reason: "a group of statistics a block",
    },
    Family {
        role: Role::Keys,
        image: KEYS,
        symbols: [
            None,
            Some("attention_backward_keys_d64_f16"),
            Some("attention_backward_keys_d64_bf16"),
        ],
        columns: 64,
        tile: [128, 64],
        warps: 4,
        shared_bytes: streamed(64, [128, 64], 2),
        reason: SHARED_OPERANDS,
    },
    Family {
        role: Role::Keys,
        image: KEYS,
        symbols: [
            None,
            Some("attention_backward_keys_d128_f16"),
            Some("attention_backward_keys_d128_bf16"),
        ],
        columns: 128,
        tile: [128, 32],
        warps: 8,
        shared_bytes: streamed(128, [128, 32], 2),
        reason: REGISTERS,
    },
    Family {
        role: Role::Keys,
        image: KEYS,
        symbols: [
            None,
            Some("attention_backward_dk_d256_f16"),
            Some("attention_backward_dk_d256_bf16"),
        ],
        columns: 256,
        tile: [64, 16],
        warps: 4,
        shared_bytes: streamed(256, [64, 16], 2),
        reason: "the sums of 16 rows of dk alone fill 128 registers",
    },
    Family {
        role: Role::Keys,
        image: KEYS,
        symbols: [
            None,
            Some("attention_backward_dv_d256_f16"),
            Some("attention_backward_dv_d256_bf16"),
        ],
        columns: 256,
        tile: [64, 16],
        warps: 4,
        shared_bytes: streamed(256, [64, 16], 2),
        reason: "the sums of 16 rows of dv alone fill 128 registers",
    },
    Family {
        role: Role::Queries,
        image: QUERIES,
        symbols: [
            None,
            Some("attention_backward_queries_d64_f16"),
            Some("attention_backward_queries_d64_bf16"),
        ],
        columns: 64,
        tile: [128, 64],
        warps: 4,
        shared_bytes: streamed(64, [128, 64], 0),
        reason: SHARED_OPERANDS,
    },
    Family {
        role: Role::Queries,
        image: QUERIES,
        symbols: [
            None,
            Some("attention_backward_queries_d128_f16"),
            Some("attention_backward_queries_d128_bf16"),
        ],
        columns: 128,
        tile: [128, 32],
        warps: 4,
        shared_bytes: streamed(128, [128, 32], 0),
        reason: SHARED_OPERANDS,
    },
    Family {
        role: Role::Queries,
        image: QUERIES,
        symbols: [
            None,
            Some("attention_backward_queries_d256_f16"),
            Some("attention_backward_queries_d256_bf16"),
        ],
        columns: 256,
        tile: [64, 16],
        warps: 4,
        shared_bytes: streamed(256, [64, 16], 0),
        reason: REGISTERS,
    },
];

/// Every kernel of the backward pass.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    FAMILIES.iter().flat_map(|family| {
        let image = family.image;
        let symbols = family.symbols.into_iter().flatten();
        symbols.map(move |symbol| Kernel { image, symbol })
    })
}

/// One launch of a plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub role: Role,
    pub blocks: Blocks,
    pub launch: Launch,
    tile: [usize; 2],
    reason: &'static str,
}

impl Stage {
    /// The stages of a problem, in order.
    pub(super) fn all(geometry: &Geometry, dtype: DType, dbias: bool) -> Result<Vec<Self>> {
        let place = match dtype {
            DType::F16 => 1,
            DType::BF16 => 2,
            _ => 0,
        };
        let serving = |family: &&Family| {
            family.symbols[place].is_some()
                && geometry.head_dim <= family.columns
                && (family.role != Role::Bias || dbias)
        };
        let narrowest = |role| {
            let of_role = FAMILIES.iter().filter(serving);
            of_role
                .filter(move |family| family.role == role)
                .map(|family| family.columns)
                .min()
        };
        FAMILIES
            .iter()
            .filter(serving)
            .filter(|family| narrowest(family.role) == Some(family.columns))
            .map(|family| Self::new(family, geometry, family.symbols[place].unwrap_or_default()))
            .collect()
    }

    fn new(family: &Family, geometry: &Geometry, symbol: &'static str) -> Result<Self> {
        let tiles = |extent: usize, side: usize| extent.div_ceil(family.tile[side].max(1));
        let (queries, keys) = (geometry.queries, geometry.keys);
        let [batch, heads, tiles] = match family.role {
            Role::Rows | Role::Queries => [geometry.batch, geometry.heads, tiles(queries, 0)],
            Role::Keys => [geometry.batch, geometry.kv_heads, tiles(keys, 0)],
            Role::Bias => {
                let [batch, heads] = geometry.bias.unwrap_or([0, 0]);
                [
                    batch,
                    heads,
                    tiles(queries, 0).saturating_mul(tiles(keys, 1)),
                ]
            }
        };
        let (blocks, count) = Blocks::new(batch, heads, tiles)?;
        let kernel = Kernel {
            image: family.image,
            symbol,
        };
        Ok(Self {
            role: family.role,
            blocks,
            launch: Launch {
                kernel,
                grid: [count, 1, 1],
                block: [32 * family.warps as u32, 1, 1],
                shared_bytes: family.shared_bytes as u32,
            },
            tile: family.tile,
            reason: family.reason,
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.tile;
        write!(f, "{}: {rows} ", self.launch)?;
        match self.role {
            Role::Rows => write!(f, "queries a block")?,
            Role::Keys => write!(f, "keys a block, {columns} queries a tile")?,
            Role::Queries => write!(f, "queries a block, {columns} keys a tile")?,
            Role::Bias => write!(f, "queries by {columns} keys a block")?,
        }
        write!(f, " ({})", self.reason)
    }
}
