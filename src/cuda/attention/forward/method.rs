//! Which kernel a problem takes, and why.

use super::hopper::{self, Tiles};
use super::hopper_short::ShortTiles;
use super::symbols::{
    COMBINE, F32_IMAGE, SHORT, SHORT_IMAGE, SPLIT, SPLIT_IMAGE, TILED, TILED_IMAGE,
};
use crate::cuda::Properties;
use crate::cuda::attention::scalars::Blocks;
use crate::cuda::attention::warpgroups::GROUP_ROWS;
use crate::cuda::launch::{Kernel, Launch};
use crate::cuda::workspace;
use crate::dtype::DType;
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::Geometry;
use std::fmt;

const WARP: usize = 32;
/// Keys of a tile: the scores of 32 queries take 64 registers of a lane, beside 128 of the output
/// at D = 128.
const TILE_KEYS: usize = 64;
/// Rows of a product of a warp.
const FRAGMENT_ROWS: usize = 16;
/// Most warps of a block of the 16-bit kernels.
const WARPS: usize = 4;
/// Warps of a multiprocessor at the short kernel's 128 registers a lane.
const SHORT_WARPS: usize = 16;
/// Most queries that are worth splitting their keys for: one fragment of rows without groups.
const SPLIT_QUERIES: usize = 16;
/// Fewest keys worth splitting: below, eight tiles of one block take less than a second launch.
const SPLIT_KEYS: usize = 512;
/// Most keys that one tile of 128 keys would hold too little of: memory is what limits them, and steps
/// of 16 keys waste less.
const SHORT_KEYS: usize = 128;
/// Fewest keys of a warp's share: two tiles, so that the one's copies hide behind the other.
const SHARE_KEYS: usize = 2 * TILE_KEYS;
/// What the runtime keeps of a multiprocessor's shared memory for each block, in bytes.
const RESERVED_BYTES: usize = 1024;

/// The columns that a head dimension is padded to, as the kernels are instantiated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    C64,
    C128,
    C256,
}

impl Columns {
    pub(super) fn of(head_dim: usize) -> Self {
        match head_dim {
            0..=64 => Self::C64,
            65..=128 => Self::C128,
            _ => Self::C256,
        }
    }

    pub(super) fn count(self) -> usize {
        64 << self as usize
    }

    /// Bytes of a row of 16-bit elements.
    pub(super) fn row_bytes(self) -> usize {
        self.count() * 2
    }
}

/// Which kernel, with what it is launched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Blocks of four warps go over tiles of keys.
    Tiled { columns: Columns },
    /// The same by wgmma and tensor copies, in blocks that stay.
    Hopper(Tiles),
    /// One tile of keys by wgmma.
    HopperShort(ShortTiles),
    /// The same on the f32 units.
    F32 { columns: Columns },
    /// A block holds all keys of a head, and its warps take 16 queries at a time.
    Short {
        warps: usize,
        key_rows: usize,
        splits: usize,
    },
    /// Each warp takes a share of the keys for 16 rows of (query, head).
    Split {
        columns: Columns,
        warps: usize,
        row_tiles: usize,
        splits: usize,
    },
}

impl Method {
    /// The method, and where the GPU's own is left out, why.
    pub(super) fn choose(
        gpu: &Properties,
        geometry: &Geometry,
        params: &Attention,
        dtype: DType,
    ) -> (Self, Option<&'static str>) {
        let general = Self::general(gpu, geometry, dtype);
        if gpu.compute_capability != (9, 0) || dtype == DType::F32 {
            return (general, None);
        }
        let left_out = match general {
            Self::Split { .. } => Some("few queries"),
            Self::Short { key_rows, .. } if key_rows <= SHORT_KEYS => Some("few keys"),
            _ => hopper::refusal(geometry, params),
        };
        if left_out.is_some() {
            return (general, left_out);
        }
        let columns = Columns::of(geometry.head_dim);
        let method = match ShortTiles::new(gpu, geometry, params) {
            Some(tiles) => Self::HopperShort(tiles),
            None => Self::Hopper(Tiles { columns }),
        };
        (method, None)
    }

