//! In which order blocks that stay take the tiles of queries.

use crate::cuda::Properties;
use crate::params::attention::Geometry;
use cudarc::driver::DeviceRepr;
use std::fmt;

/// Bytes of an element, of keys and values.
const ELEMENT: usize = 2;

/// Mirrors `Schedule` in `kernels/attention/schedule.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    count: i32,
    tiles: i32,
    heads: i32,
    section: i32,
}

const _: () = assert!(size_of::<Schedule>() == 16);

// SAFETY: plain numbers in the kernels' layout, which both sides assert; no padding.
unsafe impl DeviceRepr for Schedule {}

impl Schedule {
    /// That of `tiles` tiles a head. Where `is_causal`, tiles differ in length: then those of as many
    /// heads as half of the L2 cache holds keys and values of go longest first, else head by head.
    pub(super) fn new(
        gpu: &Properties,
        geometry: &Geometry,
        tiles: usize,
        is_causal: bool,
    ) -> Self {
        // Without a sequence the tokens that belong to none are still written, head by head.
        let heads = geometry.batch.max(1) * geometry.heads;
        let group = geometry.heads / geometry.kv_heads;
        let bytes = 2 * geometry.keys * geometry.head_dim * ELEMENT;
        let section = match is_causal {
            true => (gpu.l2_bytes as usize / 2 / bytes.max(1)).max(1) * group,
            false => 1,
        };
        Self {
            count: (heads * tiles) as i32,
            tiles: tiles as i32,
            heads: geometry.heads as i32,
            section: section.min(heads) as i32,
        }
    }

    /// Blocks: one a multiprocessor, and no more than tiles.
    pub(super) fn blocks(&self, gpu: &Properties) -> u32 {
        gpu.multiprocessors.min(self.count as u32).max(1)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, section, .. } = self;
        write!(f, "{count} tiles in turn, ")?;
        match section {
            1 => write!(f, "head by head (L2 cache)"),
            _ => write!(f, "{section} heads at a time (L2 cache), longest first"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::attention::Layout;

    #[test]
    fn sections_fit_the_cache() {
        let (tokens, heads, head_dim) = (4096, 16, 128);
        let layout = Layout::contiguous(tokens, heads, head_dim);
        let geometry = Geometry {
            batch: 2,
            heads,
            kv_heads: 4,
            queries: tokens,
            keys: tokens,
            head_dim,
            packed: None,
            bias: None,
            q: layout,
            k: Layout::contiguous(tokens, 4, head_dim),
            v: Layout::contiguous(tokens, 4, head_dim),
            out: layout,
        };
        let mut gpu = Properties::new((9, 0), 132, 227 << 10);
        gpu.l2_bytes = 16 << 20;
        // Keys and values of a key head are 2 MiB, so four of them, which 16 heads share.
        let causal = Schedule::new(&gpu, &geometry, 32, true);
        assert_eq!(
            [causal.count, causal.tiles, causal.heads, causal.section],
            [1024, 32, 16, 16]
        );
        assert_eq!(Schedule::new(&gpu, &geometry, 32, false).section, 1);
        assert_eq!(causal.blocks(&gpu), 132);
        assert_eq!(Schedule::new(&gpu, &geometry, 1, true).blocks(&gpu), 32);
    }
}
