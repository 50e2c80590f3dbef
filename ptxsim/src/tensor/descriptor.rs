//! Matrices of `wgmma` in shared memory: the 64-bit descriptor and the canonical layouts.

use super::swizzle::Swizzle;

/// Which index neighbours in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Major {
    /// k: A is row-major, B is column-major.
    K,
    /// The other one, m of A or n of B; for 16-bit elements only.
    Mn,
}

/// A decoded matrix descriptor (PTX ISA 9.7.15.5.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the first element in the block's shared memory.
    pub start: u32,
    /// Leading dimension byte offset.
    pub leading: u32,
    /// Stride dimension byte offset.
    pub stride: u32,
    /// Offset of the swizzle pattern from its natural alignment, in units of 128 bytes.
    pub base_offset: u32,
    /// Swizzling mode.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// Splits the 64 bits: addresses and offsets are stored without their four low bits, in bits
    /// 0-13, 16-29 and 32-45; the base offset is in bits 49-51, the mode in bits 62-63.
    pub fn decode(bits: u64) -> Descriptor {
        let field = |shift: u32| ((bits >> shift) as u32 & 0x3fff) << 4;
        Descriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49) as u32 & 7,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }

    /// The bits that [`Descriptor::decode`] splits.
    pub fn encode(&self) -> u64 {
        let field = |offset: u32| u64::from((offset & 0x3_ffff) >> 4);
        let mode = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        field(self.start)
            | field(self.leading) << 16
            | field(self.stride) << 32
            | u64::from(self.base_offset & 7) << 49
            | mode << 62
    }

    /// Address of the 16-byte chunk `(row, column)` of the matrix as a grid of chunks, swizzled.
    ///
    /// K-major: `row` is m or n, `column` counts chunks along k. MN-major: `row` is k, `column` counts
    /// chunks along m or n. With `w` chunks a swizzled row, the canonical layouts are
    /// (PTX ISA 9.7.15.5.1.2.1.3, in bytes):
    ///
    /// ```text
    /// K,  none      16 * (row % 8)     + stride * (row / 8)  + leading * column
    /// K,  swizzled  16 * w * (row % 8) + stride * (row / 8)  + 16 * column
    /// MN, none      16 * (row % 8)     + leading * (row / 8) + stride * column
    /// MN, swizzled  16 * w * (row % 8) + stride * (row / 8)  + leading * (column / w) + 16 * (column % w)
    /// ```
    ///
    /// The swizzle acts on the sum, start address included: a start address advanced along k within
    /// a swizzled row stays right.
    pub fn chunk(&self, major: Major, row: u32, column: u32) -> u32 {
        let w = self.swizzle.span() / 16;
        let (stride, leading) = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => (self.stride * (row / 8), self.leading * column),
            (Major::K, _) => (self.stride * (row / 8), 16 * column),
            (Major::Mn, Swizzle::None) => (self.leading * (row / 8), self.stride * column),
            (Major::Mn, _) => (
                self.stride * (row / 8),
                self.leading * (column / w) + 16 * (column % w),
            ),
        };
        self.swizzle
            .apply(self.start + 16 * w * (row % 8) + stride + leading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(swizzle: Swizzle, leading: u32, stride: u32) -> Descriptor {
        Descriptor {
            start: 0,
            leading,
            stride,
            base_offset: 0,
            swizzle,
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let whole = Descriptor {
                start: 0x2_f3f0,
                base_offset: 5,
                ..descriptor(swizzle, 0x80, 0x400)
            };
            assert_eq!(Descriptor::decode(whole.encode()), whole);
        }
    }

    /// The worked examples of PTX ISA 9.7.15.5.1.2.1.3: the exact layout `shape:stride` in elements,
    /// and the offsets that describe it.
    #[test]
    fn agrees_with_the_examples_of_the_isa() {
        // K-major, tf32, no swizzle: ((8,2),(4,4)):((4,32),(1,64)).
        let d = descriptor(Swizzle::None, 64 * 4, 32 * 4);
        for row in 0..16 {
            for column in 0..4 {
                assert_eq!(
                    d.chunk(Major::K, row, column),
                    4 * (row % 8 * 4 + row / 8 * 32 + column * 64)
                );
            }
        }
        // K-major, tf32, 32 bytes: ((8,2),(4,4)):((8,64),(1,4)).
        let d = descriptor(Swizzle::B32, 16, 64 * 4);
        for row in 0..16 {
            for column in 0..2 {
                let plain = 4 * (row % 8 * 8 + row / 8 * 64 + column * 4);
                assert_eq!(d.chunk(Major::K, row, column), Swizzle::B32.apply(plain));
            }
        }
        // MN-major, bf16, no swizzle: ((8,1,2),(8,2)):((1,8,64),(8,128)).
        let d = descriptor(Swizzle::None, 128 * 2, 64 * 2);
        for row in 0..16 {
            for column in 0..2 {
                assert_eq!(
                    d.chunk(Major::Mn, row, column),
                    2 * (column * 64 + row % 8 * 8 + row / 8 * 128)
                );
            }
        }
        // MN-major, bf16, 32 bytes: ((8,2,2),(8,2)):((1,8,128),(16,256)).
        let d = descriptor(Swizzle::B32, 128 * 2, 256 * 2);
        for row in 0..16 {
            for column in 0..4 {
                let plain = 2 * (column % 2 * 8 + column / 2 * 128 + row % 8 * 16 + row / 8 * 256);
                assert_eq!(d.chunk(Major::Mn, row, column), Swizzle::B32.apply(plain));
            }
        }
        // MN-major, bf16, 64 bytes: ((8,4,2),(8,2)):((1,8,256),(32,512)).
        let d = descriptor(Swizzle::B64, 256 * 2, 512 * 2);
        for row in 0..16 {
            for column in 0..8 {
                let plain = 2 * (column % 4 * 8 + column / 4 * 256 + row % 8 * 32 + row / 8 * 512);
                assert_eq!(d.chunk(Major::Mn, row, column), Swizzle::B64.apply(plain));
            }
        }
    }

    /// A row-major tile of 64 bf16 a row, swizzled as TMA writes it, is read back in place by a
    /// K-major descriptor whose start moves by 32 bytes for each k of 16.
    #[test]
    fn advances_along_k_inside_a_swizzled_row() {
        for step in 0..4 {
            let d = Descriptor {
                start: 1024 + 32 * step,
                ..descriptor(Swizzle::B128, 16, 1024)
            };
            for row in 0..64 {
                for column in 0..2 {
                    let tma = Swizzle::B128.apply(1024 + row * 128 + 32 * step + 16 * column);
                    assert_eq!(d.chunk(Major::K, row, column), tma);
                }
            }
        }
    }
}
