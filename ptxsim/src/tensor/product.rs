//! The part of a matrix product that one warp computes, on register rows.

use super::format::Format;
use super::fragment::{Place, a_position, b_position, d_position};
use super::model::{Accumulator, Model};
use super::multiply::{Columns, LANES, Rows, multiply_add};
use half::f16;

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

/// Operands of a product while it is computed; kept from one to the next to spare allocations.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Elements of A, row-major `[rows][depth]`, each in the low bits.
    pub a: Vec<u32>,
    /// Elements of B, panels of eight columns, `[columns / 8][depth][8]`.
    pub b: Vec<u32>,
    a_terms: Rows,
    b_terms: Columns,
    sums: Vec<f32>,
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

    /// Takes A from its fragment.
    pub fn gather_a<'a>(&self, scratch: &mut Scratch, registers: impl Iterator<Item = &'a Row>) {
        scratch.a.resize(self.rows * self.depth, 0);
        self.gather(registers, |place, value| {
            let (row, k) = a_position(self.rows, self.width(), place);
            scratch.a[row * self.depth + k] = value;
        });
    }

    /// Takes B from its fragment of eight columns.
    pub fn gather_b<'a>(&self, scratch: &mut Scratch, registers: impl Iterator<Item = &'a Row>) {
        scratch.b.resize(LANES * self.depth, 0);
        self.gather(registers, |place, value| {
            let (k, column) = b_position(self.width(), place);
            scratch.b[k * LANES + column] = value;
        });
    }

    #[inline(always)]
    fn gather<'a>(
        &self,
        registers: impl Iterator<Item = &'a Row>,
        mut put: impl FnMut(Place, u32),
    ) {
        let bits = self.arithmetic.element_bits();
        let mask = u32::MAX >> (32 - bits);
        for (register, row) in registers.enumerate() {
            for (lane, value) in row.iter().enumerate() {
                for element in 0..32 / bits {
                    put(
                        Place {
                            lane,
                            register,
                            element,
                        },
                        value >> (element * bits) & mask,
                    );
                }
            }
        }
    }

    /// `d += A * B` on the fragment of the accumulators, A and B taken from `scratch` and negated
    /// as asked.
    pub fn multiply_add(&self, scratch: &mut Scratch, negate: [bool; 2], d: &mut [Row]) {
        match self.arithmetic {
            Arithmetic::Float { a, b, model } => {
                scratch.a_terms.load(a, &scratch.a, self.depth, negate[0]);
                scratch.b_terms.load(b, &scratch.b, self.depth, negate[1]);
                scratch.sums.resize(self.rows * self.columns, 0.0);
                self.each_result(d, |index, bits| {
                    scratch.sums[index] = match model.accumulator {
                        Accumulator::F32 => f32::from_bits(*bits),
                        Accumulator::F16 => f16::from_bits(*bits as u16).to_f32(),
                    };
                });
                multiply_add(
                    &model,
                    &scratch.a_terms,
                    &scratch.b_terms,
                    &mut scratch.sums,
                );
                self.each_result(d, |index, bits| {
                    *bits = match model.accumulator {
                        Accumulator::F32 => scratch.sums[index].to_bits(),
                        Accumulator::F16 => u32::from(f16_bits(scratch.sums[index])),
                    };
                });
            }
            Arithmetic::Integer {
                a_signed,
                b_signed,
                saturate,
            } => {
                let extend = |signed: bool, value: u32| match signed {
                    true => i64::from(value as u8 as i8),
                    false => i64::from(value as u8),
                };
                self.each_result(d, |index, bits| {
                    let (row, column) = (index / self.columns, index % self.columns);
                    let a = &scratch.a[row * self.depth..][..self.depth];
                    let b = &scratch.b[column / LANES * self.depth * LANES..];
                    let b = b.iter().skip(column % LANES).step_by(LANES);
                    let products = a
                        .iter()
                        .zip(b)
                        .map(|(&a, &b)| extend(a_signed, a) * extend(b_signed, b));
                    let sum = i64::from(*bits as i32) + products.sum::<i64>();
                    *bits = match saturate {
                        true => sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32,
                        false => sum as u32,
                    };
                });
            }
        }
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

/// Bits of a value that f16 represents; a NaN gets the tensor cores' pattern.
fn f16_bits(value: f32) -> u16 {
    if value.is_nan() {
        0x7fff
    } else {
        f16::from_f32(value).to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Arch;

    fn float(format: Format, accumulator: Accumulator) -> Arithmetic {
        let model = Model::mma(Arch::Sm80, format, accumulator).expect("a model");
        Arithmetic::Float {
            a: format,
            b: format,
            model,
        }
    }

    /// Small integers have exact products in every format, so a plain matrix product is the
    /// expectation; it shows that fragments fit together.
    #[test]
    fn products_of_small_integers_are_exact() {
        let integer = Arithmetic::Integer {
            a_signed: true,
            b_signed: true,
            saturate: false,
        };
        for (rows, depth, arithmetic) in [
            (16, 16, float(Format::F16, Accumulator::F32)),
            (16, 8, float(Format::F16, Accumulator::F32)),
            (16, 16, float(Format::F16, Accumulator::F16)),
            (16, 8, float(Format::Bf16, Accumulator::F32)),
            (16, 16, float(Format::Bf16, Accumulator::F32)),
            (16, 4, float(Format::Tf32, Accumulator::F32)),
            (16, 8, float(Format::Tf32, Accumulator::F32)),
            (8, 16, integer),
            (16, 16, integer),
            (16, 32, integer),
        ] {
            let product = Product {
                rows,
                columns: 8,
                depth,
                arithmetic,
            };
            let a = |row: usize, k: usize| (row * 7 + k * 3) as i32 % 11 - 5;
            let b = |k: usize, column: usize| (column * 5 + k) as i32 % 7 - 3;
            let c = |row: usize, column: usize| (row + 2 * column) as i32 - 9;
            let width = product.width();
            let mut a_rows = vec![[0u32; 32]; product.a_registers()];
            let mut b_rows = vec![[0u32; 32]; product.b_registers()];
            let place = |i: usize| Place {
                lane: i / width,
                register: 0,
                element: i % width,
            };
            for i in 0..32 * width {
                for (register, words) in a_rows.iter_mut().enumerate() {
                    let p = Place {
                        register,
                        ..place(i)
                    };
                    let (row, k) = a_position(rows, width, p);
                    let bits = encode(arithmetic, a(row, k));
                    words[p.lane] |= bits << (p.element * 32 / width);
                }
                for (register, words) in b_rows.iter_mut().enumerate() {
                    let p = Place {
                        register,
                        ..place(i)
                    };
                    let (k, column) = b_position(width, p);
                    let bits = encode(arithmetic, b(k, column));
                    words[p.lane] |= bits << (p.element * 32 / width);
                }
            }
            let mut d = vec![[0u32; 32]; product.d_registers()];
            product.each_result(&mut d, |i, bits| {
                *bits = encode_d(arithmetic, c(i / 8, i % 8))
            });
            let mut scratch = Scratch::default();
            product.gather_a(&mut scratch, a_rows.iter());
            product.gather_b(&mut scratch, b_rows.iter());
            product.multiply_add(&mut scratch, [false; 2], &mut d);
            product.each_result(&mut d, |i, bits| {
                let (row, column) = (i / 8, i % 8);
                let sum: i32 = (0..depth).map(|k| a(row, k) * b(k, column)).sum();
                assert_eq!(
                    *bits,
                    encode_d(arithmetic, c(row, column) + sum),
                    "{product:?}"
                );
            });
        }
    }

    fn encode(arithmetic: Arithmetic, value: i32) -> u32 {
        match arithmetic {
            Arithmetic::Float { a: Format::F16, .. } => {
                f16::from_f32(value as f32).to_bits().into()
            }
            Arithmetic::Float {
                a: Format::Bf16, ..
            } => (value as f32).to_bits() >> 16,
            Arithmetic::Float { .. } => (value as f32).to_bits(),
            Arithmetic::Integer { .. } => value as u8 as u32,
        }
    }

    fn encode_d(arithmetic: Arithmetic, value: i32) -> u32 {
        match arithmetic {
            Arithmetic::Integer { .. } => value as u32,
            _ if arithmetic.packing() == 2 => f16::from_f32(value as f32).to_bits().into(),
            Arithmetic::Float { .. } => (value as f32).to_bits(),
        }
    }

    #[test]
    fn integers_wrap_or_saturate() {
        for (saturate, expected) in [(false, i32::MIN + 127 * 127 * 16 - 1), (true, i32::MAX)] {
            let arithmetic = Arithmetic::Integer {
                a_signed: true,
                b_signed: false,
                saturate,
            };
            let product = Product {
                rows: 8,
                columns: 8,
                depth: 16,
                arithmetic,
            };
            let mut scratch = Scratch {
                a: vec![127; 128],
                b: vec![127; 128],
                ..Scratch::default()
            };
            let mut d = [[i32::MAX as u32; 32]; 2];
            product.multiply_add(&mut scratch, [false; 2], &mut d);
            assert!(d.as_flattened().iter().all(|&bits| bits as i32 == expected));
        }
    }
}
