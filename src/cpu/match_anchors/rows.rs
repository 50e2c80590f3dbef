//! Rows of anchors, and their overlaps with a box.

use crate::params::{AnchorLevel, Anchors};
use std::ops::Range;

/// Anchors of one task: enough to hide a task's cost, few enough to share out a small level.
const TASK: usize = 1 << 13;

/// A box that takes part.
pub(super) struct Target {
    pub(super) index: i32,
    pub(super) corners: [f32; 4],
    pub(super) area: f32,
}

/// Some rows of cells of a level.
pub(super) struct Band<'a> {
    level: &'a AnchorLevel,
    pub(super) rows: Range<usize>,
    /// Left and right sides of the anchors of a row.
    x1: Vec<f32>,
    x2: Vec<f32>,
    /// The widest shape of a cell.
    widest: usize,
}

pub(super) fn bands(anchors: &Anchors) -> Vec<Band<'_>> {
    anchors.levels().iter().flat_map(bands_of).collect()
}

fn bands_of(level: &AnchorLevel) -> Vec<Band<'_>> {
    let [height, width] = level.grid;
    let in_row = width * level.half_sizes.len();
    let rows = (TASK / in_row.max(1)).max(1);
    let sides = |side: usize| -> Vec<f32> { (0..in_row).map(|i| level.anchor(i)[side]).collect() };
    let wider = |&a: &usize, &b: &usize| level.half_sizes[a][0].total_cmp(&level.half_sizes[b][0]);
    let band = |first: usize| Band {
        level,
        rows: first..height.min(first + rows),
        x1: sides(0),
        x2: sides(2),
        widest: (0..level.half_sizes.len()).max_by(wider).unwrap_or(0),
    };
    // A level without columns has no rows to look at.
    let height = if in_row == 0 { 0 } else { height };
    (0..height).step_by(rows).map(band).collect()
}

/// One row of cells: the sides of its anchors.
pub(super) struct Row<'a> {
    x1: &'a [f32],
    x2: &'a [f32],
    y1: Vec<f32>,
    y2: Vec<f32>,
    /// The highest and the lowest of these.
    top: f32,
    bottom: f32,
}

impl Row<'_> {
    pub(super) fn part(&self, range: Range<usize>) -> Part<'_> {
        Part([self.x1, self.x2, &self.y1, &self.y2].map(|sides| &sides[range.clone()]))
    }
}

/// Some anchors of a row: their left, right, upper and lower sides, slices of one length.
pub(super) struct Part<'a>([&'a [f32]; 4]);

impl Band<'_> {
    /// Anchors of a row.
    pub(super) fn width(&self) -> usize {
        self.x1.len()
    }

    pub(super) fn anchors(&self) -> usize {
        self.rows.len() * self.width()
    }

    pub(super) fn row(&self, y: usize) -> Row<'_> {
        let shapes = self.level.half_sizes.len();
        let first = y * self.x1.len();
        let side = |side: usize| -> Vec<f32> {
            (0..shapes)
                .map(|a| self.level.anchor(first + a)[side])
                .collect()
        };
        let (y1, y2) = (side(1), side(3));
        Row {
            x1: &self.x1,
            x2: &self.x2,
            top: y1.iter().copied().fold(f32::INFINITY, f32::min),
            bottom: y2.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            y1: y1.repeat(self.level.grid[1]),
            y2: y2.repeat(self.level.grid[1]),
        }
    }

    /// Where in a row anchors may meet these corners: whole cells. None where the row lies above or below.
    pub(super) fn reach(&self, row: &Row<'_>, corners: [f32; 4]) -> Range<usize> {
        let shapes = self.level.half_sizes.len();
        if !(corners[3] > row.top && corners[1] < row.bottom) {
            return 0..0;
        }
        // Sides grow along a row, so cells that may meet are neighbours.
        let cells = self.level.grid[1];
        let below = |right: bool| {
            let (mut low, mut high) = (0, cells);
            while low < high {
                let middle = (low + high) / 2;
                let at = middle * shapes + self.widest;
                let before = if right {
                    row.x1[at] < corners[2]
                } else {
                    row.x2[at] <= corners[0]
                };
                if before {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            low
        };
        let (first, last) = (below(false), below(true));
        first * shapes..last.max(first) * shapes
    }
}

/// Calls a function compiled for AVX2 where the processor has it. Both forms do the same operations.
macro_rules! widest {
    ($avx2:ident, $plain:ident, $($argument:expr),*) => {{
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just found to have AVX2, which is all that the function asks for.
            return unsafe { $avx2($($argument),*) };
        }
        $plain($($argument),*)
    }};
}

impl Part<'_> {
    /// Notes the overlaps with a box where they are larger, and returns the bits of the largest: those of floats that are
    /// not negative are in their order.
    pub(super) fn meet(&self, target: &Target, best: &mut [f32], matched: &mut [i32]) -> u32 {
        widest!(meet_avx2, meet, self, target, best, matched)
    }

    pub(super) fn mark(&self, target: &Target, peak: f32, flags: &mut [i32]) {
        widest!(mark_avx2, mark, self, target, peak, flags)
    }

    /// The first `n`, so that the compiler sees one length and tests no index.
    #[inline(always)]
    fn first(&self, n: usize) -> Part<'_> {
        Part(self.0.map(|sides| &sides[..n]))
    }

    /// The overlap in the reference's order of operations. Sides that do not meet give 0.
    #[inline(always)]
    fn overlap(&self, i: usize, target: &Target) -> f32 {
        let [left, right, top, bottom] = self.0.map(|sides| sides[i]);
        let [x1, y1, x2, y2] = target.corners;
        let least = |a: f32, b: f32| if a < b { a } else { b };
        let most = |a: f32, b: f32| if a > b { a } else { b };
        let width = most(least(x2, right) - most(x1, left), 0.0);
        let height = most(least(y2, bottom) - most(y1, top), 0.0);
        let intersection = width * height;
        let area = (right - left) * (bottom - top);
        most(intersection / (target.area + area - intersection), 0.0)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn meet_avx2(part: &Part<'_>, target: &Target, best: &mut [f32], matched: &mut [i32]) -> u32 {
    meet(part, target, best, matched)
}

#[inline(always)]
fn meet(part: &Part<'_>, target: &Target, best: &mut [f32], matched: &mut [i32]) -> u32 {
    let part = part.first(best.len());
    let mut peak = 0;
    for (i, (best, matched)) in best.iter_mut().zip(matched).enumerate() {
        let value = part.overlap(i, target);
        let larger = value > *best;
        *best = if larger { value } else { *best };
        *matched = if larger { target.index } else { *matched };
        peak = peak.max(value.to_bits());
    }
    peak
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mark_avx2(part: &Part<'_>, target: &Target, peak: f32, flags: &mut [i32]) {
    mark(part, target, peak, flags);
}

#[inline(always)]
fn mark(part: &Part<'_>, target: &Target, peak: f32, flags: &mut [i32]) {
    let part = part.first(flags.len());
    for (i, flag) in flags.iter_mut().enumerate() {
        *flag |= i32::from(part.overlap(i, target) == peak);
    }
}