    /// The method for any GPU.
    fn general(gpu: &Properties, geometry: &Geometry, dtype: DType) -> Self {
        let columns = Columns::of(geometry.head_dim);
        if dtype == DType::F32 {
            return Self::F32 { columns };
        }
        let heads = geometry.batch * geometry.heads;
        // Fewer blocks than are resident at a time leave multiprocessors idle; and heads that share
        // keys would read them from L2 once each.
        let idle = heads < 2 * gpu.multiprocessors as usize;
        let grouped = geometry.heads > geometry.kv_heads;
        let few = geometry.queries <= SPLIT_QUERIES && geometry.keys >= SPLIT_KEYS;
        if few && (idle || grouped) {
            return Self::split(gpu, geometry, columns);
        }
        let short = Self::short(gpu, geometry);
        // With two blocks at a time one computes while the other loads.
        let fits = 2 * (short.shared_bytes() + RESERVED_BYTES) <= multiprocessor_bytes(gpu);
        if columns == Columns::C64 && fits {
            return short;
        }
        Self::Tiled { columns }
    }

    fn short(gpu: &Properties, geometry: &Geometry) -> Self {
        let tiles = geometry.queries.div_ceil(FRAGMENT_ROWS).max(1);
        let warps = tiles.min(WARPS);
        let key_rows = geometry.keys.next_multiple_of(FRAGMENT_ROWS);
        let method = |splits| Self::Short {
            warps,
            key_rows,
            splits,
        };
        let by_memory = method(1).resident(gpu).max(1);
        let resident = by_memory.min(SHORT_WARPS / warps);
        let blocks = resident * gpu.multiprocessors as usize;
        let wanted = blocks.div_ceil((geometry.batch * geometry.heads).max(1));
        // As few blocks as keep the number of a warp's rounds.
        let rounds = tiles.div_ceil(warps * wanted);
        method(tiles.div_ceil(warps * rounds))
    }

    fn split(gpu: &Properties, geometry: &Geometry, columns: Columns) -> Self {
        let group = geometry.heads / geometry.kv_heads;
        let row_tiles = (geometry.queries * group).div_ceil(FRAGMENT_ROWS);
        // At 256 columns a warp's keys and values are 64 KiB, of 163 KiB that a block has on sm_80.
        let warps = if columns == Columns::C256 { 2 } else { WARPS };
        let method = |splits| Self::Split {
            columns,
            warps,
            row_tiles,
            splits,
        };
        let blocks = method(1).resident(gpu).max(1) * gpu.multiprocessors as usize;
        let wanted = blocks.div_ceil((geometry.batch * geometry.kv_heads * row_tiles).max(1));
        let most = geometry.keys.div_ceil(warps * SHARE_KEYS);
        method(wanted.min(most).max(1))
    }

    /// Blocks of a multiprocessor, by its shared memory.
    fn resident(self, gpu: &Properties) -> usize {
        multiprocessor_bytes(gpu) / (self.shared_bytes() + RESERVED_BYTES)
    }

    /// Queries, or rows of (query, head), of a block's tile.
    fn rows(self) -> usize {
        match self {
            // 32 of a warp, so that a fragment of keys serves two products; at 256 columns the
            // output of 32 queries would fill the register file alone.
            Self::Tiled {
                columns: Columns::C256,
            } => 64,
            Self::Tiled { .. } => 128,
            Self::Hopper(tiles) => tiles.rows(),
            Self::HopperShort(_) => GROUP_ROWS,
            Self::F32 { .. } => 64,
            Self::Short { warps, .. } => FRAGMENT_ROWS * warps,
            Self::Split { .. } => FRAGMENT_ROWS,
        }
    }

    fn shared_bytes(self) -> usize {
        match self {
            Self::Tiled { columns } => (self.rows() + 2 * TILE_KEYS) * columns.row_bytes(),
            Self::Hopper(tiles) => tiles.shared_bytes(),
            Self::HopperShort(tiles) => tiles.shared_bytes(),
            // `Layout::kBytes` in kernels/attention/forward_f32.cu.
            Self::F32 { columns } => match columns {
                Columns::C64 => 69_632,
                Columns::C128 => 118_784,
                Columns::C256 => 142_336,
            },
            Self::Short { key_rows, .. } => (self.rows() + 2 * key_rows) * Columns::C64.row_bytes(),
            Self::Split { columns, warps, .. } => {
                (self.rows() + 2 * TILE_KEYS * warps) * columns.row_bytes()
            }
        }
    }

