//! What every attention kernel takes beside its buffers.

use super::super::divisor::Divisor;
use crate::error::{Error, Result};
use crate::params::Attention;
use crate::params::attention::{Geometry, Layout};
use cudarc::driver::DeviceRepr;

/// Steps in elements. Mirrors `Strides` in `kernels/attention/scalars.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strides {
    batch: i64,
    token: i64,
    head: i64,
}

impl Strides {
    /// Steps of a layout; where sequences are `packed`, the kernels find them by their first token.
    pub(super) fn new(layout: &Layout, packed: bool) -> Self {
        Self {
            batch: if packed { 0 } else { layout.batch as i64 },
            token: layout.token as i64,
            head: layout.head as i64,
        }
    }
}

/// Mirrors `AttentionScalars` in `kernels/attention/scalars.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scalars {
    q: Strides,
    k: Strides,
    v: Strides,
    out: Strides,
    bias_batch: i64,
    bias_head: i64,
    batch: i32,
    heads: i32,
    kv_heads: i32,
    queries: i32,
    keys: i32,
    head_dim: i32,
    total_queries: i32,
    total_keys: i32,
    by_group: Divisor,
    scale: f32,
    softcap: f32,
    window_left: i32,
    window_right: i32,
    dropout_threshold: u32,
    kept_scale: f32,
    seed_low: u32,
    seed_high: u32,
}

const _: () = {
    assert!(size_of::<Strides>() == 24);
    assert!(size_of::<Scalars>() == 184);
    assert!(std::mem::offset_of!(Scalars, bias_batch) == 96);
    assert!(std::mem::offset_of!(Scalars, batch) == 112);
    assert!(std::mem::offset_of!(Scalars, by_group) == 144);
    assert!(std::mem::offset_of!(Scalars, scale) == 152);
    assert!(std::mem::offset_of!(Scalars, dropout_threshold) == 168);
};

// SAFETY: plain numbers in the kernels' layout, which both sides assert; no padding.
unsafe impl DeviceRepr for Strides {}
// SAFETY: as above.
unsafe impl DeviceRepr for Scalars {}

impl Scalars {
    /// Scalars of a geometry and parameters that were checked.
    pub(super) fn new(geometry: &Geometry, params: &Attention) -> Self {
        /// Beyond every key, and far enough from `i32`'s end to be added to a place.
        const NO_WINDOW: usize = 1 << 29;
        let packed = geometry.packed.is_some();
        let [total_queries, total_keys] = geometry.packed.unwrap_or_default();
        let scores = geometry.queries * geometry.keys;
        let [bias_batch, bias_heads] = geometry.bias.unwrap_or([1, 1]);
        let step = |extent: usize, step: usize| if extent > 1 { step as i64 } else { 0 };
        let window = params
            .window()
            .map(|window| window.unwrap_or(NO_WINDOW).min(NO_WINDOW) as i32);
        let dropout = params.dropout;
        let seed = dropout.map_or(0, |dropout| dropout.seed);
        Self {
            q: Strides::new(&geometry.q, packed),
            k: Strides::new(&geometry.k, packed),
            v: Strides::new(&geometry.v, packed),
            out: Strides::new(&geometry.out, packed),
            bias_batch: step(bias_batch, bias_heads * scores),
            bias_head: step(bias_heads, scores),
            batch: geometry.batch as i32,
            heads: geometry.heads as i32,
            kv_heads: geometry.kv_heads as i32,
            queries: geometry.queries as i32,
            keys: geometry.keys as i32,
            head_dim: geometry.head_dim as i32,
            total_queries: total_queries as i32,
            total_keys: total_keys as i32,
            by_group: Divisor::new((geometry.heads / geometry.kv_heads) as u32),
            scale: params.scale(geometry.head_dim),
            softcap: params.softcap,
            window_left: window[0],
            window_right: window[1],
            dropout_threshold: dropout.map_or(0, |dropout| dropout.threshold()),
            kept_scale: dropout.map_or(1.0, |dropout| dropout.kept_scale()),
            seed_low: seed as u32,
            seed_high: (seed >> 32) as u32,
        }
    }
}

/// A one-dimensional grid over (sequence, head, tile). Mirrors `Blocks` in
/// `kernels/attention/scalars.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    by_tiles: Divisor,
    by_heads: Divisor,
    tiles: i32,
    heads: i32,
}

const _: () = assert!(size_of::<Blocks>() == 24);

// SAFETY: plain numbers in the kernels' layout, which both sides assert; no padding.
unsafe impl DeviceRepr for Blocks {}

impl Blocks {
    /// The grid, and its extent. There is at least one sequence and one tile: the blocks of these
    /// also write the tokens that no sequence has.
    ///
    /// # Errors
    /// When there are 2^31 blocks or more.
    pub(super) fn new(batch: usize, heads: usize, tiles: usize) -> Result<(Self, u32)> {
        let (batch, tiles) = (batch.max(1), tiles.max(1));
        let count = batch.saturating_mul(heads).saturating_mul(tiles);
        if count >= 1 << 31 {
            let value = format!("{batch} * {heads} * {tiles}");
            let rule = "below 2^31";
            return Err(Error::input(
                "attention",
                "batch * heads * tiles",
                rule,
                value,
            ));
        }
        let blocks = Self {
            by_tiles: Divisor::new(tiles as u32),
            by_heads: Divisor::new(heads as u32),
            tiles: tiles as i32,
            heads: heads as i32,
        };
        Ok((blocks, count as u32))
    }
}
