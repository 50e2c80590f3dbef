//! The part of a matrix product that one warp computes, on register rows.

use super::format::Format;
use super::fragment::{Place, a_position, b_position, d_position};
use super::model::{Accumulator, Model};
use super::multiply::{Columns, LANES, Rows, multiply_add};
use half::f16;
use std::cell::Cell;

/// A 32-bit register in the 32 lanes of a warp.
pub type Row = [u32; 32];

/// Element types and arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arithmetic {
    /// By a tensor-core model.
    Float {
        /// Format of A.
        a: Format,
        /// Format of B.
        b: Format,
        /// The fused dot-add.
        model: Model,
    },
    /// 8-bit integers, exact, into 32 bits that wrap or saturate.
    Integer {
        /// Whether A is signed.
        a_signed: bool,
        /// Whether B is signed.
        b_signed: bool,
        /// `.satfinite`.
        saturate: bool,
    },
}

/// `D = A * B + C` with A of `rows x depth` and B of `depth x columns`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// m: 8 or 16.
    pub rows: usize,
    /// n: a multiple of 8.
    pub columns: usize,
    /// k.
    pub depth: usize,
    /// Element types.
    pub arithmetic: Arithmetic,
}

/// Matrix A: elements row-major, `[rows][depth]`, each in the low bits of a word.
#[derive(Debug, Default, Clone)]
pub struct OperandA {
    /// The elements, to be filled in before [`Product::prepare_a`].
    pub elements: Vec<u32>,
    terms: Rows,
}

/// Matrix B: elements as panels of eight columns, `[columns / 8][depth][8]`.
#[derive(Debug, Default, Clone)]
pub struct OperandB {
    /// The elements, to be filled in before [`Product::prepare_b`].
    pub elements: Vec<u32>,
    terms: Columns,
}

impl Arithmetic {
    /// Bits of an element of A and B.
    pub fn element_bits(self) -> usize {
        match self {
            Arithmetic::Float { a, .. } => a.bits() as usize,
            Arithmetic::Integer { .. } => 8,
        }
    }

    /// Elements of D in a register.
    pub fn packing(self) -> usize {
        match self {
            Arithmetic::Float {
                model:
                    Model {
                        accumulator: Accumulator::F16,
                        ..
                    },
                ..
            } => 2,
            _ => 1,
        }
    }
}

impl Product {
    /// Elements of A or B in a register.
    pub fn width(&self) -> usize {
        32 / self.arithmetic.element_bits()
    }

    /// Registers of A's fragment.
    pub fn a_registers(&self) -> usize {
        self.rows * self.depth / (32 * self.width())
    }

    /// Registers of B's fragment.
    pub fn b_registers(&self) -> usize {
        self.columns * self.depth / (32 * self.width())
    }

    /// Registers of the fragments of C and D.
    pub fn d_registers(&self) -> usize {
        self.rows * self.columns / (32 * self.arithmetic.packing())
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> u64 {
        2 * (self.rows * self.columns * self.depth) as u64
    }

    /// Takes A from its fragment. A register holds eight rows of `4 * width` neighbours in k.
    pub fn gather_a<'a>(&self, a: &mut OperandA, registers: impl Iterator<Item = &'a Row>) {
        a.elements.resize(self.rows * self.depth, 0);
        let run = 4 * self.width();
        let mut elements = [0; 128];
        for (register, row) in registers.enumerate() {
            self.unpack(row, &mut elements);
            let place = Place {
                lane: 0,
                register,
                element: 0,
            };
            let (first, k) = a_position(self.rows, self.width(), place);
            let rows = a.elements[first * self.depth..].chunks_mut(self.depth);
            for (row, elements) in rows.zip(elements.chunks_exact(run)).take(8) {
                row[k..k + run].copy_from_slice(elements);
            }
        }
    }

