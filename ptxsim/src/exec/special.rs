//! Special registers.

use super::warp::Warp;
use crate::program::decoder::Unsupported;
use crate::program::layout::RESERVED_SHARED;

/// The value of a special register in a lane.
pub type Special = fn(&Warp<'_>, usize) -> u64;

/// Multiprocessors of the simulated device, as many as an H100 SXM or so has; block `i` claims to
/// be on number `i` modulo this.
const MULTIPROCESSORS: u64 = 132;

/// The function that reads the special register `name`, such as `%tid.x`.
///
/// Clocks count the instructions of the launch, so they are the same on every run.
///
/// # Errors
/// When it is not known.
pub fn find(name: &str) -> Result<Special, Unsupported> {
    let known = TABLE
        .iter()
        .find(|(known, _)| *known == name.trim_start_matches('%'));
    known
        .map(|(_, read)| *read)
        .ok_or_else(|| Unsupported::new(format!("special register {name}")))
}

fn thread(warp: &Warp<'_>, lane: usize) -> [u32; 3] {
    warp.launch
        .thread_index(warp.state.index * 32 + lane as u32)
}

fn cluster_grid(warp: &Warp<'_>) -> [u32; 3] {
    let config = &warp.launch.config;
    std::array::from_fn(|i| config.grid[i] / config.cluster[i])
}

fn in_cluster(warp: &Warp<'_>) -> [u32; 3] {
    let (block, shape) = (
        warp.cluster.blocks[warp.rank].index,
        warp.launch.config.cluster,
    );
    std::array::from_fn(|i| block[i] % shape[i])
}

fn ctaid(warp: &Warp<'_>) -> [u32; 3] {
    warp.cluster.blocks[warp.rank].index
}

fn linear_block(warp: &Warp<'_>) -> u64 {
    let ([x, y, z], [w, h, _]) = (
        ctaid(warp).map(u64::from),
        warp.launch.config.grid.map(u64::from),
    );
    x + w * (y + h * z)
}

macro_rules! triple {
    ($warp:ident, $lane:ident, $index:literal, $value:expr) => {
        |$warp: &Warp<'_>, $lane: usize| {
            let _ = $lane;
            u64::from($value[$index])
        }
    };
}

macro_rules! table {
    ($($name:literal: |$w:ident, $l:ident| [$triple:expr];)* single $($single:literal: |$sw:ident, $sl:ident| $value:expr;)*) => {
        const TABLE: &[(&str, Special)] = &[
            $(
                (concat!($name, ".x"), triple!($w, $l, 0, $triple)),
                (concat!($name, ".y"), triple!($w, $l, 1, $triple)),
                (concat!($name, ".z"), triple!($w, $l, 2, $triple)),
            )*
            $(($single, |$sw: &Warp<'_>, $sl: usize| {
                let _ = ($sw, $sl);
                u64::from($value)
            }),)*
        ];
    };
}

table! {
    "tid": |w, lane| [thread(w, lane)];
    "ntid": |w, lane| [w.launch.config.block];
    "ctaid": |w, lane| [ctaid(w)];
    "nctaid": |w, lane| [w.launch.config.grid];
    "clusterid": |w, lane| [w.cluster.index];
    "nclusterid": |w, lane| [cluster_grid(w)];
    "cluster_ctaid": |w, lane| [in_cluster(w)];
    "cluster_nctaid": |w, lane| [w.launch.config.cluster];
    single
    "laneid": |w, lane| lane as u32;
    "warpid": |w, lane| w.state.index;
    "nwarpid": |w, lane| w.cluster.blocks[w.rank].threads.div_ceil(32);
    "smid": |w, lane| linear_block(w) % MULTIPROCESSORS;
    "nsmid": |w, lane| MULTIPROCESSORS;
    "gridid": |w, lane| 1u32;
    "lanemask_eq": |w, lane| 1u32 << lane;
    "lanemask_lt": |w, lane| (1u32 << lane) - 1;
    "lanemask_le": |w, lane| u32::MAX >> (31 - lane);
    "lanemask_gt": |w, lane| !(u32::MAX >> (31 - lane));
    "lanemask_ge": |w, lane| u32::MAX << lane;
    "clock": |w, lane| w.launch.counters.warp_instructions as u32;
    "clock_hi": |w, lane| (w.launch.counters.warp_instructions >> 32) as u32;
    "clock64": |w, lane| w.launch.counters.warp_instructions;
    "globaltimer": |w, lane| w.launch.counters.warp_instructions;
    "globaltimer_lo": |w, lane| w.launch.counters.warp_instructions as u32;
    "globaltimer_hi": |w, lane| (w.launch.counters.warp_instructions >> 32) as u32;
    "dynamic_smem_size": |w, lane| w.launch.config.dynamic_shared;
    "total_smem_size": |w, lane| w.launch.shared_bytes - w.launch.reserved_shared;
    "aggr_smem_size": |w, lane| w.launch.shared_bytes - w.launch.reserved_shared + RESERVED_SHARED;
    "reserved_smem_offset_begin": |w, lane| 0u32;
    "reserved_smem_offset_end": |w, lane| RESERVED_SHARED;
    "reserved_smem_offset_cap": |w, lane| RESERVED_SHARED;
    "reserved_smem_offset_0": |w, lane| 0u32;
    // Where cooperative groups keep what warps of a tile synchronise through.
    "reserved_smem_offset_1": |w, lane| RESERVED_SHARED / 2;
    "cluster_ctarank": |w, lane| w.rank as u32;
    "cluster_nctarank": |w, lane| w.launch.config.cluster.iter().product::<u32>();
    // Where cooperative groups find the workspace of `grid.sync()`: its upper and lower half.
    "envreg1": |w, lane| w.launch.grid_workspace >> 32;
    "envreg2": |w, lane| w.launch.grid_workspace as u32;
    "is_explicit_cluster": |w, lane| w.launch.config.cluster != [1, 1, 1];
}
