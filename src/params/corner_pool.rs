//! Directions and layouts of corner pooling.

use crate::error::{Error, Result};
use std::str::FromStr;

/// Which way [corner pooling](crate::ops::corner_pool) looks from each cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Down, so that an object's top edge is found: the maximum over `y' >= y`.
    Top,
    /// Up: the maximum over `y' <= y`.
    Bottom,
    /// To the right, so that an object's left edge is found: the maximum over `x' >= x`.
    Left,
    /// To the left: the maximum over `x' <= x`.
    Right,
}

impl Direction {
    /// The scan starts at the end of the axis.
    pub fn from_end(self) -> bool {
        matches!(self, Direction::Top | Direction::Left)
    }

    /// The scan runs along `H`.
    pub fn is_vertical(self) -> bool {
        matches!(self, Direction::Top | Direction::Bottom)
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "top" => Ok(Direction::Top),
            "bottom" => Ok(Direction::Bottom),
            "left" => Ok(Direction::Left),
            "right" => Ok(Direction::Right),
            _ => Err(format!("must be top, bottom, left or right, got `{name}`")),
        }
    }
}

/// The corner that a [pair of corner pools](crate::ops::corner_pool_pair) finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Corner {
    /// [`Direction::Top`] and [`Direction::Left`].
    TopLeft,
    /// [`Direction::Bottom`] and [`Direction::Right`].
    BottomRight,
}

impl Corner {
    /// How the vertical map is pooled.
    pub fn vertical(self) -> Direction {
        match self {
            Corner::TopLeft => Direction::Top,
            Corner::BottomRight => Direction::Bottom,
        }
    }

    /// How the horizontal map is pooled.
    pub fn horizontal(self) -> Direction {
        match self {
            Corner::TopLeft => Direction::Left,
            Corner::BottomRight => Direction::Right,
        }
    }
}

impl FromStr for Corner {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "top_left" => Ok(Corner::TopLeft),
            "bottom_right" => Ok(Corner::BottomRight),
            _ => Err(format!("must be top_left or bottom_right, got `{name}`")),
        }
    }
}

/// Order of a feature map's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[B, H, W, C]`, this crate's own.
    #[default]
    ChannelsLast,
    /// `[B, C, H, W]`, PyTorch's.
    ChannelsFirst,
}

/// A contiguous map as a corner pool sees it: `outer` blocks of `length` steps of `inner` elements.
///
/// Each of the `outer * inner` columns is scanned by itself. Step `s` of the scan is position `s` of
/// the axis, or `length - 1 - s` where the scan starts at the end.
///
/// # Bits
///
/// Where the forward pass records for the backward, step `8 g + j` of column `(o, i)` is bit `j` of
/// byte `(o * ceil(length / 8) + g) * inner + i`: 1 where the step is a new maximum. The bytes lie
/// in [`bit_words`](Scan::bit_words) `i32` words, little end first; unused bits are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Extent of the axis.
    pub length: usize,
    /// Product of the extents after the axis.
    pub inner: usize,
    /// Whether the scan starts at the end of the axis.
    pub from_end: bool,
}

impl Scan {
    /// The scan of a map of four extents in the order of `layout`.
    pub fn new(shape: [usize; 4], direction: Direction, layout: Layout) -> Self {
        let axis = match (layout, direction.is_vertical()) {
            (Layout::ChannelsLast, true) => 1,
            (Layout::ChannelsLast, false) | (Layout::ChannelsFirst, true) => 2,
            (Layout::ChannelsFirst, false) => 3,
        };
        Self {
            outer: shape[..axis].iter().product(),
            length: shape[axis],
            inner: shape[axis + 1..].iter().product(),
            from_end: direction.from_end(),
        }
    }

    /// Elements of the map.
    pub fn elements(&self) -> usize {
        self.outer * self.length * self.inner
    }

    /// Bytes of the bits along one column.
    pub fn groups(&self) -> usize {
        self.length.div_ceil(8)
    }

    /// `i32` words that hold the bits.
    pub fn bit_words(&self) -> usize {
        (self.outer * self.groups() * self.inner).div_ceil(4)
    }

    /// Fails where the element count, or that of the bits, does not fit an address.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let fits = [self.outer, self.inner]
            .into_iter()
            .try_fold(self.length.max(8), |product, extent| {
                product.checked_mul(extent)
            })
            .is_some_and(|elements| elements <= 1 << 48);
        if fits {
            return Ok(());
        }
        let value = format!("{} * {} * {}", self.outer, self.length, self.inner);
        Err(Error::input(op, "elements", "at most 2^48", value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_finds_its_axis() {
        let scan = |direction, layout| Scan::new([2, 3, 5, 7], direction, layout);
        let parts = |scan: Scan| (scan.outer, scan.length, scan.inner, scan.from_end);
        use {Direction::*, Layout::*};
        assert_eq!(parts(scan(Top, ChannelsLast)), (2, 3, 35, true));
        assert_eq!(parts(scan(Right, ChannelsLast)), (6, 5, 7, false));
        assert_eq!(parts(scan(Bottom, ChannelsFirst)), (6, 5, 7, false));
        assert_eq!(parts(scan(Left, ChannelsFirst)), (30, 7, 1, true));
        assert_eq!(scan(Top, ChannelsLast).bit_words(), 18);
        assert!(
            Scan {
                outer: usize::MAX,
                ..scan(Top, ChannelsLast)
            }
            .check("corner_pool")
            .is_err()
        );
    }
}
