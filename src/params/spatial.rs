//! Scalars of pooling and resizing.

use crate::error::{Error, Result};

/// Scalars of a [two-dimensional maximum pooling](crate::ops::max_pool2d()).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Rows and columns of a window. At least 1.
    pub kernel: usize,
    /// Rows and columns from one window to the next. At least 1.
    pub stride: usize,
    /// Rows and columns around the image that windows may reach. At most half of the kernel, so that
    /// every window holds a pixel.
    pub padding: usize,
}

impl MaxPool2d {
    /// Checks the scalars, and returns the extents of the output of an image of `extents`.
    pub(crate) fn output_extents(&self, extents: [usize; 2]) -> Result<[usize; 2]> {
        const OP: &str = "max_pool2d";
        /// The kernels count rows and columns in 31 bits.
        const LIMIT: usize = 1 << 15;
        let Self {
            kernel,
            stride,
            padding,
        } = *self;
        for (argument, value) in [("kernel", kernel), ("stride", stride)] {
            if !(1..=LIMIT).contains(&value) {
                return Err(Error::input(
                    OP,
                    argument,
                    "at least 1 and at most 2^15",
                    value,
                ));
            }
        }
        if padding > kernel / 2 {
            let rule = format!("at most half of the kernel's {kernel}");
            return Err(Error::input(OP, "padding", rule, padding));
        }
        for extent in extents {
            if extent + 2 * padding < kernel || extent == 0 {
                let rule = format!("at least {kernel} rows and columns with its padding");
                return Err(Error::input(OP, "x", rule, extent + 2 * padding));
            }
        }
        Ok(extents.map(|extent| (extent + 2 * padding - kernel) / stride + 1))
    }
}

/// Scalars of a [bilinear resizing](crate::ops::resize_bilinear()).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeBilinear {
    /// Rows of the result. At least 1.
    pub height: usize,
    /// Columns of the result. At least 1.
    pub width: usize,
    /// Whether a result that is smaller than the image is the mean of all that it covers.
    pub antialias: bool,
}

impl ResizeBilinear {
    /// Checks the scalars for an image of `extents`.
    pub(crate) fn check(&self, extents: [usize; 2]) -> Result<()> {
        const OP: &str = "resize_bilinear";
        /// The kernel's products of extents fit 63 bits, and twice an extent 31.
        const LIMIT: usize = 1 << 29;
        let rule = "at least 1 and at most 2^29";
        for (argument, value) in [
            ("height", self.height),
            ("width", self.width),
            ("rows of x", extents[0]),
            ("columns of x", extents[1]),
        ] {
            if !(1..=LIMIT).contains(&value) {
                return Err(Error::input(OP, argument, rule, value));
            }
        }
        Ok(())
    }
}
