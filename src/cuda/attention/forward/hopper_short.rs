//! The forward kernel for compute capability 9.0 exactly whose one tile holds all keys of a head.

use super::hopper::maps;
use super::{Arguments, Plan};
use crate::cuda::attention::warpgroups::{GROUP_ROWS, WARPGROUP};
use crate::cuda::context::driver_error;
use crate::cuda::launch::{Kernel, OptionalArgument};
use crate::cuda::{Context, Properties};
use crate::dtype::Float;
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::Geometry;
use cudarc::driver::{DeviceRepr, PushKernelArg};
use std::fmt;

pub(super) const IMAGE: &str = "attention/forward_short_sm90";
const SYMBOLS: [[&str; 2]; 2] = [
    [
        "attention_forward_short_sm90_k208_f16",
        "attention_forward_short_sm90_k208_bf16",
    ],
    [
        "attention_forward_short_sm90_k272_f16",
        "attention_forward_short_sm90_k272_bf16",
    ],
];
/// Keys of the tile, of each variant: images of 14 x 14 and 16 x 16 patches with a class token, rounded up to 16.
const KEYS: [usize; 2] = [208, 272];
/// Fewest keys that fill most of a tile.
const FEWEST_KEYS: usize = 129;
/// Columns of a tile.
const COLUMNS: usize = 64;
/// Bytes of a row of a tile.
const ROW_BYTES: usize = 2 * COLUMNS;
/// Buffers for keys, values and queries.
const STAGES: usize = 2;
/// Warpgroups that compute.
const GROUPS: usize = 2;

pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    SYMBOLS.into_iter().flatten().map(|symbol| Kernel {
        image: IMAGE,
        symbol,
    })
}

/// Which units of work there are. Mirrors `Units` in `kernels/attention/forward_short_sm90.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Units {
    count: i32,
    splits: i32,
    tiles: i32,
}

const _: () = assert!(size_of::<Units>() == 12);

// SAFETY: plain numbers in the kernels' layout, which both sides assert; no padding.
unsafe impl DeviceRepr for Units {}

/// How a problem is laid over the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShortTiles {
    /// Which of [`KEYS`].
    variant: usize,
    units: Units,
    blocks: u32,
}

impl ShortTiles {
    /// `None` where the problem is not of the kernel's kind; elsewhere
    /// [`refusal`](super::hopper::refusal) decides.
    pub fn new(gpu: &Properties, geometry: &Geometry, params: &Attention) -> Option<Self> {
        let variant = KEYS.iter().position(|&keys| geometry.keys <= keys)?;
        let is_plain = geometry.packed.is_none()
            && geometry.bias.is_none()
            && params.window().iter().all(Option::is_none)
            && params.softcap == 0.0
            && params.dropout.is_none()
            && params.scale(geometry.head_dim) > 0.0;
        if !is_plain || geometry.head_dim > COLUMNS || geometry.keys < FEWEST_KEYS {
            return None;
        }
        let tiles = geometry.queries.div_ceil(GROUP_ROWS).max(1);
        let heads = (geometry.batch * geometry.heads).max(1);
        let multiprocessors = gpu.multiprocessors as usize;
        let splits = multiprocessors.div_ceil(heads).min(tiles);
        let count = heads * splits;
        Some(Self {
            variant,
            units: Units {
                count: count as i32,
                splits: splits as i32,
                tiles: tiles as i32,
            },
            blocks: count.min(multiprocessors) as u32,
        })
    }

    fn keys(self) -> usize {
        KEYS[self.variant]
    }

    /// Blocks that stay, one a multiprocessor.
    pub fn blocks(self) -> u32 {
        self.blocks
    }

    pub fn threads(self) -> usize {
        (GROUPS + 1) * WARPGROUP
    }

    /// `Shared::kBytes` of the kernel.
    pub fn shared_bytes(self) -> usize {
        let head = 2 * self.keys() * ROW_BYTES;
        let queries = GROUPS * GROUP_ROWS * ROW_BYTES;
        let barriers = (2 + GROUPS) * STAGES * 16;
        STAGES * (head + queries) + queries + barriers
    }

    pub fn kernel(self, is_bf16: bool) -> Kernel {
        Kernel {
            image: IMAGE,
            symbol: SYMBOLS[self.variant][usize::from(is_bf16)],
        }
    }
}

impl fmt::Display for ShortTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one tile of {} keys (no running softmax), {GROUPS} warpgroups take 64 queries at a time, \
             parts of a head: {} (to fill the GPU)",
            self.keys(),
            self.units.splits
        )
    }
}

/// Queues the kernel.
pub(super) fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    tiles: &ShortTiles,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let geometry = &plan.geometry;
    // A box has at most 256 rows: keys come in two.
    let maps = maps(
        context,
        geometry,
        &arguments.qkv,
        [GROUP_ROWS, tiles.keys() / 2],
    )?;
    let start = geometry.out.offset.min(arguments.out.len());
    let mut out = arguments.out.slice_mut(start..);
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    for (map, _) in &maps {
        builder.arg(map);
    }
    builder.arg(&plan.scalars).arg(&tiles.units);
    builder.optional(&arguments.mask.kv_lengths);
    builder.arg(&mut out).arg(&mut arguments.lse);
    // SAFETY: as in `super::hopper::launch`.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}
