//! Which kernel a problem takes, and why.

use crate::cuda::Properties;
use crate::cuda::attention::scalars::Blocks;
use crate::cuda::launch::{Kernel, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::params::attention::Geometry;
use std::fmt;

const TILED: &str = "attention/forward_sm80";
const TILED_SYMBOLS: [[&str; 2]; 3] = [
    ["attention_forward_d64_f16", "attention_forward_d64_bf16"],
    ["attention_forward_d128_f16", "attention_forward_d128_bf16"],
    ["attention_forward_d256_f16", "attention_forward_d256_bf16"],
];

/// Keys of a tile: the scores of 32 queries take 64 registers of a lane, beside 128 of the output
/// at D = 128.
const TILE_KEYS: usize = 64;

pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    let tiled = TILED_SYMBOLS.into_iter().flatten();
    tiled.map(|symbol| Kernel {
        image: TILED,
        symbol,
    })
}

/// The columns that a head dimension is padded to, as the kernels are instantiated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    C64,
    C128,
    C256,
}

impl Columns {
    fn of(head_dim: usize) -> Self {
        match head_dim {
            0..=64 => Self::C64,
            65..=128 => Self::C128,
            _ => Self::C256,
        }
    }

    fn count(self) -> usize {
        64 << self as usize
    }
}

/// Which kernel, with its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Blocks of four warps go over tiles of 64 keys.
    Tiled { columns: Columns },
}

impl Method {
    pub(super) fn choose(_gpu: &Properties, geometry: &Geometry, _dtype: DType) -> Self {
        Self::Tiled {
            columns: Columns::of(geometry.head_dim),
        }
    }

    /// Queries of a block.
    fn rows(self) -> usize {
        match self {
            // 32 of a warp, so that a fragment of keys serves two products; at 256 columns the
            // output of 32 queries would fill the register file alone.
            Self::Tiled {
                columns: Columns::C256,
            } => 64,
            Self::Tiled { .. } => 128,
        }
    }

    /// The grid and the launch.
    pub(super) fn launch(self, geometry: &Geometry, dtype: DType) -> Result<(Blocks, Launch)> {
        let Self::Tiled { columns } = self;
        let tiles = geometry.queries.div_ceil(self.rows());
        let (blocks, count) = Blocks::new(geometry.batch, geometry.heads, tiles)?;
        let shared_bytes = (self.rows() + 2 * TILE_KEYS) * columns.count() * 2;
        let symbols = TILED_SYMBOLS[columns as usize];
        let launch = Launch {
            kernel: Kernel {
                image: TILED,
                symbol: symbols[usize::from(dtype == DType::BF16)],
            },
            grid: [count, 1, 1],
            block: [128, 1, 1],
            shared_bytes: shared_bytes as u32,
        };
        Ok((blocks, launch))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        write!(f, "{rows} queries a block, {TILE_KEYS} keys a tile")
    }
}
