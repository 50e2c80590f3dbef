//! Occupancy: how many blocks a multiprocessor holds.
//!
//! The rules are those of NVIDIA's occupancy calculator for compute capabilities 8.0 and 9.0;
//! the registers of a kernel are an estimate, see [`Function::registers`].

use std::ffi::{c_int, c_uint};

use super::device::{Limits, MAX_THREADS};
use super::ffi::{In, Out, exports};
use super::function::{self, Function};
use super::handle::Handle;
use super::launch::ExtendedConfig;
use super::status::{Result, Status};

/// Warps are given registers in groups of this many, one for each scheduler.
const SCHEDULERS: u32 = 4;

/// Blocks of `threads` threads, `registers` a thread and `shared` bytes of shared memory that are
/// resident together on a multiprocessor.
fn resident(limits: &Limits, threads: u32, registers: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let by_warps = limits.warps / warps;
    let per_warp = (registers * 32)
        .next_multiple_of(limits.register_unit)
        .max(1);
    let by_registers = limits.registers / per_warp / SCHEDULERS * SCHEDULERS / warps;
    let taken = shared.saturating_add(limits.shared_reserved);
    let taken = taken
        .checked_next_multiple_of(limits.shared_unit)
        .unwrap_or(u32::MAX);
    let by_shared = limits.shared_per_multiprocessor / taken;
    limits.blocks.min(by_warps).min(by_registers).min(by_shared)
}

/// Blocks of `function` that are resident together on a multiprocessor; 0 if none fits.
pub fn blocks_per_multiprocessor(function: &Function, threads: u32, dynamic_shared: u32) -> u32 {
    let info = function.kernel.info();
    let shared = info.static_shared.saturating_add(dynamic_shared);
    if threads > MAX_THREADS || shared > function.limits().shared_per_block_optin {
        return 0;
    }
    resident(&function.limits(), threads, function.registers(), shared)
}

fn max_active(out: Out<c_int>, function: Handle, threads: c_int, dynamic_shared: usize) -> Result {
    let function = function::find(function)?;
    let threads = u32::try_from(threads).ok().filter(|&threads| threads > 0);
    let threads = threads.ok_or(Status::INVALID_VALUE)?;
    let dynamic_shared = u32::try_from(dynamic_shared).unwrap_or(u32::MAX);
    out.set(blocks_per_multiprocessor(&function, threads, dynamic_shared) as c_int)
}

/// Dynamic shared memory of a block, by its threads.
type SharedByThreads = Option<unsafe extern "C" fn(c_int) -> usize>;

/// The block size with the most resident threads, larger blocks first, and the grid that fills the
/// device with it.
fn potential(
    function: Handle,
    shared_by_threads: SharedByThreads,
    dynamic_shared: usize,
    limit: c_int,
) -> Result<(c_int, c_int)> {
    let function = function::find(function)?;
    let most = match u32::try_from(limit) {
        Ok(0) => function.max_threads(),
        Ok(limit) => limit.min(function.max_threads()),
        Err(_) => return Err(Status::INVALID_VALUE),
    };
    let mut best = (0, 0);
    for threads in (1..=most.div_ceil(32))
        .rev()
        .map(|warps| (warps * 32).min(most))
    {
        let shared = match shared_by_threads {
            // SAFETY: the caller passed a function from block size to bytes for this call.
            Some(shared) => unsafe { shared(threads as c_int) },
            None => dynamic_shared,
        };
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        let blocks = blocks_per_multiprocessor(&function, threads, shared);
        if blocks * threads > best.0 * best.1 {
            best = (blocks, threads);
        }
    }
    let grid = best.0 * function.limits().multiprocessors;
    Ok((grid as c_int, best.1 as c_int))
}

