//! How anchor decoding is laid over a GPU.

use super::super::check;
use super::{FILTER, OP, SELECT, Scalars};
use crate::cuda::workspace::piece;
use crate::cuda::{Launch, Properties};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::anchors::MAX_LEVELS;
use crate::params::{AnchorDecode, Anchors};
use std::fmt;

const FILTER_THREADS: u32 = 256;
const SELECT_THREADS: u32 = 512;
/// Logits that a block tests between two barriers: 32, a word of flags, a thread.
const TILE: usize = 32 * FILTER_THREADS as usize;
/// Resident blocks aimed at: what the register file holds, as the kernels' launch bounds promise. 64 KiB of loads are
/// then in flight a multiprocessor in 16-bit types.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
/// Keys sorted at once, at most: 64 KiB, which every GPU since Ampere has.
const MAX_CAPACITY: usize = 8192;
/// Images are blocks in y.
const MAX_IMAGES: usize = 65_535;

/// What one call launches.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(super) anchors: Anchors,
    params: AnchorDecode,
    pub(super) images: usize,
    pub(super) classes: usize,
    pub(super) dtype: DType,
    /// Keys kept of a part.
    topk: usize,
    pub(super) max_output: usize,
    tiles_per_part: usize,
    first_part: [i32; MAX_LEVELS + 1],
    pub(super) filter: Launch,
    pub(super) select: Launch,
}

impl Plan {
    /// Plans for `images` with `classes` logits of type `dtype` an anchor.
    ///
    /// # Errors
    /// When a scalar is out of its range, there is nothing to launch (no images, classes or candidates), more than
    /// 65535 images, or no float type.
    pub fn new(
        gpu: &Properties,
        anchors: &Anchors,
        images: usize,
        classes: usize,
        dtype: DType,
        params: &AnchorDecode,
    ) -> Result<Self> {
        let topk = params.check(anchors, classes)?;
        if images == 0 || images > MAX_IMAGES {
            let rule = format!("in [1, {MAX_IMAGES}]");
            return Err(Error::input(OP, "images", rule, images));
        }
        let max_output: usize = topk.iter().sum();
        if max_output == 0 {
            return Err(Error::input(OP, "candidates", "at least 1", max_output));
        }
        let type_index = check::of_dtype(OP, "logits", [0, 1, 2], dtype)?;
        let topk = topk.into_iter().max().unwrap_or(0);
        let slots = (gpu.multiprocessors as usize * BLOCKS_PER_MULTIPROCESSOR / images).max(1);
        // A row may begin 15 bytes behind the first tile's start.
        let lead = 16 / dtype.size() - 1;
        let levels = anchors.levels().iter();
        let tiles: Vec<usize> = levels
            .map(|level| tiles(level.count() * classes, lead))
            .collect();
        let tiles_per_part = tiles_per_part(&tiles, slots);
        let mut first_part = [0; MAX_LEVELS + 1];
        let mut parts = 0;
        for level in 0..MAX_LEVELS {
            let tiles = tiles.get(level).copied().unwrap_or(0);
            parts += tiles.div_ceil(tiles_per_part);
            first_part[level + 1] = parts as i32;
        }
        let launch = |kernel, blocks: usize, threads, capacity: usize| Launch {
            kernel,
            grid: [blocks as u32, images as u32, 1],
            block: [threads, 1, 1],
            shared_bytes: 8 * capacity as u32,
        };
        // Twice topk, so that a sort makes room for topk keys; the merge takes twice as many again at a time.
        let capacity = (2 * topk).next_power_of_two().max(512);
        let merged = (2 * capacity).min(MAX_CAPACITY);
        Ok(Self {
            anchors: anchors.clone(),
            params: *params,
            images,
            classes,
            dtype,
            topk,
            max_output,
            tiles_per_part,
            first_part,
            filter: launch(FILTER[type_index], parts, FILTER_THREADS, capacity),
            select: launch(SELECT[type_index], tiles.len(), SELECT_THREADS, merged),
        })
    }

    /// Candidates of an image that the outputs have room for.
    pub fn max_output(&self) -> usize {
        self.max_output
    }

    pub(super) fn parts(&self) -> usize {
        self.filter.grid[0] as usize
    }

    pub(super) fn list_bytes(&self) -> usize {
        piece(8 * self.images * self.parts() * self.topk)
    }

