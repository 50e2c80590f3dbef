//! The XOR swizzles of shared memory, common to TMA and wgmma.

/// A swizzling mode, named by the width of the rows that it permutes.
///
/// Within a row of `span` bytes the 16-byte chunks change places: the chunk index is XORed with as
/// many bits of the row number, rows counted in units of 128 bytes of the absolute shared address
/// (PTX ISA 5.5.7). The pattern repeats every 1024, 512 and 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Swizzle {
    /// Addresses stay as they are.
    #[default]
    None,
    /// Two chunks, by address bit 7.
    B32,
    /// Four chunks, by address bits 7 and 8.
    B64,
    /// Eight chunks, by address bits 7 to 9.
    B128,
}

impl Swizzle {
    /// The swizzled address of a byte: address bits 4.. are XORed with address bits 7.. .
    ///
    /// An involution: swizzling twice gives the address back.
    pub fn apply(self, address: u32) -> u32 {
        let chunks = self.span() / 16;
        address ^ (((address >> 7) & (chunks - 1)) << 4)
    }

    /// Bytes of a swizzled row: 16 (one chunk) without swizzling, else 32, 64 or 128.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Bytes after which the pattern repeats, and to which a tile must be aligned.
    pub fn period(self) -> u32 {
        8 * self.span()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

    #[test]
    fn is_an_involution_that_keeps_the_row_and_the_byte_in_its_chunk() {
        for swizzle in ALL {
            for address in 0..4096 {
                let moved = swizzle.apply(address);
                assert_eq!(swizzle.apply(moved), address);
                assert_eq!(moved / swizzle.span(), address / swizzle.span());
                assert_eq!(moved % 16, address % 16);
            }
        }
    }

    #[test]
    fn repeats_with_its_period() {
        for swizzle in ALL {
            for address in 0..2048 {
                let period = swizzle.period();
                assert_eq!(
                    swizzle.apply(address + period),
                    swizzle.apply(address) + period
                );
            }
        }
    }

    /// Row `r` of a 128-byte swizzled tile holds chunk `c` at place `c ^ r`: eight rows of one
    /// column of chunks then cover all banks.
    #[test]
    fn permutes_chunks_by_row() {
        for row in 0..8 {
            for chunk in 0..8 {
                let at = |swizzle: Swizzle| swizzle.apply(row * 128 + chunk * 16);
                assert_eq!(at(Swizzle::B128), row * 128 + (chunk ^ row) * 16);
                assert_eq!(at(Swizzle::B64), row * 128 + (chunk ^ (row & 3)) * 16);
                assert_eq!(at(Swizzle::B32), row * 128 + (chunk ^ (row & 1)) * 16);
            }
        }
    }
}
