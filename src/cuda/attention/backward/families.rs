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

const SHARED_OPERANDS: &str =
    "32 rows a warp, so that an operand from shared memory serves two products";
const REGISTERS: &str = "the sums of 16 rows a warp fill 128 registers";
const ONE_GRADIENT: &str = "the sums of 16 rows of one gradient alone fill 128 registers";
const NARROW_SCORES: &str = "the sums of 16 rows a warp leave room for 32 columns of scores";
const SCORES: &str = "sums, scores and their gradient fill 96 registers";
const MEMORY: &str = "what 99 KiB of shared memory hold";

/// A stage's symbols in 16-bit types.
macro_rules! halves {
    ($stage:literal) => {
        [
            None,
            Some(concat!("attention_backward_", $stage, "_f16")),
            Some(concat!("attention_backward_", $stage, "_bf16")),
        ]
    };
}

/// A stage's symbol in f32.
macro_rules! single {
    ($stage:literal) => {
        [
            Some(concat!("attention_backward_", $stage, "_f32")),
            None,
            None,
        ]
    };
}

type Symbols = [Option<&'static str>; 3];

impl Family {
    /// Owns keys and streams queries with their two statistics, or owns queries and streams keys.
    const fn streaming(
        role: Role,
        symbols: Symbols,
        columns: usize,
        tile: [usize; 2],
        warps: usize,
        reason: &'static str,
    ) -> Self {
        let (image, statistics) = match role {
            Role::Keys => ("attention/backward_keys_sm80", 2),
            _ => ("attention/backward_queries_sm80", 0),
        };
        Self {
            role,
            image,
            symbols,
            columns,
            tile,
            warps,
            shared_bytes: streamed(columns, tile, statistics),
            reason,
        }
    }

    /// Owns a tile of the bias.
    const fn bias(
        symbols: Symbols,
        columns: usize,
        tile: [usize; 2],
        reason: &'static str,
    ) -> Self {
        Self {
            role: Role::Bias,
            image: "attention/backward_bias_sm80",
            symbols,
            columns,
            tile,
            warps: 4,
            shared_bytes: whole(columns, tile),
            reason,
        }
    }

    /// In f32: two tensors of a tile's rows and two of its columns lie in shared memory whole.
    const fn floats(role: Role, symbols: Symbols, columns: usize) -> Self {
        let (tile, groups) = match columns {
            64 => ([64, 32], 16),
            128 => ([64, 16], 16),
            _ => ([32, 8], 8),
        };
        Self {
            role,
            image: "attention/backward_f32",
            symbols,
            columns,
            tile,
            warps: 8,
            shared_bytes: floats(columns, tile, groups),
            reason: MEMORY,
        }
    }
}

const ROWS: Family = Family {
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
};

pub(super) const FAMILIES: [Family; 20] = [
    ROWS,
    Family::streaming(
        Role::Keys,
        halves!("keys_d64"),
        64,
        [128, 64],
        4,
        SHARED_OPERANDS,
    ),
    Family::streaming(
        Role::Keys,
        halves!("keys_d128"),
        128,
        [128, 32],
        8,
        REGISTERS,
    ),
    Family::streaming(
        Role::Keys,
        halves!("dk_d256"),
        256,
        [64, 16],
        4,
        ONE_GRADIENT,
    ),
    Family::streaming(
        Role::Keys,
        halves!("dv_d256"),
        256,
        [64, 16],
        4,
        ONE_GRADIENT,
    ),
    Family::streaming(
        Role::Queries,
        halves!("queries_d64"),
        64,
        [128, 64],
        4,
        SHARED_OPERANDS,
    ),
    Family::streaming(
        Role::Queries,
        halves!("queries_d128"),
        128,
        [128, 32],
        8,
        NARROW_SCORES,
    ),
    Family::streaming(
        Role::Queries,
        halves!("queries_d256"),
        256,
        [64, 16],
        4,
        REGISTERS,
    ),
    Family::bias(halves!("bias_d64"), 64, [64, 64], SCORES),
    Family::bias(halves!("bias_d128"), 128, [64, 64], SCORES),
    Family::bias(halves!("bias_d256"), 256, [64, 32], MEMORY),
    Family::floats(Role::Keys, single!("keys_d64"), 64),
    Family::floats(Role::Keys, single!("keys_d128"), 128),
    Family::floats(Role::Keys, single!("keys_d256"), 256),
    Family::floats(Role::Queries, single!("queries_d64"), 64),
    Family::floats(Role::Queries, single!("queries_d128"), 128),
    Family::floats(Role::Queries, single!("queries_d256"), 256),
    Family::floats(Role::Bias, single!("bias_d64"), 64),
    Family::floats(Role::Bias, single!("bias_d128"), 128),
    Family::floats(Role::Bias, single!("bias_d256"), 256),
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