    /// Bytes of workspace: a list of keys for each part, and its length.
    pub fn workspace_bytes(&self) -> usize {
        self.list_bytes() + piece(4 * self.images * self.parts())
    }

    pub(super) fn scalars(&self, launch: &Launch) -> Scalars {
        let [height, width] = self.anchors.image();
        Scalars {
            classes: self.classes as i32,
            topk: self.topk as i32,
            capacity: launch.shared_bytes as i32 / 8,
            tiles_per_part: self.tiles_per_part as i32,
            parts: self.parts() as i32,
            max_output: self.max_output as i32,
            logit_threshold: self.params.logit_threshold(),
            image_height: height as f32,
            image_width: width as f32,
            first_part: self.first_part,
        }
    }
}

/// Tiles that cover a level whose row begins up to `lead` elements into the first.
fn tiles(elements: usize, lead: usize) -> usize {
    if elements == 0 {
        0
    } else {
        (elements + lead).div_ceil(TILE)
    }
}

/// The fewest tiles a part with which all parts of an image fit `slots` at once, so that none starts late; a level
/// has at least one part.
fn tiles_per_part(tiles: &[usize], slots: usize) -> usize {
    let most = tiles.iter().copied().max().unwrap_or(0).max(1);
    let parts = |size: usize| {
        tiles
            .iter()
            .map(|tiles| tiles.div_ceil(size))
            .sum::<usize>()
    };
    let least = tiles.iter().sum::<usize>().div_ceil(slots).max(1);
    (least..most)
        .find(|&size| parts(size) <= slots)
        .unwrap_or(most)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let logits = self.images * self.anchors.count() * self.classes;
        write!(
            f,
            "{OP} [{}, {} x {}] {}: {} bytes of logits\n  {}: {} tiles of {TILE} logits a part, so that all parts are \
             resident\n  {}: a block a level and image",
            self.images,
            self.anchors.count(),
            self.classes,
            self.dtype,
            logits * self.dtype.size(),
            self.filter,
            self.tiles_per_part,
            self.select
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retinanet() -> Anchors {
        let grids = [[100, 168], [50, 84], [25, 42], [13, 21], [7, 11]];
        Anchors::torchvision([800, 1344], &grids).unwrap()
    }

    #[test]
    fn all_parts_are_resident_at_once() {
        let gpu = Properties::new((9, 0), 132, 232_448);
        for images in [1, 8, 30] {
            let plan = Plan::new(
                &gpu,
                &retinanet(),
                images,
                80,
                DType::F16,
                &Default::default(),
            );
            let plan = plan.unwrap();
            assert!(plan.parts() * images <= 528, "{plan}");
            assert!(plan.parts() * images >= 400, "{plan}");
        }
    }

    #[test]
    fn a_plan_says_what_it_does() {
        let gpu = Properties::new((9, 0), 132, 232_448);
        let plan = Plan::new(&gpu, &retinanet(), 1, 80, DType::F16, &Default::default()).unwrap();
        assert_eq!(plan.max_output(), 5000);
        assert_eq!(
            plan.to_string(),
            "anchor_decode [1, 201600 x 80] f16: 32256000 bytes of logits\n  anchor_decode_filter_f16 <<<[495, 1, 1], \
             [256, 1, 1], 16384 B>>>: 4 tiles of 8192 logits a part, so that all parts are resident\n  \
             anchor_decode_select_f16 <<<[5, 1, 1], [512, 1, 1], 32768 B>>>: a block a level and image"
        );
    }

    #[test]
    fn what_cannot_be_launched_is_an_error() {
        let gpu = Properties::new((9, 0), 132, 232_448);
        let message = |images, classes, dtype, topk| {
            let params = AnchorDecode {
                topk,
                ..Default::default()
            };
            let plan = Plan::new(&gpu, &retinanet(), images, classes, dtype, &params);
            plan.unwrap_err().to_string()
        };
        let expected = "anchor_decode: images must be in [1, 65535], got 0";
        assert_eq!(message(0, 80, DType::F32, 1), expected);
        let expected = "anchor_decode: candidates must be at least 1, got 0";
        assert_eq!(message(1, 80, DType::F32, 0), expected);
        let expected = "anchor_decode: topk must be at most 4096, got 4097";
        assert_eq!(message(1, 80, DType::F32, 4097), expected);
        let expected = "anchor_decode: logits must be of type f32, f16 or bf16, got i32";
        assert_eq!(message(1, 80, DType::I32, 1), expected);
    }
}
