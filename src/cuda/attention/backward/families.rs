//! The kernels of the backward pass, and the tiles that each is made for.

use super::scalars::STATISTICS_GROUP;

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
    /// Gradients of queries, keys and values.
    All,
}

/// Kernels of one stage, which differ in the type of elements.
#[derive(Debug)]
pub(super) struct Family {
    pub role: Role,
    pub image: &'static str,
    /// Of f32, f16 and bf16; a family may serve f32 alone, or not.
    pub symbols: [Option<&'static str>; 3],
    /// Head dimensions that it serves, up to here.
    pub columns: usize,
    /// Rows of a block, and columns of a tile that is streamed past them.
    pub tile: [usize; 2],
    pub warps: usize,
    pub shared_bytes: usize,
    pub reason: &'static str,
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

/// Shared memory of a block of f32: `rows` rows of two tensors, `columns` of two others, 4 more
/// elements in each; and two weights a pair, the rows padded by what `groups` of columns share.
const fn floats(dim: usize, [rows, columns]: [usize; 2], groups: usize) -> usize {
    let vectors = 2 * (rows + columns) * (dim + 4);
    (vectors + 2 * columns * (rows + 32 / groups)) * size_of::<f32>()
}

/// Shared memory of a block that owns a tile of the bias: two tensors of its rows and two of its
/// columns.
const fn whole(dim: usize, [rows, columns]: [usize; 2]) -> usize {
    2 * (rows + columns) * dim * HALF
}

const KEYS: &str = "attention/backward_keys_sm80";
const QUERIES: &str = "attention/backward_queries_sm80";
const BIAS: &str = "attention/backward_bias_sm80";
const FLOATS: &str = "attention/backward_f32";

const SHARED_OPERANDS: &str =
    "32 rows a warp, so that an operand from shared memory serves two products";
const REGISTERS: &str = "the sums of 16 rows a warp fill 128 registers";
const SCORES: &str = "sums, scores and their gradient fill 96 registers";
const MEMORY: &str = "what 99 KiB of shared memory hold";

pub(super) const FAMILIES: [Family; 20] = [
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
        warps: 8,
        shared_bytes: streamed(128, [128, 32], 0),
        reason: "the sums of 16 rows a warp leave room for 32 columns of scores",
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
    Family {
        role: Role::Bias,
        image: BIAS,
        symbols: [
            None,
            Some("attention_backward_bias_d64_f16"),
            Some("attention_backward_bias_d64_bf16"),
        ],
        columns: 64,
        tile: [64, 64],
        warps: 4,
        shared_bytes: whole(64, [64, 64]),
        reason: SCORES,
    },
    Family {
        role: Role::Bias,
        image: BIAS,
        symbols: [
            None,
            Some("attention_backward_bias_d128_f16"),
            Some("attention_backward_bias_d128_bf16"),
        ],
        columns: 128,
        tile: [64, 64],
        warps: 4,
        shared_bytes: whole(128, [64, 64]),
        reason: SCORES,
    },
    Family {
        role: Role::Bias,
        image: BIAS,
        symbols: [
            None,
            Some("attention_backward_bias_d256_f16"),
            Some("attention_backward_bias_d256_bf16"),
        ],
        columns: 256,
        tile: [64, 32],
        warps: 4,
        shared_bytes: whole(256, [64, 32]),
        reason: MEMORY,
    },
    Family {
        role: Role::Keys,
        image: FLOATS,
        symbols: [Some("attention_backward_keys_d64_f32"), None, None],
        columns: 64,
        tile: [64, 32],
        warps: 8,
        shared_bytes: floats(64, [64, 32], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Keys,
        image: FLOATS,
        symbols: [Some("attention_backward_keys_d128_f32"), None, None],
        columns: 128,
        tile: [64, 16],
        warps: 8,
        shared_bytes: floats(128, [64, 16], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Keys,
        image: FLOATS,
        symbols: [Some("attention_backward_keys_d256_f32"), None, None],
        columns: 256,
        tile: [32, 8],
        warps: 8,
        shared_bytes: floats(256, [32, 8], 8),
        reason: MEMORY,
    },
    Family {
        role: Role::Queries,
        image: FLOATS,
        symbols: [Some("attention_backward_queries_d64_f32"), None, None],
        columns: 64,
        tile: [64, 32],
        warps: 8,
        shared_bytes: floats(64, [64, 32], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Queries,
        image: FLOATS,
        symbols: [Some("attention_backward_queries_d128_f32"), None, None],
        columns: 128,
        tile: [64, 16],
        warps: 8,
        shared_bytes: floats(128, [64, 16], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Queries,
        image: FLOATS,
        symbols: [Some("attention_backward_queries_d256_f32"), None, None],
        columns: 256,
        tile: [32, 8],
        warps: 8,
        shared_bytes: floats(256, [32, 8], 8),
        reason: MEMORY,
    },
    Family {
        role: Role::Bias,
        image: FLOATS,
        symbols: [Some("attention_backward_bias_d64_f32"), None, None],
        columns: 64,
        tile: [64, 32],
        warps: 8,
        shared_bytes: floats(64, [64, 32], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Bias,
        image: FLOATS,
        symbols: [Some("attention_backward_bias_d128_f32"), None, None],
        columns: 128,
        tile: [64, 16],
        warps: 8,
        shared_bytes: floats(128, [64, 16], 16),
        reason: MEMORY,
    },
    Family {
        role: Role::Bias,
        image: FLOATS,
        symbols: [Some("attention_backward_bias_d256_f32"), None, None],
        columns: 256,
        tile: [32, 8],
        warps: 8,
        shared_bytes: floats(256, [32, 8], 8),
        reason: MEMORY,
    },
];

/// The kernels of short sequences. A block is as large as the keys of a head.
pub(super) const SHORT: Family = Family {
    role: Role::All,
    image: "attention/backward_short_sm80",
    symbols: [
        None,
        Some("attention_backward_short_f16"),
        Some("attention_backward_short_bf16"),
    ],
    columns: 64,
    // 16 warps of 16 keys leave 128 registers a thread, 64 of them for sums.
    tile: [256, 64],
    warps: 16,
    shared_bytes: short_bytes(256),
    reason: "all keys of a head in a block: each tensor is moved once",
};

/// Shared memory of a block that holds `keys` keys, their values and 64 gradients of scores each,
/// and two stages of 64 queries.
pub(super) const fn short_bytes(keys: usize) -> usize {
    streamed(64, [keys, 64], 2) + keys * 64 * HALF
}
