//! What one call of non-maximum suppression launches.

use super::super::Properties;
use super::super::launch::{Kernel, Launch};
use super::super::workspace::piece;
use super::OP;
use crate::error::{Error, Result};
use crate::params::nms::MAX_BOXES;
use std::fmt;

const BLOCK: Kernel = kernel("nms_block_f32");
const SORT: Kernel = kernel("nms_sort_f32");
const MERGE: Kernel = kernel("nms_merge_keys");
const CHUNK: Kernel = kernel("nms_chunk_f32");

const fn kernel(symbol: &'static str) -> Kernel {
    Kernel {
        image: "nms",
        symbol,
    }
}

/// Every kernel of the op.
pub(in super::super) fn kernels() -> impl Iterator<Item = Kernel> {
    [BLOCK, SORT, MERGE, CHUNK].into_iter()
}

/// Threads of every block of `kernels/nms.cu`.
const THREADS: u32 = 512;
/// Boxes of an image that one block holds in registers: 10 a thread, more would spill.
const BLOCK_BOXES: usize = 10 * THREADS as usize;
/// Images are blocks in y.
const MAX_IMAGES: usize = 65_535;
/// Keys that one block sorts in 32 KiB of shared memory.
const RUN: usize = 4096;
/// Sorted boxes resolved by one launch.
const CHUNK_BOXES: usize = 1024;

/// What one call launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) images: usize,
    pub(super) boxes_per_image: usize,
    pub(super) max_output: usize,
    pub(super) route: Route,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// The boxes of an image fit on chip: one launch, a block an image.
    Block(Launch),
    /// Sorted runs in memory, merged, then resolved 1024 at a time.
    Chunks {
        sort: Launch,
        merge: Launch,
        chunk: Launch,
    },
}

impl Plan {
    /// Plans for `images` of `boxes_per_image` boxes.
    ///
    /// # Errors
    /// When one of the three is 0, for which there is nothing to launch, or there are more than 65535 images or 2^20 boxes.
    pub fn new(
        gpu: &Properties,
        images: usize,
        boxes_per_image: usize,
        max_output: usize,
    ) -> Result<Self> {
        let extents = [
            ("images", images, MAX_IMAGES),
            ("boxes", boxes_per_image, MAX_BOXES),
            ("max_output", max_output, boxes_per_image),
        ];
        for (argument, extent, most) in extents {
            if extent == 0 || extent > most {
                return Err(Error::input(
                    OP,
                    argument,
                    format!("in [1, {most}]"),
                    extent,
                ));
            }
        }
        let launch = |kernel, blocks: usize, shared_bytes: usize| Launch {
            kernel,
            grid: [blocks as u32, images as u32, 1],
            block: [THREADS, 1, 1],
            shared_bytes: shared_bytes as u32,
        };
        let route = if boxes_per_image <= BLOCK_BOXES {
            // The sort works on a power of two of 8-byte keys: 64 KiB at most.
            let mut block = launch(BLOCK, 1, 8 * boxes_per_image.next_power_of_two().max(2));
            block.grid = [images as u32, 1, 1];
            Route::Block(block)
        } else {
            let runs = boxes_per_image.div_ceil(RUN);
            // Two blocks of 512 threads fill an SM's registers; a block more would only resolve the chunk again.
            let blocks =
                (2 * gpu.multiprocessors as usize / images).clamp(1, runs * RUN / THREADS as usize);
            Route::Chunks {
                sort: launch(SORT, runs, 0),
                merge: launch(MERGE, runs * RUN / THREADS as usize, 0),
                chunk: launch(CHUNK, blocks, 0),
            }
        };
        Ok(Self {
            images,
            boxes_per_image,
            max_output,
            route,
        })
    }

    /// Keys of an image in memory: whole runs.
    fn keys(&self) -> usize {
        self.boxes_per_image.next_multiple_of(RUN)
    }

    pub(super) fn key_bytes(&self) -> usize {
        piece(8 * self.images * self.keys())
    }

    pub(super) fn chunks(&self) -> usize {
        self.keys() / CHUNK_BOXES
    }

    /// Lengths of the runs that each merging launch finds.
    pub(super) fn merges(&self) -> impl Iterator<Item = usize> {
        let keys = self.keys();
        std::iter::successors(Some(RUN), |run| Some(2 * run)).take_while(move |&run| run < keys)
    }

    /// Bytes of workspace: two buffers of keys, and a count for each chunk.
    pub fn workspace_bytes(&self) -> usize {
        match self.route {
            Route::Block(_) => 0,
            Route::Chunks { .. } => {
                2 * self.key_bytes() + piece(4 * self.images * (self.chunks() + 1))
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, boxes) = (self.images, self.boxes_per_image);
        writeln!(
            f,
            "{OP} [{images}, {boxes}], at most {} kept: {} bytes at least",
            self.max_output,
            images * (24 * boxes + 4 * self.max_output + 4)
        )?;
        match &self.route {
            Route::Block(block) => write!(
                f,
                "  {block}: a block an image, whose boxes stay in registers (at most {BLOCK_BOXES}; more spill), and \
                 8 bytes of shared memory a key of the next power of two (the sort's length)"
            ),
            Route::Chunks { sort, merge, chunk } => {
                writeln!(f, "  {sort}: runs of {RUN} keys (32 KiB of shared memory)")?;
                writeln!(
                    f,
                    "  {} x {merge}: a key a thread, each launch doubling the runs",
                    self.merges().count()
                )?;
                write!(
                    f,
                    "  {} x {chunk}: {CHUNK_BOXES} boxes a launch, two blocks a multiprocessor over all images (its \
                     registers; each block resolves the chunk for itself)",
                    self.chunks()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(boxes: usize) -> Plan {
        Plan::new(&Properties::new((9, 0), 132, 232_448), 8, boxes, 300).unwrap()
    }

    #[test]
    fn boxes_that_fit_on_chip_take_one_launch() {
        assert_eq!(
            plan(5000).to_string(),
            "nms [8, 5000], at most 300 kept: 969632 bytes at least\n  nms_block_f32 <<<[8, 1, 1], [512, 1, 1], 65536 \
             B>>>: a block an image, whose boxes stay in registers (at most 5120; more spill), and 8 bytes of shared \
             memory a key of the next power of two (the sort's length)"
        );
        assert_eq!(plan(5000).workspace_bytes(), 0);
    }

    #[test]
    fn more_boxes_are_sorted_in_memory() {
        let plan = plan(200_000);
        assert_eq!(
            plan.to_string(),
            "nms [8, 200000], at most 300 kept: 38409632 bytes at least\n  nms_sort_f32 <<<[49, 8, 1], [512, 1, 1], 0 \
             B>>>: runs of 4096 keys (32 KiB of shared memory)\n  6 x nms_merge_keys <<<[392, 8, 1], [512, 1, 1], 0 \
             B>>>: a key a thread, each launch doubling the runs\n  196 x nms_chunk_f32 <<<[33, 8, 1], [512, 1, 1], 0 \
             B>>>: 1024 boxes a launch, two blocks a multiprocessor over all images (its registers; each block \
             resolves the chunk for itself)"
        );
        assert!(plan.workspace_bytes() >= 2 * 8 * 8 * 200_704);
    }
}
