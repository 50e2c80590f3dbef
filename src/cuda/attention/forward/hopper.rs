//! The forward kernels for compute capability 9.0 exactly: when they fit, and their launch.

use super::method::Columns;
use super::{Arguments, Plan, hopper_short, offsets};
use crate::cuda::attention::buffers::from_offset;
use crate::cuda::attention::schedule::Schedule;
use crate::cuda::attention::warpgroups::{GROUP_ROWS, WARPGROUP, tensors};
use crate::cuda::context::driver_error;
use crate::cuda::launch::{Kernel, OptionalArgument};
use crate::cuda::tensor_map::{Tensor, TensorMap};
use crate::cuda::{Context, Properties, image};
use crate::dtype::Float;
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::{Geometry, Layout, Qkv};
use cudarc::driver::{CudaView, DevicePtr, PushKernelArg, SyncOnDrop};

const TILED_IMAGE: &str = "attention/forward_sm90";
const TILED: [[&str; 2]; 3] = [
    [
        "attention_forward_sm90_d64_f16",
        "attention_forward_sm90_d64_bf16",
    ],
    [
        "attention_forward_sm90_d128_f16",
        "attention_forward_sm90_d128_bf16",
    ],
    [
        "attention_forward_sm90_d256_f16",
        "attention_forward_sm90_d256_bf16",
    ],
];

/// Buffers for keys, and for values.
const STAGES: usize = 2;

pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    TILED.into_iter().flatten().map(|symbol| Kernel {
        image: TILED_IMAGE,
        symbol,
    })
}

/// Why a GPU of compute capability 9.0 does not take these kernels; `None` where it does.
pub(super) fn refusal(geometry: &Geometry, params: &Attention) -> Option<&'static str> {
    let is_built = [TILED_IMAGE, hopper_short::IMAGE]
        .into_iter()
        .all(image::is_built);
    let [q, k, v] = tensors(geometry);
    if image::toolkit().absent.is_none() && !is_built {
        Some("not built for sm_90a")
    } else if ![q, k, v].iter().all(Tensor::has_map) {
        Some("no tensor map for these extents or strides")
    } else if Columns::of(geometry.head_dim) == Columns::C256 && params.dropout.is_some() {
        Some("no registers for dropout beside 256 columns")
    } else {
        None
    }
}

/// The tiles of the tiled kernel. Mirrors `Shape90` and `Shared90` in
/// `kernels/attention/forward_sm90.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub columns: Columns,
}

impl Tiles {
    /// Warpgroups that compute: three where a thread's scores, probabilities and outputs fit 160
    /// registers.
    pub fn groups(self) -> usize {
        match self.columns {
            Columns::C64 => 3,
            _ => 2,
        }
    }

    /// Queries of a tile.
    pub fn rows(self) -> usize {
        self.groups() * GROUP_ROWS
    }

    /// Keys of a tile: at 256 columns as many as shared memory holds twice.
    pub fn keys(self) -> usize {
        match self.columns {
            Columns::C256 => 80,
            _ => 128,
        }
    }

    pub fn threads(self) -> usize {
        (self.groups() + 1) * WARPGROUP
    }

    pub fn shared_bytes(self) -> usize {
        let queries = self.rows() * self.columns.row_bytes();
        let tiles = 2 * STAGES * self.keys() * self.columns.row_bytes();
        // Outputs leave through their own place, or that of the queries.
        let stage = if self.columns == Columns::C256 {
            0
        } else {
            queries
        };
        let barriers = 16 + 3 * STAGES * 16;
        let task = 19 * size_of::<i32>();
        queries + tiles + stage + barriers + STAGES * task
    }

    pub fn kernel(self, is_bf16: bool) -> Kernel {
        Kernel {
            image: TILED_IMAGE,
            symbol: TILED[self.columns as usize][usize::from(is_bf16)],
        }
    }
}

/// The blocks' order.
pub(super) fn schedule(
    gpu: &Properties,
    geometry: &Geometry,
    params: &Attention,
    tiles: Tiles,
) -> Schedule {
    let count = geometry.queries.div_ceil(tiles.rows()).max(1);
    let is_causal = params.causal || params.window_right.is_some();
    Schedule::new(gpu, geometry, count, is_causal)
}

/// A map, and what tells other streams that its tensor is read: to be kept until the kernel is queued.
pub(super) type Mapped<'a> = (TensorMap, SyncOnDrop<'a>);

/// Maps of queries, keys and values, of boxes of so many queries and keys.
pub(super) fn maps<'a, T: Float>(
    context: &'a Context,
    geometry: &Geometry,
    qkv: &'a Qkv<CudaView<'_, T>>,
    [rows, keys]: [usize; 2],
) -> Result<[Mapped<'a>; 3]> {
    let [q, k, v] = tensors(geometry);
    let map = |view: &'a CudaView<'_, T>, layout: &Layout, tensor: &Tensor, tokens: usize| {
        let (start, reads) = view.device_ptr(context.stream());
        let address = start + (layout.offset.min(view.len()) * size_of::<T>()) as u64;
        let map = TensorMap::new(address, T::DTYPE, tensor, tokens as u32)?;
        Ok((map, reads))
    };
    let views = qkv.parts();
    Ok([
        map(views[0], &geometry.q, &q, rows)?,
        map(views[1], &geometry.k, &k, keys)?,
        map(views[2], &geometry.v, &v, keys)?,
    ])
}

/// Queues the kernel.
pub(super) fn launch<T: Float>(
    context: &Context,
    plan: &Plan,
    schedule: &Schedule,
    tiles: Tiles,
    arguments: &mut Arguments<'_, T>,
) -> Result<()> {
    let geometry = &plan.geometry;
    let maps = maps(
        context,
        geometry,
        &arguments.qkv,
        [GROUP_ROWS, tiles.keys()],
    )?;
    let [_, _, v] = arguments.qkv.parts();
    let v = from_offset(v, &geometry.v);
    let start = geometry.out.offset.min(arguments.out.len());
    let mut out = arguments.out.slice_mut(start..);
    let [offsets_q, offsets_k] = offsets(&arguments.mask);
    let function = context.function_for(&plan.launch)?;
    let mut builder = context.stream().launch_builder(&function);
    for (map, _) in &maps {
        builder.arg(map);
    }
    builder.arg(&plan.scalars).arg(schedule);
    builder.optional(&arguments.mask.kv_lengths);
    builder.optional(&offsets_q).optional(&offsets_k);
    builder.arg(&v);
    builder.optional(&arguments.mask.bias);
    builder.arg(&mut out).arg(&mut arguments.lse);
    // SAFETY: the kernels take these maps and structs, by value, then these pointers. The copy engine
    // stays within the maps' extents, which are the layouts', whose spans the buffers were checked to
    // hold; the rest is as in `super::launch`.
    unsafe { builder.launch(plan.launch.config()) }.map_err(driver_error("launching a kernel"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_a_multiprocessor() {
        let bytes = |columns| Tiles { columns }.shared_bytes();
        assert_eq!(bytes(Columns::C64), 114_688 + 264);
        assert_eq!(bytes(Columns::C128), 196_608 + 264);
        assert_eq!(bytes(Columns::C256), 229_376 + 264);
        assert!(bytes(Columns::C256) <= 227 * 1024);
    }
}