/// Clusters of the given shape that are resident together; a cluster lives in one group of
/// [`Limits::cluster_span`] multiprocessors.
fn active_clusters(function: &Function, config: &ExtendedConfig) -> Result<u32> {
    let (threads, shared, cluster) = config.cluster_shape()?;
    let own = function.kernel.info().directives.cluster;
    let cluster = own.unwrap_or(cluster);
    let blocks = cluster
        .iter()
        .try_fold(1u32, |product, &extent| product.checked_mul(extent));
    let blocks = blocks.filter(|blocks| (1..=function.max_cluster()).contains(blocks));
    let blocks = blocks.ok_or(Status::INVALID_VALUE)?;
    let limits = function.limits();
    let per_group = blocks_per_multiprocessor(function, threads, shared) * limits.cluster_span;
    Ok(per_group / blocks * (limits.multiprocessors / limits.cluster_span))
}

exports! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>, function: Handle, threads: c_int, shared: usize,
    ) {
        max_active(blocks, function, threads, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>, function: Handle, threads: c_int, shared: usize, flags: c_uint,
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        max_active(blocks, function, threads, shared)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>, threads: Out<c_int>, function: Handle, by_threads: SharedByThreads,
        shared: usize, limit: c_int,
    ) {
        let best = potential(function, by_threads, shared, limit)?;
        grid.set(best.0)?;
        threads.set(best.1)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<c_int>, threads: Out<c_int>, function: Handle, by_threads: SharedByThreads,
        shared: usize, limit: c_int,
        flags: c_uint,
    ) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let best = potential(function, by_threads, shared, limit)?;
        grid.set(best.0)?;
        threads.set(best.1)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>, function: Handle, blocks: c_int, threads: c_int,
    ) {
        let function = function::find(function)?;
        if blocks < 1 || !(1..=MAX_THREADS as c_int).contains(&threads) {
            return Err(Status::INVALID_VALUE);
        }
        let limits = function.limits();
        let share = limits.shared_per_multiprocessor / blocks as u32;
        let share = share / limits.shared_unit * limits.shared_unit;
        let own = function.kernel.info().static_shared;
        let room = share.saturating_sub(limits.shared_reserved + own);
        bytes.set(room.min(limits.shared_per_block_optin.saturating_sub(own)) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        blocks: Out<c_int>, function: Handle, config: In<ExtendedConfig>,
    ) {
        let function = function::find(function)?;
        let (threads, shared, _) = config.get()?.cluster_shape()?;
        let resident = blocks_per_multiprocessor(&function, threads, shared);
        let per_group = resident * function.limits().cluster_span;
        // Sizes are powers of two.
        let most = function.max_cluster().min(per_group);
        blocks.set(most.checked_ilog2().map_or(0, |exponent| 1 << exponent))
    }

    fn cuOccupancyMaxActiveClusters(
        clusters: Out<c_int>, function: Handle, config: In<ExtendedConfig>,
    ) {
        let function = function::find(function)?;
        clusters.set(active_clusters(&function, &config.get()?)? as c_int)
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::limits;
    use super::*;
    use crate::sim::Arch;

    /// Figures of NVIDIA's occupancy calculator.
    #[test]
    fn known_occupancies() {
        let (ampere, hopper) = (limits(Arch::Sm80), limits(Arch::Sm90a));
        assert_eq!(resident(&ampere, 256, 32, 0), 8);
        assert_eq!(resident(&ampere, 256, 64, 0), 4);
        assert_eq!(resident(&ampere, 256, 255, 0), 1);
        assert_eq!(resident(&ampere, 32, 16, 0), 32);
        assert_eq!(resident(&ampere, 128, 32, 48 << 10), 3);
        assert_eq!(resident(&ampere, 128, 32, 163 << 10), 1);
        assert_eq!(resident(&ampere, 128, 32, 164 << 10), 0);
        assert_eq!(resident(&hopper, 128, 32, 227 << 10), 1);
        assert_eq!(resident(&hopper, 384, 168, 100 << 10), 1);
        assert_eq!(resident(&hopper, 1024, 64, 0), 1);
        assert_eq!(resident(&hopper, 1024, 65, 0), 0);
    }
}
