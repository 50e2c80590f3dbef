//! The types that instructions compute in, and how they lie in registers.

use super::registers::{File, Registers, Source};
use crate::program::decoder::{Decoder, Unsupported};
use crate::program::slots::FileKind;
use crate::ptx::ast::Operand;

/// A register's representation: `u32` for registers of up to 32 bits, `u64` for 64-bit ones.
pub trait Word: Copy + Default + std::ops::BitAnd<Output = Self> + Send + Sync + 'static {
    /// The file that holds such registers.
    const FILE: FileKind;
    /// Decodes a source of this width.
    ///
    /// # Errors
    /// For an operand of another width.
    fn source(decoder: &Decoder<'_>, operand: &Operand) -> Result<Source<Self>, Unsupported>;
    /// The file that holds such registers.
    fn file(registers: &Registers) -> &File<Self>;
    /// The file that holds such registers.
    fn file_mut(registers: &mut Registers) -> &mut File<Self>;
}

impl Word for u32 {
    const FILE: FileKind = FileKind::Word;
    fn source(decoder: &Decoder<'_>, operand: &Operand) -> Result<Source<u32>, Unsupported> {
        decoder.source32(operand)
    }
    #[inline(always)]
    fn file(registers: &Registers) -> &File<u32> {
        &registers.words
    }
    #[inline(always)]
    fn file_mut(registers: &mut Registers) -> &mut File<u32> {
        &mut registers.words
    }
}

impl Word for u64 {
    const FILE: FileKind = FileKind::Long;
    fn source(decoder: &Decoder<'_>, operand: &Operand) -> Result<Source<u64>, Unsupported> {
        decoder.source64(operand)
    }
    #[inline(always)]
    fn file(registers: &Registers) -> &File<u64> {
        &registers.longs
    }
    #[inline(always)]
    fn file_mut(registers: &mut Registers) -> &mut File<u64> {
        &mut registers.longs
    }
}

/// A type of an instruction.
///
/// Types narrower than 32 bits lie in the low bits of a `u32`. Reading ignores the bits above them;
/// writing clears them.
pub trait Value: Copy + 'static {
    /// Its register.
    type Word: Word;
    /// Reads it from a register.
    fn from_word(word: Self::Word) -> Self;
    /// Writes it to a register.
    fn to_word(self) -> Self::Word;
}

macro_rules! value {
    ($($ty:ty, $word:ty, $from:expr, $to:expr;)*) => {$(
        impl Value for $ty {
            type Word = $word;
            #[inline(always)]
            fn from_word(word: $word) -> $ty {
                ($from)(word)
            }
            #[inline(always)]
            fn to_word(self) -> $word {
                ($to)(self)
            }
        }
    )*};
}
value! {
    u8, u32, |w| w as u8, u32::from;
    i8, u32, |w| w as i8, |v| u32::from(v as u8);
    u16, u32, |w| w as u16, u32::from;
    i16, u32, |w| w as i16, |v| u32::from(v as u16);
    u32, u32, |w| w, |v| v;
    i32, u32, |w| w as i32, |v| v as u32;
    f32, u32, f32::from_bits, f32::to_bits;
    u64, u64, |w| w, |v| v;
    i64, u64, |w| w as i64, |v| v as u64;
    f64, u64, f64::from_bits, f64::to_bits;
}
