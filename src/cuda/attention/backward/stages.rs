//! The launches of the backward pass, and how each is laid over the GPU.

use super::families::{FAMILIES, Family, Role, SHORT, short_bytes};
use super::hopper;
use crate::cuda::Properties;
use crate::cuda::attention::scalars::Blocks;
use crate::cuda::launch::{Kernel, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::params::Attention;
use crate::params::attention::{Geometry, GradientLayouts};
use std::fmt;

fn all_families() -> impl Iterator<Item = &'static Family> {
    let own = hopper::FAMILIES.iter().chain([&hopper::SHORT]);
    FAMILIES.iter().chain([&SHORT]).chain(own)
}

/// Every kernel of the backward pass.
pub(super) fn kernels() -> impl Iterator<Item = Kernel> {
    all_families().flat_map(|family| {
        let image = family.image;
        let symbols = family.symbols.into_iter().flatten();
        symbols.map(move |symbol| Kernel { image, symbol })
    })
}

/// One launch of a plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub role: Role,
    pub blocks: Blocks,
    pub launch: Launch,
    /// Of the tensor maps that the kernel takes, if it does: tokens of queries, and of keys.
    pub boxes: Option<[usize; 2]>,
    tile: [usize; 2],
    reason: &'static str,
}

impl Stage {
    /// The stages of a problem, in order, and where the GPU's own kernels are left out, why.
    pub(super) fn all(
        gpu: &Properties,
        geometry: &Geometry,
        gradients: &GradientLayouts,
        params: &Attention,
        dtype: DType,
        dbias: bool,
    ) -> Result<(Vec<Self>, Option<&'static str>)> {
        let place = match dtype {
            DType::F16 => 1,
            DType::BF16 => 2,
            _ => 0,
        };
        let short = is_short(gpu, geometry, params, dtype);
        let concerned = hopper::is_concerned(gpu, dtype);
        let left_out = hopper::refusal(geometry, gradients, short).filter(|_| concerned);
        let own = concerned && left_out.is_none();
        let wanted = |family: &&Family| {
            let is_own = hopper::boxes(family).is_some();
            match family.role {
                Role::Rows => true,
                Role::Keys | Role::Queries => !short && own == is_own,
                Role::Bias => dbias,
                Role::All => short && own == is_own,
            }
        };
        let fits = |family: &&Family| {
            family.symbols[place].is_some() && geometry.head_dim <= family.columns
        };
        let families = || all_families().filter(wanted).filter(fits);
        let narrowest = |role| {
            let of_role = families().filter(move |family| family.role == role);
            of_role.map(|family| family.columns).min()
        };
        let stages = families()
            .filter(|family| narrowest(family.role) == Some(family.columns))
            .map(|family| Self::new(family, geometry, family.symbols[place].unwrap_or_default()))
            .collect::<Result<_>>()?;
        Ok((stages, left_out))
    }

    fn new(family: &Family, geometry: &Geometry, symbol: &'static str) -> Result<Self> {
        let tiles = |extent: usize, side: usize| extent.div_ceil(family.tile[side].max(1));
        let (queries, keys) = (geometry.queries, geometry.keys);
        let [batch, heads, tiles] = match family.role {
            Role::Rows | Role::Queries => [geometry.batch, geometry.heads, tiles(queries, 0)],
            Role::Keys => [geometry.batch, geometry.kv_heads, tiles(keys, 0)],
            Role::Bias => {
                let [batch, heads] = geometry.bias.unwrap_or([0, 0]);
                [
                    batch,
                    heads,
                    tiles(queries, 0).saturating_mul(tiles(keys, 1)),
                ]
            }
            Role::All => [geometry.batch, geometry.kv_heads, 1],
        };
        let boxes = hopper::boxes(family);
        let (warps, shared_bytes) = match family.role {
            // Whole warps of 16 keys.
            Role::All if boxes.is_none() => {
                (keys.div_ceil(16), short_bytes(keys.next_multiple_of(16)))
            }
            _ => (family.warps, family.shared_bytes),
        };
        let (blocks, count) = Blocks::new(batch, heads, tiles)?;
        let kernel = Kernel {
            image: family.image,
            symbol,
        };
        Ok(Self {
            role: family.role,
            blocks,
            launch: Launch {
                kernel,
                grid: [count, 1, 1],
                block: [32 * warps as u32, 1, 1],
                shared_bytes: shared_bytes as u32,
            },
            boxes,
            tile: family.tile,
            reason: family.reason,
        })
    }
}

/// Whether a block holds all keys of a head: where they fit, every query sees all of them, and
/// there are heads enough to fill the GPU, of which a block takes one.
fn is_short(gpu: &Properties, geometry: &Geometry, params: &Attention, dtype: DType) -> bool {
    let keys = geometry.keys;
    let fits = (1..=SHORT.tile[0]).contains(&keys)
        && geometry.head_dim <= SHORT.columns
        && short_bytes(keys.next_multiple_of(16)) <= gpu.shared_bytes_per_block as usize;
    let plain = geometry.bias.is_none()
        && params.window() == [None, None]
        && params.softcap == 0.0
        && params
            .dropout
            .is_none_or(|dropout| dropout.threshold() == 0);
    let fills = geometry.batch * geometry.kv_heads >= gpu.multiprocessors as usize;
    dtype.size() == 2 && fits && plain && fills
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, columns] = self.tile;
        write!(f, "{}: {rows} ", self.launch)?;
        match self.role {
            Role::Rows => write!(f, "queries a block")?,
            Role::Keys => write!(f, "keys a block, {columns} queries a tile")?,
            Role::Queries => write!(f, "queries a block, {columns} keys a tile")?,
            Role::Bias => write!(f, "queries by {columns} keys a block")?,
            Role::All => write!(f, "keys a block at most, {columns} queries a tile")?,
        }
        write!(f, " ({})", self.reason)
    }
}
