//! How a pair of corner pools is laid over the GPU.

use super::super::corner_pool::{self, Pass};
use super::super::launch::{Kernel, Launch};
use super::super::workspace;
use super::OP;
use crate::dtype::DType;
use crate::error::Result;
use crate::params::{Corner, Layout, Scan};
use cudarc::driver::DeviceRepr;
use std::fmt;

const FORWARD_IMAGE: &str = "corner_pool/pair";
const BACKWARD_IMAGE: &str = "corner_pool/pair_backward";
/// By type: f32, f16, bf16.
const FORWARD: [&str; 3] = [
    "corner_pool_pair_forward_f32",
    "corner_pool_pair_forward_f16",
    "corner_pool_pair_forward_bf16",
];
const BACKWARD: [&str; 3] = [
    "corner_pool_pair_backward_f32",
    "corner_pool_pair_backward_f16",
    "corner_pool_pair_backward_bf16",
];

/// Threads of a block.
const THREADS: u32 = 256;
/// Pixels of a tile, each way: with a tile a block, CornerNet's maps of one image fill a GPU, and carries
/// are a vector in 16.
const SIDE: usize = 32;
/// Vectors of 16 bytes of a tile's pixel: two sectors.
const LANES: usize = 4;
const VECTOR_BYTES: usize = 16;
/// A tile of vectors, its rows padded by a pixel against bank conflicts.
const SHARED_BYTES: usize = SIDE * (SIDE + 1) * LANES * VECTOR_BYTES;

/// Every kernel of the op that is not [`corner_pool`]'s.
pub(in super::super) fn kernels() -> impl Iterator<Item = Kernel> {
    let kernel = |image| move |symbol| Kernel { image, symbol };
    let forward = FORWARD.into_iter().map(kernel(FORWARD_IMAGE));
    forward.chain(BACKWARD.into_iter().map(kernel(BACKWARD_IMAGE)))
}

/// How a pass over a pair of maps is laid over the GPU. It depends on shape and type alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The vertical and the horizontal pool, for maps that the one launch does not take.
    pub(super) pools: [corner_pool::Plan; 2],
    pub(super) dtype: DType,
    pub(super) pass: Pass,
    pub(super) one: Option<One>,
}

/// The one launch over both maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct One {
    pub(super) scalars: PairScalars,
    pub(super) launch: Launch,
    carry_bytes: usize,
}

impl Plan {
    /// Plans a pass over maps of `shape` in the order of `layout`.
    ///
    /// # Errors
    /// As [`corner_pool::Plan::new`].
    pub fn new(
        shape: [usize; 4],
        corner: Corner,
        layout: Layout,
        dtype: DType,
        pass: Pass,
    ) -> Result<Self> {
        let pool = |direction| {
            let scan = Scan::new(shape, direction, layout);
            corner_pool::Plan::new(scan, dtype, pass)
        };
        let pools = [pool(corner.vertical())?, pool(corner.horizontal())?];
        let one = match layout {
            Layout::ChannelsLast => One::new(shape, corner, dtype, pass),
            Layout::ChannelsFirst => None,
        };
        Ok(Self {
            pools,
            dtype,
            pass,
            one,
        })
    }

    /// Bytes of workspace: a ticket, a flag a tile, and its maxima.
    pub fn workspace_bytes(&self) -> usize {
        self.one
            .as_ref()
            .map_or(0, |one| one.control_bytes() + one.carry_bytes)
    }

    /// The scans of the vertical and of the horizontal map.
    pub fn scans(&self) -> [&Scan; 2] {
        self.pools.each_ref().map(corner_pool::Plan::scan)
    }
}

impl One {
    /// None where a pixel is not whole vectors, or there are no tiles or more than a launch takes.
    fn new(
        [batch, height, width, channels]: [usize; 4],
        corner: Corner,
        dtype: DType,
        pass: Pass,
    ) -> Option<Self> {
        let (image, symbols) = match pass {
            Pass::Forward => (FORWARD_IMAGE, FORWARD),
            Pass::Backward => (BACKWARD_IMAGE, BACKWARD),
        };
        let symbol = match dtype {
            DType::F32 => symbols[0],
            DType::F16 => symbols[1],
            DType::BF16 => symbols[2],
            DType::I32 => return None,
        };
        let bytes = channels * dtype.size();
        let vectors = bytes / VECTOR_BYTES;
        let (tiles_y, tiles_x) = (height.div_ceil(SIDE), width.div_ceil(SIDE));
        let strips = vectors.div_ceil(LANES);
        let tiles = batch * tiles_y * tiles_x * strips;
        if !bytes.is_multiple_of(VECTOR_BYTES) || tiles == 0 || tiles > 1 << 30 {
            return None;
        }
        let scalars = PairScalars {
            height: height as i32,
            width: width as i32,
            vectors: vectors as i32,
            tiles_y: tiles_y as i32,
            tiles_x: tiles_x as i32,
            strips: strips as i32,
            from_end: i32::from(corner == Corner::TopLeft),
        };
        let launch = Launch {
            kernel: Kernel { image, symbol },
            grid: [tiles as u32, 1, 1],
            block: [THREADS, 1, 1],
            shared_bytes: SHARED_BYTES as u32,
        };
        // A column of a tile has a vector of maxima, or an f32 sum an element and a word.
        let of_column = match pass {
            Pass::Forward => VECTOR_BYTES,
            Pass::Backward => 4 * VECTOR_BYTES / dtype.size() + 4,
        };
        Some(Self {
            scalars,
            launch,
            carry_bytes: workspace::piece(2 * SIDE * LANES * of_column * tiles),
        })
    }

    fn tiles(&self) -> usize {
        self.launch.grid[0] as usize
    }

    pub(super) fn control_bytes(&self) -> usize {
        workspace::piece(4 * (1 + self.tiles()))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = 3 * self.scans()[0].elements() * self.dtype.size();
        match &self.one {
            Some(one) => write!(
                f,
                "{OP}: {bytes} bytes at least\n  {}: {SIDE} x {SIDE} pixels by {} bytes a tile (two \
                 sectors), {} bytes of carries between tiles",
                one.launch,
                LANES * VECTOR_BYTES,
                one.carry_bytes
            ),
            None => write!(
                f,
                "{OP}: {bytes} bytes at least, 2 launches, as pixels are not whole vectors\n{}\n{}",
                self.pools[0], self.pools[1]
            ),
        }
    }
}

/// The kernels' scalars. Mirrors `PairScalars` in `kernels/common/tile.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PairScalars {
    height: i32,
    width: i32,
    vectors: i32,
    tiles_y: i32,
    tiles_x: i32,
    strips: i32,
    from_end: i32,
}

const _: () = assert!(size_of::<PairScalars>() == 28);

// SAFETY: plain numbers in the kernel's layout, which both sides assert.
unsafe impl DeviceRepr for PairScalars {}