    /// Takes B from its fragment of eight columns. A register holds, for each column, `4 * width`
    /// neighbours in k.
    pub fn gather_b<'a>(&self, b: &mut OperandB, registers: impl Iterator<Item = &'a Row>) {
        b.elements.resize(LANES * self.depth, 0);
        let run = 4 * self.width();
        let mut elements = [0; 128];
        for (register, row) in registers.enumerate() {
            self.unpack(row, &mut elements);
            let place = Place {
                lane: 0,
                register,
                element: 0,
            };
            let (first, _) = b_position(self.width(), place);
            let panel = &mut b.elements[first * LANES..][..run * LANES];
            for (k, columns) in panel.chunks_exact_mut(LANES).enumerate() {
                for (column, element) in columns.iter_mut().enumerate() {
                    *element = elements[column * run + k];
                }
            }
        }
    }

    /// Elements of a register: those of lane 0 first, each lane's from the low bits up.
    fn unpack(&self, row: &Row, elements: &mut [u32; 128]) {
        match self.width() {
            1 => elements[..32].copy_from_slice(row),
            2 => {
                for (pair, word) in elements.chunks_exact_mut(2).zip(row) {
                    (pair[0], pair[1]) = (word & 0xffff, word >> 16);
                }
            }
            _ => {
                for (four, word) in elements.chunks_exact_mut(4).zip(row) {
                    four.copy_from_slice(&word.to_le_bytes().map(u32::from));
                }
            }
        }
    }

    /// Makes A's elements ready for [`Product::multiply_add`], negated where asked.
    pub fn prepare_a(&self, a: &mut OperandA, negate: bool) {
        if let Arithmetic::Float { a: format, .. } = self.arithmetic {
            a.terms.load(format, &a.elements, self.depth, negate);
        }
    }

    /// Makes B's elements ready for [`Product::multiply_add`], negated where asked.
    pub fn prepare_b(&self, b: &mut OperandB, negate: bool) {
        if let Arithmetic::Float { b: format, .. } = self.arithmetic {
            b.terms.load(format, &b.elements, self.depth, negate);
        }
    }

    /// `d += A * B` on the fragment of the accumulators; both operands are prepared.
    pub fn multiply_add(&self, a: &OperandA, b: &OperandB, d: &mut [Row]) {
        match self.arithmetic {
            Arithmetic::Float { model, .. } => self.float(&model, a, b, d),
            Arithmetic::Integer {
                a_signed,
                b_signed,
                saturate,
            } => {
                self.integer([a_signed, b_signed], saturate, a, b, d);
            }
        }
    }

    fn float(&self, model: &Model, a: &OperandA, b: &OperandB, d: &mut [Row]) {
        let mut sums = SUMS.take();
        sums.resize(self.rows * self.columns, 0.0);
        self.each_result(d, |index, bits| {
            sums[index] = match model.accumulator {
                Accumulator::F32 => f32::from_bits(*bits),
                Accumulator::F16 => f16::from_bits(*bits as u16).to_f32(),
            };
        });
        multiply_add(model, &a.terms, &b.terms, &mut sums);
        self.each_result(d, |index, bits| {
            *bits = match model.accumulator {
                Accumulator::F32 => sums[index].to_bits(),
                Accumulator::F16 => u32::from(f16_bits(sums[index])),
            };
        });
        SUMS.set(sums);
    }

    fn integer(
        &self,
        signed: [bool; 2],
        saturate: bool,
        a: &OperandA,
        b: &OperandB,
        d: &mut [Row],
    ) {
        let extend = |signed: bool, value: u32| match signed {
            true => i64::from(value as u8 as i8),
            false => i64::from(value as u8),
        };
        self.each_result(d, |index, bits| {
            let (row, column) = (index / self.columns, index % self.columns);
            let a = &a.elements[row * self.depth..][..self.depth];
            let b = &b.elements[column / LANES * self.depth * LANES..];
            let b = b.iter().skip(column % LANES).step_by(LANES);
            let products = a
                .iter()
                .zip(b)
                .map(|(&a, &b)| extend(signed[0], a) * extend(signed[1], b));
            let sum = i64::from(*bits as i32) + products.sum::<i64>();
            *bits = match saturate {
                true => sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32,
                false => sum as u32,
            };
        });
    }

    /// Calls `f` with the row-major index and the bits of each element of D.
    #[inline(always)]
    fn each_result(&self, d: &mut [Row], mut f: impl FnMut(usize, &mut u32)) {
        let packing = self.arithmetic.packing();
        for (register, row) in d.iter_mut().enumerate() {
            for (lane, word) in row.iter_mut().enumerate() {
                if packing == 1 {
                    let (row, column) = d_position(
                        1,
                        Place {
                            lane,
                            register,
                            element: 0,
                        },
                    );
                    f(row * self.columns + column, word);
                    continue;
                }
                let mut halves = [*word & 0xffff, *word >> 16];
                for (element, half) in halves.iter_mut().enumerate() {
                    let (row, column) = d_position(
                        2,
                        Place {
                            lane,
                            register,
                            element,
                        },
                    );
                    f(row * self.columns + column, half);
                }
                *word = halves[0] | halves[1] << 16;
            }
        }
    }
}

thread_local! {
    /// Accumulators of the product at hand; kept from one to the next to spare allocations.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Bits of a value that f16 represents; a NaN gets the tensor cores' pattern.
fn f16_bits(value: f32) -> u16 {
    if value.is_nan() {
        0x7fff
    } else {
        f16::from_f32(value).to_bits()
    }
}

#[cfg(test)]
mod tests;
