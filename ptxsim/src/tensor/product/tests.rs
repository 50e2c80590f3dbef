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
        let (mut left, mut right) = (OperandA::default(), OperandB::default());
        product.gather_a(&mut left, a_rows.iter());
        product.gather_b(&mut right, b_rows.iter());
        product.prepare_a(&mut left, false);
        product.prepare_b(&mut right, false);
        product.multiply_add(&left, &right, &mut d);
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
        Arithmetic::Float { a: Format::F16, .. } => f16::from_f32(value as f32).to_bits().into(),
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
        let a = OperandA {
            elements: vec![127; 128],
            ..OperandA::default()
        };
        let b = OperandB {
            elements: vec![127; 128],
            ..OperandB::default()
        };
        let mut d = [[i32::MAX as u32; 32]; 2];
        product.multiply_add(&a, &b, &mut d);
        assert!(d.as_flattened().iter().all(|&bits| bits as i32 == expected));
    }
}
