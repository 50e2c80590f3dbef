//! Output buffers that show what was not written, and what should not have been.

use super::compare::{Mismatch, bitwise};
use crate::dtype::Element;

/// Elements on each side of the buffer: a 16-byte store past an end of a 2-byte type touches 8.
const MARGIN: usize = 64;

/// A buffer between two margins. All of it starts as NaN (or an absurd integer), the margins with
/// other bits.
#[derive(Debug, Clone)]
pub struct Guarded<T> {
    elements: Vec<T>,
    len: usize,
    offset: usize,
}

impl<T: Element> Guarded<T> {
    /// A buffer of `len` elements that starts `shift` elements after an aligned address, `shift <
    /// 64`.
    pub fn new(len: usize, shift: usize) -> Self {
        let offset = MARGIN + shift % MARGIN;
        let mut elements = vec![canary(); offset + len + MARGIN];
        elements[offset..offset + len].fill(unwritten());
        Self {
            elements,
            len,
            offset,
        }
    }

    /// The same with these elements, for an input of any alignment.
    pub fn holding(values: &[T], shift: usize) -> Self {
        let mut guarded = Self::new(values.len(), shift);
        let range = guarded.range();
        guarded.elements[range].copy_from_slice(values);
        guarded
    }

    /// The buffer and its margins, to be copied to a device and back.
    pub fn all(&self) -> &[T] {
        &self.elements
    }

    /// Where in [`all`](Self::all) the buffer is.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }

    /// The buffer within what came back.
    ///
    /// # Errors
    /// When lengths differ or a margin was written to.
    pub fn check<'a>(&self, back: &'a [T]) -> Result<&'a [T], Mismatch> {
        let range = self.range();
        bitwise(
            &self.elements[..range.start],
            &back[..range.start.min(back.len())],
        )?;
        bitwise(
            &self.elements[range.end..],
            &back[range.end.min(back.len())..],
        )?;
        Ok(&back[range])
    }
}

/// Bits that no op writes, different from [`unwritten`].
fn canary<T: Element>() -> T {
    repeated(&[0xc5, 0x7f])
}

/// NaN as `f32`, `f16` and `bf16`; a large number as `i32`.
fn unwritten<T: Element>() -> T {
    repeated(&[0xff, 0x7f])
}

fn repeated<T: Element>(pattern: &[u8; 2]) -> T {
    let bytes = [pattern[0], pattern[1], pattern[0], pattern[1]];
    bytemuck::pod_read_unaligned(&bytes[..size_of::<T>()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn a_buffer_starts_as_nan() {
        let guarded = Guarded::<f32>::new(3, 1);
        assert!(guarded.all()[guarded.range()].iter().all(|x| x.is_nan()));
        assert!(Guarded::<f16>::new(1, 0).all()[MARGIN].is_nan());
        assert!(Guarded::<bf16>::new(1, 0).all()[MARGIN].is_nan());
    }

    #[test]
    fn a_write_beside_the_buffer_is_seen() {
        let guarded = Guarded::<f32>::new(3, 5);
        let range = guarded.range();
        let mut back = guarded.all().to_vec();
        back[range.clone()].fill(1.0);
        assert_eq!(guarded.check(&back).unwrap(), [1.0; 3]);
        for outside in [0, range.start - 1, range.end, back.len() - 1] {
            let mut overrun = back.clone();
            overrun[outside] = 0.0;
            assert!(guarded.check(&overrun).is_err(), "{outside}");
        }
        assert!(guarded.check(&back[1..]).is_err());
    }
}