    /// The grid and the launch.
    pub(super) fn launch(self, geometry: &Geometry, dtype: DType) -> Result<(Blocks, Launch)> {
        let variant = match dtype {
            DType::F16 => 0,
            DType::BF16 => 1,
            _ => 2,
        };
        let tiles = geometry.queries.div_ceil(self.rows());
        let heads = geometry.heads;
        let (image, symbol, warps, heads, tiles) = match self {
            Self::Tiled { columns } => {
                let symbol = TILED[columns as usize][variant];
                (TILED_IMAGE, symbol, WARPS, heads, tiles)
            }
            Self::Hopper(tiles_of) => {
                let Kernel { image, symbol } = tiles_of.kernel(dtype == DType::BF16);
                (image, symbol, tiles_of.threads() / WARP, heads, tiles)
            }
            Self::HopperShort(tiles_of) => {
                let Kernel { image, symbol } = tiles_of.kernel(dtype == DType::BF16);
                (image, symbol, tiles_of.threads() / WARP, heads, tiles)
            }
            Self::F32 { columns } => {
                let symbol = TILED[columns as usize][variant];
                (F32_IMAGE, symbol, 8, heads, tiles)
            }
            Self::Short { warps, splits, .. } => {
                (SHORT_IMAGE, SHORT[variant], warps, heads, splits)
            }
            Self::Split {
                columns,
                warps,
                row_tiles,
                splits,
            } => {
                let symbol = SPLIT[columns as usize][variant];
                let tiles = row_tiles * splits;
                (SPLIT_IMAGE, symbol, warps, geometry.kv_heads, tiles)
            }
        };
        let (blocks, count) = Blocks::new(geometry.batch, heads, tiles)?;
        let launch = Launch {
            kernel: Kernel { image, symbol },
            grid: [count, 1, 1],
            block: [(WARP * warps) as u32, 1, 1],
            shared_bytes: self.shared_bytes() as u32,
        };
        Ok((blocks, launch))
    }

    /// The second launch, which adds the shares of the keys.
    pub(super) fn combine(
        self,
        geometry: &Geometry,
        dtype: DType,
    ) -> Result<Option<(Blocks, Launch)>> {
        let Self::Split { .. } = self else {
            return Ok(None);
        };
        let (blocks, count) = Blocks::new(geometry.batch, geometry.heads, 1)?;
        let launch = Launch {
            kernel: Kernel {
                image: SPLIT_IMAGE,
                symbol: COMBINE[usize::from(dtype == DType::BF16)],
            },
            grid: [count, 1, 1],
            // A warp a query: of the few there are, four at a time.
            block: [(WARP * WARPS) as u32, 1, 1],
            shared_bytes: 0,
        };
        Ok(Some((blocks, launch)))
    }

    /// Shares of the keys.
    pub(super) fn parts(self) -> usize {
        match self {
            Self::Split { warps, splits, .. } => warps * splits,
            _ => 1,
        }
    }

    /// Bytes of workspace: partial outputs, then their weights.
    pub(super) fn partial_bytes(self, geometry: &Geometry) -> [usize; 2] {
        let Self::Split { .. } = self else {
            return [0, 0];
        };
        let parts = geometry.batch * geometry.heads * geometry.queries * self.parts();
        let outputs = parts * geometry.head_dim * size_of::<f32>();
        [
            workspace::piece(outputs),
            workspace::piece(parts * size_of::<[f32; 2]>()),
        ]
    }
}

/// Shared memory of a multiprocessor: what one block can have, and what is kept for that block.
fn multiprocessor_bytes(gpu: &Properties) -> usize {
    gpu.shared_bytes_per_block as usize + RESERVED_BYTES
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        match self {
            Self::Tiled { .. } => write!(
                f,
                "{rows} queries a block (registers), {TILE_KEYS} keys a tile, values copied during \
                 the first product and keys during the second"
            ),
            Self::Hopper(tiles) => write!(
                f,
                "{} warpgroups of 64 queries each (registers), {} keys a tile copied by one warp \
                 (shared memory), scores of one tile beside the product of the last",
                tiles.groups(),
                tiles.keys()
            ),
            Self::HopperShort(tiles) => write!(f, "{tiles}"),
            Self::F32 { .. } => write!(f, "{rows} queries a block, f32 throughout"),
            Self::Short {
                warps,
                key_rows,
                splits,
            } => write!(
                f,
                "{key_rows} keys stay in shared memory (two blocks fit), {warps} warps take \
                 {FRAGMENT_ROWS} queries at a time, blocks a head: {splits} (to fill the GPU)"
            ),
            Self::Split {
                warps,
                row_tiles,
                splits,
                ..
            } => write!(
                f,
                "{row_tiles} times {rows} rows of (query, head) a key head, {splits} times {warps} \
                 warps share the keys (to fill the GPU, at least {SHARE_KEYS} keys each)"
            ),
        }
    }
}
